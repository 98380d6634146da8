//! The models that an engine lists.

use std::collections::HashSet;
use std::time::Duration;

use dynamo_discovery::{Accepts, RequestField, check_model_name};
use http::StatusCode;
use serde::Deserialize;

use super::client::Client;

/// More than that is no list of models.
const MOST_MODELS: usize = 1000;

/// A model as its engine lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedModel {
    pub(crate) name: String,
    pub(crate) context_length: Option<u64>,
    /// Whether it is an adapter (LoRA) of another model of the engine.
    pub(crate) is_adapter: bool,
    /// The optional fields of requests that the engine is known to accept.
    pub(crate) accepts: Accepts,
}

/// Reads `/v1/models`.
pub(super) async fn read(client: &Client, timeout: Duration) -> Result<Vec<ListedModel>, String> {
    let asked = client.asked("/v1/models");
    let answer = client.get("/v1/models", timeout).await;
    let answer = answer.map_err(|error| format!("{error}, from {asked}"))?;
    match answer.status {
        StatusCode::OK => parse(&answer.body).map_err(|why| format!("{asked} {why}")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(format!("{} from {asked}: the engine wants a key", answer.status.as_u16()))
        }
        status => Err(format!("{} from {asked}", status.as_u16())),
    }
}

#[derive(Deserialize)]
struct List {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    /// vLLM and SGLang.
    max_model_len: Option<serde_json::Value>,
    /// llama.cpp.
    meta: Option<serde_json::Value>,
    /// vLLM and SGLang: an adapter names the model that it adapts.
    parent: Option<serde_json::Value>,
    /// The engine, with those that leave it as it is.
    owned_by: Option<serde_json::Value>,
}

/// What engines accept, by what they say in `owned_by`. Each takes unknown fields as well, but only the
/// fields that it acts on count. Priorities are left out: vLLM refuses them unless it is started for
/// them.
const ACCEPTS: [(&str, &[RequestField]); 4] = [
    ("vllm", &[RequestField::IncludeUsage]),
    ("sglang", &[RequestField::IncludeUsage]),
    ("llamacpp", &[RequestField::IncludeUsage]),
    ("echo", &[RequestField::IncludeUsage]),
];

impl Model {
    fn accepts(&self) -> Accepts {
        let owner = self.owned_by.as_ref().and_then(|owner| owner.as_str());
        let known = ACCEPTS.iter().find(|(engine, _)| Some(*engine) == owner);
        known.map_or(Accepts::NONE, |(_, fields)| fields.iter().copied().collect())
    }
}

fn parse(body: &[u8]) -> Result<Vec<ListedModel>, String> {
    let list: List =
        serde_json::from_slice(body).map_err(|_| "is not a list of models in JSON".to_owned())?;
    let mut seen = HashSet::new();
    Ok(list
        .data
        .into_iter()
        .filter(|model| match check_model_name(&model.id) {
            Ok(()) => seen.insert(model.id.clone()),
            Err(error) => {
                tracing::debug!(%error, "a listed model is left out");
                false
            }
        })
        .take(MOST_MODELS)
        .map(|model| ListedModel {
            accepts: model.accepts(),
            context_length: model
                .max_model_len
                .and_then(|length| length.as_u64())
                .or_else(|| model.meta?.get("n_ctx")?.as_u64())
                .filter(|length| *length > 0),
            is_adapter: model.parent.is_some_and(|parent| parent.is_string()),
            name: model.id,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, context_length: Option<u64>) -> ListedModel {
        let accepts = Accepts::NONE;
        ListedModel { name: name.into(), context_length, is_adapter: false, accepts }
    }

    #[test]
    fn an_engine_is_known_by_the_owner_of_its_models() {
        for (owner, expected) in [
            (r#""vllm""#, "include_usage"),
            (r#""sglang""#, "include_usage"),
            (r#""llamacpp""#, "include_usage"),
            (r#""echo""#, "include_usage"),
            (r#""me""#, ""),
            ("null", ""),
            ("7", ""),
        ] {
            let body = format!(r#"{{"data":[{{"id":"m","owned_by":{owner}}}]}}"#);
            assert_eq!(parse(body.as_bytes()).unwrap()[0].accepts.to_string(), expected, "{owner}");
        }
    }

    #[test]
    fn context_lengths_are_read_where_engines_tell_them() {
        let body = br#"{"object":"list","models":[{"name":"x"}],"data":[
            {"id":"vllm","object":"model","max_model_len":32768,"root":"/m","permission":[]},
            {"id":"/models/llama.gguf","meta":{"n_ctx":4096,"n_params":1}},
            {"id":"plain","created":1,"meta":null,"max_model_len":null},
            {"id":"odd","max_model_len":"many","meta":[]}]}"#;
        assert_eq!(
            parse(body).unwrap(),
            [
                listed("vllm", Some(32768)),
                listed("/models/llama.gguf", Some(4096)),
                listed("plain", None),
                listed("odd", None),
            ]
        );
    }

    #[test]
    fn an_adapter_names_the_model_that_it_adapts() {
        let body = br#"{"data":[{"id":"base","parent":null},{"id":"lora","parent":"base"}]}"#;
        let adapters = parse(body).unwrap().into_iter().map(|model| model.is_adapter);
        assert_eq!(adapters.collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_model_that_is_listed_twice_or_cannot_be_shown_counts_once_or_not_at_all() {
        let body = br#"{"data":[{"id":"a"},{"id":"a"},{"id":""},{"id":"a\u202eb"},{"id":"b"}]}"#;
        assert_eq!(parse(body).unwrap(), [listed("a", None), listed("b", None)]);
    }

    #[test]
    fn what_is_no_list_is_an_error_and_an_empty_list_is_none() {
        for body in ["", "[]", "{}", "no models", r#"{"data":{}}"#] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
        assert_eq!(parse(br#"{"data":[]}"#), Ok(vec![]));
    }
}
