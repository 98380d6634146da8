//! How streams end, and where a break can be told.

use http::StatusCode;
use proptest::prelude::*;

use super::*;

fn lost(route: Route) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, "lost").with_code("c").with_shape(route.error_shape())
}

fn told(route: Route, passed: &[&str]) -> Option<String> {
    let mut stream = EventStream::new(route, false);
    for data in passed {
        stream.pass(data.as_bytes());
    }
    stream.broken(&lost(route)).map(|event| String::from_utf8(event.to_vec()).unwrap())
}

#[test]
fn each_route_tells_a_break_in_its_own_dialect() {
    let passed = ["data: {}\n\n"];
    for route in [Route::ChatCompletions, Route::Completions] {
        assert_eq!(
            told(route, &passed).unwrap(),
            "data: {\"error\":{\"code\":\"c\",\"message\":\"lost\",\"param\":null,\"type\":\"server_error\"}}\n\n"
        );
    }
    assert_eq!(
        told(Route::Messages, &passed).unwrap(),
        "event: error\ndata: {\"error\":{\"message\":\"lost\",\"type\":\"api_error\"},\"type\":\"error\"}\n\n"
    );
    let counted = ["data: {\"sequence_number\": 41}\n\n", "data: {\"x\":1}\n\n"];
    assert_eq!(
        told(Route::Responses, &counted).unwrap(),
        "event: error\ndata: {\"code\":\"c\",\"message\":\"lost\",\"param\":null,\"sequence_number\":42,\"type\":\"error\"}\n\n"
    );
    assert_eq!(told(Route::AudioSpeech, &passed), None);
}

#[test]
fn nothing_is_put_into_the_middle_of_an_event() {
    let route = Route::ChatCompletions;
    for passed in [["data: {"].as_slice(), &["data: {}\n"], &["a\n\n", "b"], &["a\r\n", "\r"]] {
        assert_eq!(told(route, passed), None, "{passed:?}");
    }
    for passed in [[].as_slice(), &["a\n", "\n"], &["a\r\n\r", "\n"], &["a\r", "\r"]] {
        assert!(told(route, passed).is_some(), "{passed:?}");
    }
}

#[test]
fn only_a_close_delimited_stream_needs_its_end_marker() {
    for (route, marker) in [
        (Route::ChatCompletions, "data: [DONE]\n\n"),
        (Route::Responses, "event: response.completed\n"),
        (Route::Messages, "event: message_stop\n"),
    ] {
        assert!(EventStream::new(route, false).may_end());
        let mut stream = EventStream::new(route, true);
        stream.pass(b"data: x\n\n");
        assert!(!stream.may_end());
        stream.pass(marker.as_bytes());
        stream.pass(b"\n");
        assert!(stream.may_end());
    }
    assert!(EventStream::new(Route::AudioSpeech, true).may_end());
}

proptest! {
    #[test]
    fn where_the_pieces_are_cut_does_not_matter(
        text in "(data: [a-z]{0,9}\n\n|\"sequence_number\":[0-9]{1,4}\n){0,6}",
        end in any::<bool>(),
        cuts in proptest::collection::vec(1_usize..20, 1..20),
    ) {
        let text = format!("{text}{}", if end { "data: [DONE]\n\n" } else { "" });
        for route in [Route::ChatCompletions, Route::Responses] {
            let mut whole = EventStream::new(route, true);
            whole.pass(text.as_bytes());
            let mut pieces = EventStream::new(route, true);
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                pieces.pass(piece);
                rest = later;
            }
            prop_assert_eq!(pieces.may_end(), whole.may_end());
            let (pieces, whole) = (pieces.broken(&lost(route)), whole.broken(&lost(route)));
            prop_assert_eq!(pieces.is_some(), whole.is_some());
        }
    }
}
