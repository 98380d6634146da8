//! `/v1/chat/completions`: repeats the last message of the user.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Refusal, Request, StreamOptions, usage};
use super::text::{limited, tokens};
use super::{Answered, Shared, unix_now};

#[derive(Deserialize)]
pub(super) struct Chat {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Option<Content>,
}

/// A text, or parts of which some are texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

impl Message {
    fn text(&self) -> String {
        match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => {
                parts.iter().filter_map(|part| part.text.as_deref()).collect()
            }
        }
    }
}

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Request(request): Request<Chat>,
) -> Answered {
    let in_flight = answer::begin(&shared, &request.model)?;
    let from_user = |message: &&Message| message.role == "user";
    let Some(last) = request.messages.iter().rfind(from_user).or(request.messages.last()) else {
        return Err(Refusal::invalid("messages must not be empty"));
    };
    let text = last.text();
    let limit = request.max_completion_tokens.or(request.max_tokens);
    let (reply, finish_reason) = limited(&text, limit);
    let prompt: usize = request.messages.iter().map(|message| tokens(&message.text()).len()).sum();
    let usage = usage(prompt, reply.len());
    let id = format!("chatcmpl-{}", in_flight.number);
    let created = unix_now();

    if !request.stream {
        answer::write(&in_flight, reply.len()).await;
        return Ok(Json(json!({
            "id": id, "object": "chat.completion", "created": created, "model": request.model,
            "choices": [{
                "index": 0, "message": { "role": "assistant", "content": reply.concat() },
                "logprobs": null, "finish_reason": finish_reason,
            }],
            "usage": usage,
        }))
        .into_response());
    }

    let include_usage = request.stream_options.is_some_and(|options| options.include_usage);
    let chunk = |choices: Value, usage: &Value| {
        let mut chunk = json!({
            "id": id, "object": "chat.completion.chunk", "created": created,
            "model": request.model, "choices": choices,
        });
        // As OpenAI: with `include_usage`, every chunk has the field, and the last one the value.
        if include_usage {
            chunk["usage"] = usage.clone();
        }
        chunk
    };
    let delta = |delta: Value, finish_reason: Option<&str>| {
        let choice = json!([{ "index": 0, "delta": delta, "finish_reason": finish_reason }]);
        chunk(choice, &Value::Null)
    };
    let mut events = vec![(false, delta(json!({ "role": "assistant", "content": "" }), None))];
    events.extend(reply.iter().map(|token| (true, delta(json!({ "content": token }), None))));
    events.push((false, delta(json!({}), Some(finish_reason))));
    if include_usage {
        events.push((false, chunk(json!([]), &usage)));
    }
    Ok(answer::stream(in_flight, events))
}
