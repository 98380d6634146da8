//! How many requests an engine has, from its page of metrics.

use std::time::Duration;

use http::StatusCode;

use super::client::Client;

/// The requests of an engine at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Those that it generates for.
    pub(crate) running: u64,
    /// Those that wait in its queue.
    pub(crate) waiting: u64,
}

/// An engine's gauges, by the name of the engine.
const GAUGES: [(&str, &str, &str); 4] = [
    ("vllm", "num_requests_running", "num_requests_waiting"),
    ("sglang", "num_running_reqs", "num_queue_reqs"),
    ("llamacpp", "requests_processing", "requests_deferred"),
    ("echo", "requests_running", "requests_waiting"),
];

/// Reads `/metrics`; nothing where there is no such page, or none of an engine that is known.
pub(super) async fn read(client: &Client, timeout: Duration) -> Option<Load> {
    let answer = client.get("/metrics", timeout).await.ok()?;
    (answer.status == StatusCode::OK).then(|| parse(&answer.body))?
}

fn parse(page: &[u8]) -> Option<Load> {
    let page = std::str::from_utf8(page).ok()?;
    GAUGES.iter().find_map(|(engine, running, waiting)| {
        let (mut load, mut is_there) = (Load { running: 0, waiting: 0 }, false);
        for line in page.lines() {
            // A page of OpenMetrics has no colon in a name.
            let Some(line) =
                line.strip_prefix(engine).and_then(|rest| rest.strip_prefix([':', '_']))
            else {
                continue;
            };
            if let Some(requests) = value(line, running) {
                load.running = load.running.saturating_add(requests);
                is_there = true;
            } else if let Some(requests) = value(line, waiting) {
                load.waiting = load.waiting.saturating_add(requests);
            }
        }
        is_there.then_some(load)
    })
}

/// The value of a sample of this name. An engine that is spread over several processes has a sample
/// for each; they are added up, but those of ranks of one model, which all tell of the same requests.
fn value(sample: &str, name: &str) -> Option<u64> {
    let rest = sample.strip_prefix(name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(labelled) => labelled.rsplit_once('}')?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let is_another_rank = ["tp_rank=\"", "pp_rank=\""]
        .iter()
        .any(|label| labels.split_once(label).is_some_and(|(_, rank)| !rank.starts_with("0\"")));
    if is_another_rank {
        return None;
    }
    let value: f64 = value.split_whitespace().next()?.parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast of a float is saturating, and NaN becomes 0"
    )]
    Some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauges_of_each_engine_are_read() {
        for (page, expected) in [
            (
                "# HELP vllm:num_requests_running Requests in execution.\n\
                 # TYPE vllm:num_requests_running gauge\n\
                 vllm:num_requests_running{engine=\"0\",model_name=\"a}b\"} 3.0\n\
                 vllm:num_requests_running{engine=\"1\",model_name=\"a}b\"} 2.0\n\
                 vllm:num_requests_waiting{engine=\"0\",model_name=\"a}b\"} 7.0\n\
                 vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 100.0\n",
                Some((5, 7)),
            ),
            (
                "sglang:num_running_reqs{model_name=\"m\",tp_rank=\"0\",pp_rank=\"0\"} 4.0\n\
                 sglang:num_running_reqs{model_name=\"m\",tp_rank=\"1\",pp_rank=\"0\"} 4.0\n\
                 sglang:num_queue_reqs{model_name=\"m\",tp_rank=\"0\",pp_rank=\"0\"} 9.0 1790000000\n",
                Some((4, 9)),
            ),
            ("llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n", Some((1, 2))),
            ("sglang_num_running_reqs 1\nsglang_num_queue_reqs 0\n", Some((1, 0))),
            ("vllm:num_requests_running NaN\nvllm:num_requests_waiting -1\n", Some((0, 0))),
            ("vllm:num_requests_running 1e300\n", Some((u64::MAX, 0))),
            ("vllm:num_requests_running many\n", None),
            ("http_requests_total 5\n", None),
            ("", None),
        ] {
            let expected = expected.map(|(running, waiting)| Load { running, waiting });
            assert_eq!(parse(page.as_bytes()), expected, "{page}");
        }
        assert_eq!(parse(b"vllm:num_requests_running \xff"), None);
    }
}
