//! `/v1/completions`: repeats the prompt.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Event, Request, StreamOptions, usage};
use super::cache::Read;
use super::text::limited;
use super::{Answered, Shared, unix_now};

#[derive(Deserialize)]
pub(super) struct Completion {
    model: String,
    prompt: Prompt,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    One(String),
    Many(Vec<String>),
}

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Request(request): Request<Completion>,
) -> Answered {
    let in_flight = answer::begin(&shared, &request.model)?;
    let prompts = match request.prompt {
        Prompt::One(prompt) => vec![prompt],
        Prompt::Many(prompts) => prompts,
    };
    let replies: Vec<_> =
        prompts.iter().map(|prompt| limited(prompt, request.max_tokens)).collect();
    let read: Vec<_> = prompts
        .iter()
        .map(|prompt| shared.read(&request.model, [prompt.as_str()].into_iter()))
        .collect();
    let prompt = Read {
        tokens: read.iter().map(|one| one.tokens).sum(),
        cached: read.iter().map(|one| one.cached).sum(),
    };
    let written = replies.iter().map(|(reply, _)| reply.len()).sum();
    let usage = usage(prompt, written);
    let id = format!("cmpl-{}", in_flight.number);
    let created = unix_now();
    let choice = |index: usize, text: &str, finish_reason: Option<&str>| json!({ "index": index, "text": text, "logprobs": null, "finish_reason": finish_reason });
    let completion = |choices: Vec<Value>| {
        json!({
            "id": id, "object": "text_completion", "created": created, "model": request.model,
            "choices": choices,
        })
    };
    let indexed = || replies.iter().enumerate();

    if !request.stream {
        answer::write(&in_flight, written).await;
        let choices =
            indexed().map(|(index, (reply, why))| choice(index, &reply.concat(), Some(why)));
        let mut whole = completion(choices.collect());
        whole["usage"] = usage;
        return Ok(Json(whole).into_response());
    }

    let include_usage = request.stream_options.is_some_and(|options| options.include_usage);
    let chunk = |choices: Vec<Value>, usage: &Value| {
        let mut chunk = completion(choices);
        if include_usage {
            chunk["usage"] = usage.clone();
        }
        chunk
    };
    let mut events = Vec::with_capacity(written + replies.len() + 2);
    for (index, (reply, finish_reason)) in indexed() {
        let event =
            |text: &str, why| Event::data(&chunk(vec![choice(index, text, why)], &Value::Null));
        events.extend(reply.iter().map(|token| event(token, None).token()));
        events.push(event("", Some(finish_reason)));
    }
    if include_usage {
        events.push(Event::data(&chunk(vec![], &usage)));
    }
    events.push(Event::done());
    Ok(answer::stream(in_flight, events))
}
