//! An axum app of one's own: a middleware picks the scope of each caller by its key, and a gate
//! opens and closes the route for that scope.
//!
//! ```text
//! cargo run -p dynamo-http --example gate
//! ```
//!
//! The app is asked without a port here. Any server serves it: `dynamo_http::serve`, `axum::serve`.

#![expect(clippy::print_stdout, reason = "it is a program")]

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Json, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use dynamo_discovery::{Gone, Instance, Key, Kind, ModelEntry, ModelUpdate};
use dynamo_http::{
    ApiError, GateLayer, Lens, ModelNames, Sight, Switchboard, update_http_endpoints,
};
use dynamo_namespace::NamespaceScope;
use http::StatusCode;
use http::header::AUTHORIZATION;
use serde_json::Value;
use tower::ServiceExt as _;

/// What the bearer of each key sees.
type Keys = Arc<HashMap<&'static str, Lens>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let scopes = [
        NamespaceScope::from_target(Some("team-a"))?,
        NamespaceScope::from_target(Some("team-b"))?,
    ];
    let (switchboard, mut writer) = Switchboard::new(scopes.clone());
    let [team_a, team_b] = scopes.map(|scope| Lens::from(switchboard.live_view(&scope)));
    let keys: Keys = Arc::new(HashMap::from([
        ("key-of-team-a", team_a.clone()),
        // A key for some of the models of team-a.
        ("key-of-the-intern", team_a.with_names(ModelNames::new(["small-*"])?)),
        ("key-of-team-b", team_b),
    ]));
    // The gate answers 503 before the body is read. It is inside of the middleware, since the
    // middleware puts the lens into the request.
    let app = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route_layer(GateLayer::per_caller(Kind::Chat))
        .layer(from_fn_with_state(keys, pick_lens));

    println!("before the first list of models:");
    ask_with_each_key(&app).await?;

    println!("team-a has a model:");
    let large = instance("large-model", "http://192.0.2.5:8001")?;
    writer.stage_ready();
    update_http_endpoints(&mut writer, &[ModelUpdate::Added(large.clone())]);
    ask_with_each_key(&app).await?;

    println!("team-a has a small model as well:");
    let small = instance("small-model", "http://192.0.2.6:8001")?;
    update_http_endpoints(&mut writer, &[ModelUpdate::Added(small)]);
    ask_with_each_key(&app).await?;

    println!("the large model is gone:");
    update_http_endpoints(&mut writer, &[ModelUpdate::Removed(large, Gone::Withdrawn)]);
    ask_with_each_key(&app).await
}

/// Puts what the bearer of the key sees into the request. The gate and the handler see no more.
async fn pick_lens(State(keys): State<Keys>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = header.and_then(|value| value.strip_prefix("Bearer "));
    let Some(lens) = key.and_then(|key| keys.get(key)) else {
        let message = "The API key is not valid.";
        return ApiError::new(StatusCode::UNAUTHORIZED, message).into_response();
    };
    request.extensions_mut().insert(lens.clone());
    next.run(request).await
}

/// Finds a server of the model, as a proxy of one's own would. The sight is the one under which the
/// gate let the request in, so the model cannot go in between.
async fn chat(sight: Sight, Json(body): Json<Value>) -> Result<String, ApiError> {
    let name = body["model"].as_str().unwrap_or_default();
    let model = sight.model(name).ok_or_else(|| {
        let message = format!("The model '{name}' does not exist.");
        ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found")
    })?;
    let url = model.urls(Kind::Chat).next().map_or("no server", |url| url.as_str());
    Ok(format!("served by {url}"))
}

fn instance(model: &str, url: &str) -> Result<Arc<Instance>, Box<dyn Error>> {
    let endpoint = "team-a.backend.generate".parse()?;
    let entry = ModelEntry::new(model, endpoint, Kind::Chat.into())?.with_url(url.parse()?);
    Ok(Arc::new(Instance::new(Key::from(format!("models/{model}")), None, entry)))
}

async fn ask_with_each_key(app: &Router) -> Result<(), Box<dyn Error>> {
    for key in ["key-of-team-a", "key-of-the-intern", "key-of-team-b", "no-key-at-all"] {
        let request = Request::post("/v1/chat/completions")
            .header(AUTHORIZATION, format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(Body::from(r#"{"model":"large-model","messages":[]}"#))?;
        let response = app.clone().oneshot(request).await?;
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 64 * 1024).await?;
        println!("  {key}: {status} {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}
