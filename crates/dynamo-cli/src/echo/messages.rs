//! `/v1/messages`: repeats the last message of the user, in Anthropic's dialect.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Event, Refusal, Request};
use super::message::{self, Content, Message};
use super::text::limited;
use super::{Answered, Shared};

#[derive(Deserialize)]
pub(super) struct Asked {
    model: String,
    messages: Vec<Message>,
    system: Option<Content>,
    #[serde(default)]
    stream: bool,
    max_tokens: Option<usize>,
}

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    request: Result<Request<Asked>, Refusal>,
) -> Response {
    let answered = match request {
        Ok(Request(request)) => repeat(&shared, request).await,
        Err(refusal) => Err(refusal),
    };
    answered.unwrap_or_else(|refusal| refused(&refusal))
}

async fn repeat(shared: &Arc<Shared>, request: Asked) -> Answered {
    let in_flight = answer::begin(shared, &request.model)?;
    let text = message::asked(&request.messages)
        .ok_or_else(|| Refusal::invalid("messages must not be empty"))?;
    let system = request.system.map(|system| system.text());
    let texts = message::texts(&request.messages);
    let prompt = system.iter().chain(&texts).map(String::as_str);
    let input = shared.read(&request.model, prompt);
    let (reply, finish) = limited(&text, request.max_tokens);
    let stop_reason = if finish == "stop" { "end_turn" } else { "max_tokens" };
    let message = |content: Value, stop_reason: Option<&str>, output: usize| {
        json!({
            "id": format!("msg_{}", in_flight.number), "type": "message", "role": "assistant",
            "model": request.model, "content": content, "stop_reason": stop_reason,
            "stop_sequence": null, "usage": {
                // In this dialect what was cached is counted apart.
                "input_tokens": input.tokens - input.cached,
                "cache_read_input_tokens": input.cached, "output_tokens": output,
            },
        })
    };

    if !request.stream {
        answer::write(&in_flight, reply.len()).await;
        let content = json!([{ "type": "text", "text": reply.concat() }]);
        return Ok(Json(message(content, Some(stop_reason), reply.len())).into_response());
    }

    let token = |text: &&str| {
        let delta = json!({ "type": "text_delta", "text": text });
        event("content_block_delta", json!({ "index": 0, "delta": delta })).token()
    };
    let mut events = vec![
        event("message_start", json!({ "message": message(json!([]), None, 0) })),
        event(
            "content_block_start",
            json!({ "index": 0, "content_block": { "type": "text", "text": "" } }),
        ),
    ];
    events.extend(reply.iter().map(token));
    events.push(event("content_block_stop", json!({ "index": 0 })));
    let end = json!({
        "delta": { "stop_reason": stop_reason, "stop_sequence": null },
        "usage": { "output_tokens": reply.len() },
    });
    events.push(event("message_delta", end));
    events.push(event("message_stop", json!({})));
    Ok(answer::stream(in_flight, events))
}

/// An event; in this dialect, its data has its name as well.
fn event(name: &str, mut data: Value) -> Event {
    data["type"] = name.into();
    Event::named(name, &data)
}

fn refused(refusal: &Refusal) -> Response {
    let kind = match refusal.status {
        StatusCode::NOT_FOUND => "not_found_error",
        _ => "invalid_request_error",
    };
    let error = json!({ "type": kind, "message": refusal.message });
    (refusal.status, Json(json!({ "type": "error", "error": error }))).into_response()
}
