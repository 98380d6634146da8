//! `/v1/chat/completions`: repeats the last message of the user.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Event, Refusal, Request, StreamOptions, usage};
use super::message::{self, Message};
use super::text::limited;
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

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Request(request): Request<Chat>,
) -> Answered {
    let in_flight = answer::begin(&shared, &request.model)?;
    let text = message::asked(&request.messages)
        .ok_or_else(|| Refusal::invalid("messages must not be empty"))?;
    let limit = request.max_completion_tokens.or(request.max_tokens);
    let (reply, finish_reason) = limited(&text, limit);
    let texts = message::texts(&request.messages);
    let prompt = shared.read(&request.model, texts.iter().map(String::as_str));
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
        // As at OpenAI: with `include_usage`, each chunk has the field, and the last one the value.
        if include_usage {
            chunk["usage"] = usage.clone();
        }
        chunk
    };
    let delta = |delta: Value, finish_reason: Option<&str>| {
        let choice = json!([{ "index": 0, "delta": delta, "finish_reason": finish_reason }]);
        chunk(choice, &Value::Null)
    };
    let mut events = vec![Event::data(&delta(json!({ "role": "assistant", "content": "" }), None))];
    let token = |token: &&str| Event::data(&delta(json!({ "content": token }), None)).token();
    events.extend(reply.iter().map(token));
    events.push(Event::data(&delta(json!({}), Some(finish_reason))));
    if include_usage {
        events.push(Event::data(&chunk(json!([]), &usage)));
    }
    events.push(Event::done());
    Ok(answer::stream(in_flight, events))
}
