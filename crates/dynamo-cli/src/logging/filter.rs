//! Which log lines are written: what the variables ask for.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

use crate::failure::Failure;
use crate::settings::given::{Origin, Value};
use crate::settings::table::{Logs, RUST_LOG};

/// Where our own lines come from, and those of the libraries that log.
const OURS: [&str; 4] = ["dynamo_cli", "dynamo_discovery", "dynamo_http", "dynamo_namespace"];
const OTHERS: [&str; 7] = ["h2", "hyper", "hyper_util", "rustls", "tokio", "tonic", "tower"];

/// A filter, and what was wrong with the text that asked for it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) filter: EnvFilter,
    pub(super) complaints: Vec<String>,
}

/// Reads the text of a filter.
///
/// # Errors
///
/// When a part of the text is invalid, or none has a level: all lines would be lost, errors as well.
/// A text that an engine reads, too, is used as far as it goes instead.
pub(super) fn read(log: &Value<String>) -> Result<Asked, Failure> {
    let (source, is_shared) = (log.source(), log.origin == Origin::Variable(RUST_LOG));
    let expected = "expected a filter such as debug or info,dynamo_http=debug";
    let invalid = |why: &str| format!("{source}={:?}: {why}; {expected}", log.as_str());
    let (mut parts, mut complaints) = (Vec::new(), Vec::new());
    let (mut has_level, mut concerns_us) = (false, false);
    for text in log.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let part = in_our_words(text);
        if let Err(error) = part.parse::<Directive>() {
            let complaint = invalid(&format!("{text:?}: {error}"));
            if !is_shared {
                return Err(Failure::usage(complaint));
            }
            complaints.push(complaint);
            continue;
        }
        let target = target(&part);
        let concerns = |name: &&str| target.is_none_or(|target| are_nested(name, target));
        has_level |= target.is_none_or(|target| target.len() < part.len());
        concerns_us |= OURS.iter().any(concerns);
        if !is_shared && !OURS.iter().chain(&OTHERS).any(concerns) {
            complaints.push(format!(
                "{source}: no line comes from {:?}; ours come from {}",
                target.unwrap_or_default(),
                OURS.join(", ")
            ));
        }
        parts.push(part);
    }
    if !is_shared && !has_level {
        return Err(Failure::usage(invalid("there is no level in it")));
    }
    if !concerns_us && is_shared {
        parts.extend(Logs::log.default.map(str::to_owned));
    }
    let filter = EnvFilter::builder().parse(parts.join(","));
    Ok(Asked { filter: filter.map_err(Failure::usage)?, complaints })
}

/// The part with the names that we have for levels.
fn in_our_words(part: &str) -> String {
    let at = part.rfind('=').map_or(0, |at| at + 1);
    let (target, level) = part.split_at(at);
    let level = match level.to_ascii_lowercase().as_str() {
        "warning" => "warn",
        "fatal" => "error",
        _ => level,
    };
    format!("{target}{level}")
}

/// Where the lines come from that a part is about; none for all lines.
fn target(part: &str) -> Option<&str> {
    let target = part.split(['=', '[']).next().unwrap_or_default();
    let is_all = target.is_empty() || target == part && part.parse::<LevelFilter>().is_ok();
    (!is_all).then_some(target)
}

/// Whether a filter's target takes in lines from `name`, or from a part of it.
fn are_nested(name: &str, target: &str) -> bool {
    name.starts_with(target) || target.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::given;
    use crate::settings::table::FRONTEND;

    fn asked(ours: &str, shared: &str) -> Result<Asked, String> {
        let given = given(&FRONTEND, &[], [("DYN_LOG", ours), ("RUST_LOG", shared)]).unwrap();
        read(&Logs::read(&given).unwrap().log).map_err(|failure| failure.to_string())
    }

    fn filter(ours: &str, shared: &str) -> String {
        asked(ours, shared).unwrap().filter.to_string()
    }

    #[test]
    fn our_own_variable_wins_over_the_usual_one_and_both_may_be_blank() {
        for (ours, usual, expected) in
            [("warn", "trace", "warn"), (" ", "trace", "trace"), ("", "", "info")]
        {
            assert_eq!(filter(ours, usual), expected);
        }
    }

    #[test]
    fn levels_have_the_names_that_other_programs_give_them() {
        for (text, expected) in [
            ("warning", "warn"),
            ("FATAL", "error"),
            ("dynamo_http=Warning", "dynamo_http=warn"),
            ("off", "off"),
        ] {
            assert_eq!(filter(text, ""), expected);
            assert!(asked(text, "").unwrap().complaints.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_text_of_ours_without_a_level_or_with_an_invalid_one_is_refused() {
        for text in ["verbose", "debug!", "dynamo_http", "dynamo_http=loud", "info,h2=loud", ","] {
            let message = asked(text, "info").unwrap_err();
            assert!(message.starts_with(&format!("DYN_LOG={text:?}: ")), "{message}");
            assert!(message.contains("expected a filter such as debug"), "{message}");
        }
    }

    #[test]
    fn a_target_from_which_nothing_comes_is_told() {
        let complaints = |text| asked(text, "").unwrap().complaints;
        assert!(complaints("info,dynamo=debug,dynamo_http::serve=trace,h2=warn").is_empty());
        let told = complaints("info,dynamo_frontend=debug");
        assert!(told[0].starts_with("DYN_LOG: no line comes from \"dynamo_frontend\""), "{told:?}");
    }

    #[test]
    fn a_text_that_the_engine_reads_too_is_never_refused_and_never_silences_us() {
        for (text, expected, complaints) in [
            ("vllm=debug", ["vllm=debug", "info"].as_slice(), 0),
            ("=loud,debug", &["debug"], 1),
            ("a=b=c", &["info"], 1),
            ("warning", &["warn"], 0),
            ("engine", &["engine=trace", "info"], 0),
        ] {
            let asked = asked("", text).unwrap();
            let filter = asked.filter.to_string();
            let mut parts: Vec<_> = filter.split(',').collect();
            parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.len()));
            assert_eq!(
                (parts.as_slice(), asked.complaints.len()),
                (expected, complaints),
                "{text}"
            );
        }
    }
}
