//! What the doctor found.

use serde_json::json;

use super::table::{columns, escaped};
use crate::settings::value::EntryFormat;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Something does not work, or will not for long.
    Fault,
    /// Something that an operator should know.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    /// The key, endpoint or user.
    pub(super) about: String,
    /// What is so, and what to do.
    pub(super) what: String,
}

/// All that was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<Finding>,
    /// What was looked at, in a line.
    pub(super) summary: String,
}

impl Findings {
    pub(super) fn fault(&mut self, about: impl Into<String>, what: impl Into<String>) {
        self.add(Severity::Fault, about, what);
    }

    pub(super) fn note(&mut self, about: impl Into<String>, what: impl Into<String>) {
        self.add(Severity::Note, about, what);
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        about: impl Into<String>,
        what: impl Into<String>,
    ) {
        let (about, what) = (about.into(), what.into());
        self.found.push(Finding { severity, about, what });
    }

    pub(super) fn has_fault(&self) -> bool {
        self.found.iter().any(|finding| finding.severity == Severity::Fault)
    }

    /// Faults first.
    pub(super) fn show(mut self, format: EntryFormat) -> String {
        self.found.sort();
        self.found.dedup();
        let name = |severity| match severity {
            Severity::Fault => "fault",
            Severity::Note => "note",
        };
        if format == EntryFormat::Json {
            let line = |Finding { severity, about, what }: &Finding| {
                format!(
                    "{}\n",
                    json!({ "severity": name(*severity), "about": about, "what": what })
                )
            };
            return self.found.iter().map(line).collect();
        }
        let row = |Finding { severity, about, what }: &Finding| {
            [name(*severity).to_owned(), escaped(about), escaped(what)]
        };
        let rows: Vec<_> = self.found.iter().map(row).collect();
        let table = if rows.is_empty() {
            String::new()
        } else {
            columns(["SEVERITY", "ABOUT", "FINDING"], &rows)
        };
        format!("{table}{}\n", self.summary)
    }
}
