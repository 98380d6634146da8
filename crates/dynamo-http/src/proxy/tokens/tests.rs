//! Tests of the tokens of a stream: the habits of engines, and what a client that did not ask sees.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::proxy::stage::Stage;

/// The content events and the usage of a stream that comes in these pieces, and what passes.
fn read(stage: &mut Stage<Tokens>, pieces: &[&[u8]]) -> (u64, Usage, String) {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&stage.pass(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&stage.finish());
    (stage.reader().content(), stage.reader().usage(), String::from_utf8(out).unwrap())
}

/// Reads a stream cut at every byte, and byte by byte: nothing may depend on that.
fn observe(route: Route, stream: &str) -> (u64, Usage) {
    let stage = || Stage::watching(Tokens::new(route, false));
    let (content, usage, out) = read(&mut stage(), &[stream.as_bytes()]);
    assert_eq!(out, stream);
    for cut in 0..=stream.len() {
        let (one, other) = stream.as_bytes().split_at(cut);
        let again = read(&mut stage(), &[one, other]);
        assert_eq!(again, (content, usage, stream.to_owned()), "cut at {cut}");
    }
    let single: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
    assert_eq!(read(&mut stage(), &single), (content, usage, stream.to_owned()));
    (content, usage)
}

fn told(input: u64, cached: Option<u64>, output: u64) -> Usage {
    Usage { input: Some(input), cached, output: Some(output) }
}

fn chunk(delta: &str, rest: &str) -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]{rest}}}"#
    )
}

const ROLE: &str = r#"{"role":"assistant","content":""}"#;
const LAST: &str = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// A chat of two tokens, with the event of its usage or without.
fn chat(usage: bool) -> String {
    [
        event(&chunk(ROLE, "")),
        event(&chunk(r#"{"content":"Hel"}"#, "")),
        event(&chunk(r#"{"content":"lo \"usage\""}"#, "")),
        event(r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#),
        if usage { event(LAST) } else { String::new() },
        event("[DONE]"),
    ]
    .concat()
}

#[test]
fn the_usage_is_in_the_last_chunk_and_the_role_is_no_content() {
    assert_eq!(observe(Route::ChatCompletions, &chat(true)), (2, told(9, None, 2)));
    assert_eq!(observe(Route::ChatCompletions, &chat(false)), (2, Usage::default()));
}

#[test]
fn reasoning_and_tool_calls_are_content_and_empty_or_null_members_are_not() {
    for (delta, is_content) in [
        (r#"{"reasoning_content":"hm"}"#, true),
        (r#"{"reasoning":"hm","content":null}"#, true),
        (
            r#"{"content":null,"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}"#,
            true,
        ),
        (r#"{"content": "x"}"#, true),
        (r#"{"content": ""}"#, false),
        (r#"{"content":null,"tool_calls":[ ],"reasoning_content":null}"#, false),
        ("{}", false),
    ] {
        let (content, _) = observe(Route::ChatCompletions, &event(&chunk(delta, "")));
        assert_eq!(content, u64::from(is_content), "{delta}");
    }
}

#[test]
fn a_running_usage_is_taken_from_the_last_chunk_that_has_one() {
    // vLLM's continuous_usage_stats.
    let running = |output: u64| {
        let usage = format!(
            r#","usage":{{"prompt_tokens":9,"completion_tokens":{output},"total_tokens":1}}"#
        );
        event(&chunk(r#"{"content":"x"}"#, &usage))
    };
    let cut_off = [running(1), running(2), running(3)].concat();
    assert_eq!(observe(Route::ChatCompletions, &cut_off), (3, told(9, None, 3)));
}

#[test]
fn a_usage_of_null_tells_nothing() {
    // mistral.rs: null in each chunk but the last, which has content as well.
    let null = event(&chunk(r#"{"content":"x"}"#, r#","usage": null"#));
    let last = event(&chunk(
        r#"{"content":"y"}"#,
        r#","usage":{"prompt_tokens":9,"completion_tokens":2}"#,
    ));
    assert_eq!(observe(Route::ChatCompletions, &null), (1, Usage::default()));
    let stream = [null, last, event("[DONE]")].concat();
    assert_eq!(observe(Route::ChatCompletions, &stream), (2, told(9, None, 2)));
}

#[test]
fn the_usage_of_completions_is_read_where_text_is_content() {
    let stream = [
        event(r#"{"choices":[{"index":0,"text":"a"}]}"#),
        event(r#"{"choices":[{"index":0,"text":"","finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#),
    ]
    .concat();
    assert_eq!(observe(Route::Completions, &stream), (1, told(9, None, 1)));
}

#[test]
fn responses_tell_their_usage_in_the_event_that_ends_them() {
    for end in ["completed", "incomplete", "failed"] {
        let stream = format!(
            "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"usage\":null}}}}\n\n\
             event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"a\"}}\n\n\
             event: response.function_call_arguments.delta\ndata: {{\"type\":\"response.function_call_arguments.delta\",\"delta\":\"b\"}}\n\n\
             event: response.output_text.done\ndata: {{\"type\":\"response.output_text.done\",\"text\":\"a\"}}\n\n\
             event: response.{end}\ndata: {{\"type\":\"response.{end}\",\"response\":{{\"output\":[],\"usage\":{{\"input_tokens\":9,\"input_tokens_details\":{{\"cached_tokens\":8}},\"output_tokens\":2}}}}}}\n\n"
        );
        assert_eq!(observe(Route::Responses, &stream), (2, told(9, Some(8), 2)), "{end}");
    }
}

#[test]
fn messages_tell_their_input_first_and_their_output_in_the_end() {
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1,\"cache_read_input_tokens\":8,\"output_tokens\":1}}}\n\n\
         event: ping\ndata: {\"type\": \"ping\"}\n\n\
         event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n\
         event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":7}}\n\n\
         event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    assert_eq!(observe(Route::Messages, stream), (1, told(9, Some(8), 7)));
}

#[test]
fn line_ends_comments_blanks_and_several_lines_of_data_make_no_difference() {
    let expected = (2, told(9, None, 2));
    let plain = chat(true);
    for stream in [
        plain.replace('\n', "\r\n"),
        plain.replace('\n', "\r"),
        plain.replace("data: ", "data:"),
        format!("\u{feff}{plain}"),
        plain.replace("data: ", ": ping\n\ndata: "),
        plain.replace("data: ", ": ping\nid: 7\nretry: 9\ndata: "),
        plain.replace(",\"usage\":", ",\ndata: \"usage\":\ndata:   "),
        plain.replace("data: [DONE]\n\n", ""),
        plain.replace(
            "data: [DONE]\n\n",
            "data: {\"error\":{\"message\":\"usage\",\"code\":500}}\n\n",
        ),
        plain.replace("\n\ndata: [DONE]\n\n", ""),
        plain.replace("data: [DONE]\n\n", "data: [DONE]"),
        format!("{plain}{}", event(r#"{"usage":"none"}"#)),
        format!("{plain}{}", event(r#"{"usage":{"#)),
    ] {
        assert_eq!(observe(Route::ChatCompletions, &stream), expected, "{stream}");
    }
    let first = format!("\u{feff}{}", event(LAST));
    assert_eq!(observe(Route::ChatCompletions, &first), (0, told(9, None, 2)));
}

#[test]
fn bytes_that_are_no_text_are_passed_and_tell_nothing() {
    let stream = [b"data: {\"usage\":\xff}\n\n".as_slice(), event(LAST).as_bytes()].concat();
    let mut stage = Stage::watching(Tokens::new(Route::ChatCompletions, false));
    assert_eq!(stage.pass(Bytes::from(stream.clone())), stream);
    assert_eq!(stage.reader().usage(), told(9, None, 2));
}

#[test]
fn only_the_event_that_the_client_did_not_ask_for_is_taken_out() {
    let ask = |stream: &str| {
        let mut stage = Stage::editing(Tokens::new(Route::ChatCompletions, true));
        read(&mut stage, &[stream.as_bytes()])
    };
    let (content, usage, out) = ask(&chat(true));
    assert_eq!((content, usage, out), (2, told(9, None, 2), chat(false)));
    let null = event(&chunk(r#"{"content":"x"}"#, r#","usage":null"#));
    assert_eq!(ask(&null).2, event(&chunk(r#"{"content":"x"}"#, "")));
    for kept in [
        event(&chunk(r#"{"content":"x"}"#, r#","usage":{"prompt_tokens":9}"#)),
        event(r#"{"a":[{"usage":null}]}"#),
        event(r#"{"choices":[],"prompt_filter_results":[{"usage":{"prompt_tokens":9}}]}"#),
        event(r#"{"choices":[],"usage":{"prompt_tokens":9"#),
        event(r#"{"usage":{"prompt_tokens":9}}"#),
    ] {
        assert_eq!(ask(&kept).2, kept);
    }
    assert_eq!(ask(&event(r#"{"choices":[ ],"usage":{"prompt_tokens":9}}"#)).2, "");
}

#[test]
fn an_event_is_glanced_over_only_if_nothing_but_the_text_of_its_content_is_new() {
    let content = |text: &str| event(&chunk(&format!(r#"{{"content":"{text}"}}"#), ""));
    let mut tokens = Tokens::new(Route::ChatCompletions, false);
    assert_eq!(tokens.glance(content("a").as_bytes()), 0);
    tokens.event(content("a").as_bytes());
    for text in ["b", "usage", r#"\"usage\":1"#, r"\n\\", "ü"] {
        let known = content(text);
        let before = tokens.content();
        let both = [&known[..], &content("x")].concat();
        for more in ["", "data", "data: [DONE]\n\n", &content("")] {
            let data = [&both[..], more].concat();
            assert_eq!(tokens.glance(data.as_bytes()), both.len(), "{text} {more}");
        }
        assert_eq!((tokens.content(), tokens.usage()), (before + 8, Usage::default()));
    }
    let long = "x".repeat(Known::MOST + 1);
    let other = event(&chunk(r#"{"content":"x"}"#, r#","usage":{"prompt_tokens":9}"#));
    for unknown in [
        content(""),
        content("\r\r"),
        content("\\\n\n"),
        content(&long),
        content("a").replace("\n\n", "\r\n\r\n"),
        content("a").trim_end().to_owned(),
        content("a").replace("null", "\"stop\""),
        other,
    ] {
        let before = tokens.content();
        assert_eq!(tokens.glance(unknown.as_bytes()), 0, "{unknown}");
        assert_eq!(tokens.content(), before);
        let behind = [&content("a")[..], &unknown].concat();
        assert_eq!(tokens.glance(behind.as_bytes()), behind.len() - unknown.len(), "{unknown}");
    }
}

proptest! {
    #[test]
    fn a_client_that_did_not_ask_sees_the_bytes_of_an_engine_that_was_not_asked(
        contents in proptest::collection::vec("[a-z\"\\\\ üé]{0,6}", 0..6),
        extras in proptest::collection::vec(
            prop::sample::select(vec!["", ": ping\n\n", "event: x\n", "id: 1\r\n", "\n"]), 6..7),
        line_end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        done in prop::sample::select(vec!["data: [DONE]\n\n", "data: [DONE]", "data:[DONE]\n\n", ""]),
        place in 0_usize..6,
        nulls in any::<bool>(),
        cuts in proptest::collection::vec(1_usize..200, 1..20),
    ) {
        let mut events: Vec<String> = contents
            .iter()
            .zip(&extras)
            .map(|(content, extra)| {
                let delta = serde_json::json!({ "content": content }).to_string();
                format!("{extra}{}", event(&chunk(&delta, "")))
            })
            .collect();
        events.push(done.to_owned());
        let without = events.concat().replace("\r\n", "\n").replace('\n', line_end);
        events.insert(place.min(events.len() - 1), event(LAST));
        let mut with = events.concat().replace("\r\n", "\n").replace('\n', line_end);
        if nulls {
            with = with.replace(r#""finish_reason":null}]}"#, r#""finish_reason":null}],"usage":null}"#);
        }

        let check = |pieces: &[&[u8]]| {
            let mut stage = Stage::editing(Tokens::new(Route::ChatCompletions, true));
            let (_, usage, out) = read(&mut stage, pieces);
            prop_assert_eq!(out, &without[..]);
            prop_assert_eq!(usage, told(9, None, 2));
            Ok(())
        };
        for cut in 0..=with.len() {
            let (one, other) = with.as_bytes().split_at(cut);
            check(&[one, other])?;
        }
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut rest = with.as_bytes();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, later) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = later;
        }
        check(&pieces)?;
    }
}

#[test]
fn the_bytes_of_content_are_weighed_where_they_are_asked_for() {
    let weigh = |route, stream: &str| {
        let mut stage = Stage::watching(Tokens::new(route, false).weighing());
        read(&mut stage, &[stream.as_bytes()]);
        let single: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        let mut again = Stage::watching(Tokens::new(route, false).weighing());
        read(&mut again, &single);
        assert_eq!(again.reader().bytes(), stage.reader().bytes());
        stage.reader().bytes()
    };
    let text = |text: &str| event(&chunk(&format!(r#"{{"content":"{text}"}}"#), ""));
    let chats = [text("four"), text("and"), text(&"x".repeat(1000)), text("more")].concat();
    assert_eq!(weigh(Route::ChatCompletions, &chats), 1011);
    assert_eq!(weigh(Route::ChatCompletions, &chat(true)), 3 + r#"lo \"usage\""#.len() as u64);
    let call = r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\""}}]}"#;
    assert_eq!(weigh(Route::ChatCompletions, &event(&chunk(call, ""))), 9);
    let delta = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"four"}}"#;
    assert_eq!(weigh(Route::Messages, &event(delta)), 4);
    let delta = r#"{"type": "response.output_text.delta", "delta": "three"}"#;
    assert_eq!(weigh(Route::Responses, &event(delta)), 5);

    let mut stage = Stage::watching(Tokens::new(Route::ChatCompletions, false));
    read(&mut stage, &[chats.as_bytes()]);
    assert_eq!(stage.reader().bytes(), 0);
}
