//! `/v1/responses`: repeats the last message of the user, in the dialect of OpenAI's responses.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Event, Refusal, Request};
use super::message::{self, Message};
use super::text::limited;
use super::{Answered, Shared, unix_now};

#[derive(Deserialize)]
pub(super) struct Asked {
    model: String,
    input: Input,
    instructions: Option<String>,
    #[serde(default)]
    stream: bool,
    max_output_tokens: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Message>),
}

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Request(request): Request<Asked>,
) -> Answered {
    let in_flight = answer::begin(&shared, &request.model)?;
    let (text, texts) = match &request.input {
        Input::Text(text) => (text.clone(), vec![text.clone()]),
        Input::Items(items) => {
            let text =
                message::asked(items).ok_or_else(|| Refusal::invalid("input must not be empty"))?;
            (text, message::texts(items))
        }
    };
    let prompt =
        request.instructions.as_deref().into_iter().chain(texts.iter().map(String::as_str));
    let input = shared.read(&request.model, prompt);
    let (reply, finish) = limited(&text, request.max_output_tokens);
    let status = if finish == "stop" { "completed" } else { "incomplete" };
    let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [] });
    let item = |status: &str, content: &[Value]| {
        json!({
            "id": format!("msg_{}", in_flight.number), "type": "message", "status": status,
            "role": "assistant", "content": content,
        })
    };
    let created = unix_now();
    let response = |status: &str, output: &[Value], usage: Value| {
        let incomplete = json!({ "reason": "max_output_tokens" });
        json!({
            "id": format!("resp_{}", in_flight.number), "object": "response",
            "created_at": created, "model": request.model, "status": status, "output": output,
            "usage": usage, "error": null, "instructions": request.instructions,
            "incomplete_details": (status == "incomplete").then_some(incomplete),
            "max_output_tokens": request.max_output_tokens, "metadata": {},
            "parallel_tool_calls": true, "temperature": null, "tool_choice": "auto", "tools": [],
            "top_p": null,
        })
    };
    let written = part(&reply.concat());
    let said = item(status, std::slice::from_ref(&written));
    let usage = json!({
        "input_tokens": input.tokens, "input_tokens_details": { "cached_tokens": input.cached },
        "output_tokens": reply.len(), "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": input.tokens + reply.len(),
    });
    let whole = response(status, std::slice::from_ref(&said), usage);

    if !request.stream {
        answer::write(&in_flight, reply.len()).await;
        return Ok(Json(whole).into_response());
    }

    let begun = response("in_progress", &[], Value::Null);
    let place =
        json!({ "item_id": said["id"], "output_index": 0, "content_index": 0, "logprobs": [] });
    let mut events = Numbered::default();
    events.push("response.created", json!({ "response": begun }));
    events.push("response.in_progress", json!({ "response": begun }));
    let opened = item("in_progress", &[]);
    events.push("response.output_item.added", json!({ "output_index": 0, "item": opened }));
    events.push("response.content_part.added", with(&place, "part", part("")));
    for token in &reply {
        events.push_token("response.output_text.delta", with(&place, "delta", json!(token)));
    }
    let text = written["text"].clone();
    events.push("response.output_text.done", with(&place, "text", text));
    events.push("response.content_part.done", with(&place, "part", written));
    events.push("response.output_item.done", json!({ "output_index": 0, "item": said }));
    events.push(&format!("response.{status}"), json!({ "response": whole }));
    Ok(answer::stream(in_flight, events.0))
}

fn with(place: &Value, name: &str, value: Value) -> Value {
    let mut data = place.clone();
    data[name] = value;
    data
}

/// Events whose data have the event's name and its number in the stream.
#[derive(Default)]
struct Numbered(Vec<Event>);

impl Numbered {
    fn push(&mut self, name: &str, data: Value) {
        let event = self.next(name, data);
        self.0.push(event);
    }

    fn push_token(&mut self, name: &str, data: Value) {
        let event = self.next(name, data).token();
        self.0.push(event);
    }

    fn next(&self, name: &str, mut data: Value) -> Event {
        data["type"] = name.into();
        data["sequence_number"] = self.0.len().into();
        Event::named(name, &data)
    }
}
