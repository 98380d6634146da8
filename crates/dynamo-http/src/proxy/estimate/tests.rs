//! What requests are estimated at.

use serde_json::{Value, json};

use super::*;
use crate::placement::Seed;
use crate::proxy::peek::peek_and;

/// The estimated tokens of the prompt and of the answers of a body, with a path and without.
fn estimate(body: &Value) -> (u64, u64) {
    let text = body.to_string();
    let mut output = Output::default();
    let peeked =
        peek_and(text.as_bytes(), |name, value| output.read(name, value)).expect("a valid body");
    let prompt = &peeked.prompt;
    let rest = [prompt.system, prompt.instructions, prompt.input].map(str::as_bytes);
    let path = Path::of(Seed::of([]), prompt.tools.as_bytes(), rest);
    let without = input(prompt, None, text.as_bytes());
    let has_prompt = path.text() > 0;
    assert!(!has_prompt || input(prompt, Some(&path), text.as_bytes()) == without, "{text}");
    (without, output.tokens())
}

#[test]
fn four_bytes_of_text_are_a_token() {
    let text = "x".repeat(4000);
    let raw = |value: &Value| value.to_string().len() as u64 / 4;
    let prompt = json!(text);
    assert_eq!(estimate(&json!({"model": "m", "prompt": prompt})).0, raw(&prompt));
    let messages = json!([{"role": "user", "content": text}]);
    assert_eq!(estimate(&json!({"model": "m", "messages": messages})).0, raw(&messages));
    // Tools and instructions are part of the prompt; other members are not.
    let tools = json!([{"type": "function", "function": {"name": text}}]);
    let body = json!({"model": "m", "input": "a", "instructions": text, "tools": tools, "x": text});
    assert_eq!(estimate(&body).0, (3 + 4002 + tools.to_string().len() as u64) / 4);
}

#[test]
fn base64_is_no_text_and_each_image_or_file_counts_once() {
    let data = "QUJD".repeat(100_000);
    let url = format!("data:image/png;base64,{data}");
    let inline = json!([{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "what is \"type\":\"image\" in this?"},
    ]}]);
    let (tokens, _) = estimate(&json!({"model": "m", "messages": inline}));
    assert!((1000..1100).contains(&tokens), "{tokens}");
    let source = json!({"type": "base64", "media_type": "image/png", "data": data});
    let anthropic = json!([{"role": "user", "content": [{"type": "image", "source": source}]}]);
    let (tokens, _) = estimate(&json!({"model": "m", "messages": anthropic}));
    assert!((1000..1100).contains(&tokens), "{tokens}");
    // One that the engine fetches is an image as well.
    let fetched = json!([{"role": "user", "content": [
        {"type": "input_image", "image_url": "https://192.0.2.1/a.png"},
        {"type": "input_file", "file_id": "f-1"},
    ]}]);
    let (tokens, _) = estimate(&json!({"model": "m", "input": fetched}));
    assert!((2000..2100).contains(&tokens), "{tokens}");
}

#[test]
fn ids_of_tokens_are_counted_one_by_one() {
    assert_eq!(estimate(&json!({"model": "m", "prompt": [1, 20_000, 3]})).0, 3);
    assert_eq!(estimate(&json!({"model": "m", "input": [[1, 2], [3], [4, 5]]})).0, 5);
    // A list of texts is text, also where it begins with a number.
    let mixed = json!([[1], "x".repeat(400)]);
    assert!(estimate(&json!({"model": "m", "prompt": mixed})).0 > 100);
    assert!(estimate(&json!({"model": "m", "prompt": ["12", "13"]})).0 < 4);
    assert_eq!(estimate(&json!({"model": "m", "prompt": []})).0, 0);
}

#[test]
fn a_body_without_a_known_prompt_counts_as_a_whole() {
    let body = json!({"model": "m", "query": "q", "documents": ["x".repeat(4000)]});
    assert_eq!(estimate(&body).0, body.to_string().len() as u64 / 4);
}

#[test]
fn the_longest_answer_asked_for_is_reserved_for_each_choice() {
    let output = |more: Value| {
        let mut body = json!({"model": "m", "messages": []});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        estimate(&body).1
    };
    assert_eq!(output(json!({})), 1024);
    assert_eq!(output(json!({"max_tokens": 7})), 7);
    assert_eq!(output(json!({"max_tokens": 7, "max_completion_tokens": 9, "n": 3})), 27);
    assert_eq!(output(json!({"max_output_tokens": 100_000})), 8192);
    assert_eq!(output(json!({"max_tokens": null, "n": null})), 1024);
    assert_eq!(output(json!({"max_tokens": -1, "n": 0})), 1024);
    assert_eq!(output(json!({"max_tokens": "7", "n": 1.5})), 1024);
    assert_eq!(output(json!({"max_tokens": u64::MAX, "n": u64::MAX})), u64::MAX);
}
