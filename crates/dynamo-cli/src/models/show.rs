//! Entries as text: a table, a wide table, details, or an object a line.

use std::fmt::Write as _;

use serde_json::Value;

use super::item::{Item, Standing};
use super::table::{columns, escaped};
use crate::settings::value::EntryFormat;

/// All entries.
pub(super) fn list(items: &[Item], format: EntryFormat) -> String {
    match format {
        EntryFormat::Json => items.iter().map(|item| format!("{}\n", item.json())).collect(),
        EntryFormat::Table => {
            let rows: Vec<_> = items.iter().map(narrow).collect();
            columns(["NAMESPACE", "MODEL", "TYPE", "STATE", "URL", "KEY"], &rows)
        }
        EntryFormat::Wide => {
            let rows: Vec<_> = items.iter().map(wide).collect();
            let heading = [
                "NAMESPACE",
                "MODEL",
                "TYPE",
                "STATE",
                "URL",
                "CONTROL",
                "CONTEXT",
                "ACCEPTS",
                "LEASE",
                "LAYOUT",
                "KEY",
            ];
            columns(heading, &rows)
        }
    }
}

/// Entries with all that they say, and their values. Writing to a string cannot fail.
pub(super) fn details(items: &[Item], format: EntryFormat) -> String {
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        let mut object = item.json();
        let value = serde_json::from_slice(&item.entry.value);
        let value: Value = value.unwrap_or_else(|_| {
            Value::from(String::from_utf8_lossy(&item.entry.value).into_owned())
        });
        if format == EntryFormat::Json {
            object["value"] = value;
            let _ = writeln!(text, "{object}");
            continue;
        }
        if index > 0 {
            text.push('\n');
        }
        let _ = writeln!(text, "{:<15} {}", "key", item.entry.key);
        let fields = object.as_object().into_iter().flatten();
        for (name, told) in fields.filter(|(name, _)| *name != "key") {
            let told = match told {
                Value::Null => continue,
                Value::String(told) => escaped(told),
                Value::Array(list) if list.is_empty() => continue,
                told => escaped(&told.to_string()),
            };
            let _ = writeln!(text, "{name:<15} {told}");
        }
        let _ = writeln!(text, "{:<15} {}", "value", escaped(&value.to_string()));
    }
    text
}

fn narrow(item: &Item) -> [String; 6] {
    [namespace(item), model(item), kinds(item), state(item), url(item), key(item)]
}

fn wide(item: &Item) -> [String; 11] {
    let offer = &item.offer;
    [
        namespace(item),
        model(item),
        kinds(item),
        state(item),
        url(item),
        offer.control.as_ref().map(ToString::to_string).unwrap_or_default(),
        offer.context_length.map(|length| length.to_string()).unwrap_or_default(),
        offer.accepts.join(","),
        item.entry.lease.map(|lease| lease.to_string()).unwrap_or_default(),
        item.layout.name().to_owned(),
        key(item),
    ]
}

fn namespace(item: &Item) -> String {
    item.place.namespace.as_ref().map(|name| name.as_str().to_owned()).unwrap_or_default()
}

fn model(item: &Item) -> String {
    escaped(item.model().unwrap_or_default())
}

/// Without blanks, so that a script that splits at them finds its columns.
fn kinds(item: &Item) -> String {
    item.offer.kinds.clone().unwrap_or_default().replace(" | ", ",")
}

fn state(item: &Item) -> String {
    item.standing.name().to_owned()
}

fn url(item: &Item) -> String {
    let url = item.offer.url.as_ref().map(ToString::to_string);
    escaped(&url.or_else(|| item.offer.transport.clone()).unwrap_or_default()).replace(' ', ":")
}

fn key(item: &Item) -> String {
    item.entry.key.to_string()
}

/// Why an entry is refused.
pub(super) fn why(item: &Item) -> Option<&str> {
    match &item.standing {
        Standing::Refused { why, .. } => Some(why),
        _ => None,
    }
}
