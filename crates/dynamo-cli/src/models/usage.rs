//! `dynamo-models usage`: what the keys of a group have used of their tokens.

use dynamo_discovery::{ErrorChain, EtcdStore, UsageGroup, UsageTally, WatchStore as _};
use serde_json::json;

use super::table::{columns, escaped};
use crate::failure::Failure;
use crate::settings::value::EntryFormat;

/// Reads the usage of a group.
///
/// # Errors
///
/// When the store denies it or cannot be reached.
pub(super) async fn read(store: &EtcdStore, group: &UsageGroup) -> Result<UsageTally, Failure> {
    let listed = store.list(&group.range()).await.map_err(|error| {
        Failure::Running(anyhow::anyhow!("cannot read {group}: {}", ErrorChain(&error)))
    })?;
    Ok(UsageTally::of(group, &listed.entries))
}

/// A line for each window and key, the newest window first.
pub(super) fn show(tally: &UsageTally, format: EntryFormat) -> String {
    let windows: Vec<_> = tally.windows().collect();
    let mut rows = Vec::new();
    for window in windows.into_iter().rev() {
        let frontends = tally.frontends(window);
        rows.extend(tally.sums(window).into_iter().map(|(key, sum)| (window, key, sum, frontends)));
    }
    match format {
        EntryFormat::Json => rows
            .into_iter()
            .map(|(window, key, [input, output], frontends)| {
                let total = input.saturating_add(output);
                let line = json!({
                    "window": window,
                    "key": key,
                    "input_tokens": input,
                    "output_tokens": output,
                    "tokens": total,
                    "frontends": frontends,
                });
                format!("{line}\n")
            })
            .collect(),
        EntryFormat::Table | EntryFormat::Wide => {
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(window, key, [input, output], frontends)| {
                    let total = input.saturating_add(output);
                    let numbers = [input, output, total].map(|number| number.to_string());
                    let [input, output, total] = numbers;
                    [window.into(), escaped(&key), input, output, total, frontends.to_string()]
                })
                .collect();
            columns(["WINDOW", "KEY", "INPUT", "OUTPUT", "TOKENS", "FRONTENDS"], &rows)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dynamo_discovery::{Entry, NetworkPrefix, Revision};

    use super::*;

    #[test]
    fn the_sums_of_all_frontends_are_shown_by_window_and_key() {
        let group = UsageGroup::new(&NetworkPrefix::default(), &"g".parse().unwrap());
        let entry = |key: &str, value: &'static str| Entry {
            key: format!("{group}{key}").into(),
            value: Bytes::from(value),
            mod_revision: Revision(1),
            lease: None,
        };
        let entries = [
            entry("2026-11/a", r#"{"team-b":[100,10],"team-a":[1,2]}"#),
            entry("2026-11-30/a", r#"{"team-a":[1,2]}"#),
            entry("2026-11-30/b", r#"{"team-a":[10,20],"e\u001b":[0,1]}"#),
            entry("frontends/a", "{}"),
        ];
        let tally = UsageTally::of(&group, &entries);
        let expected = "\
WINDOW       KEY       INPUT   OUTPUT   TOKENS   FRONTENDS
2026-11-30   e\\u{1b}   0       1        1        2
2026-11-30   team-a    11      22       33       2
2026-11      team-a    1       2        3        1
2026-11      team-b    100     10       110      1
";
        assert_eq!(show(&tally, EntryFormat::Table), expected);
        let json = show(&tally, EntryFormat::Json);
        assert_eq!(json.lines().count(), 4);
        assert!(
            json.contains(r#""key":"team-a","output_tokens":22,"tokens":33,"window":"2026-11-30""#),
            "{json}"
        );
        assert_eq!(show(&UsageTally::default(), EntryFormat::Json), "");
    }
}
