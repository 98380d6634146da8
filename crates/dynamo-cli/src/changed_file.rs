//! What became of a changed file: told in the log, and on the status page while it is refused.

use std::path::Path;

use dynamo_http::ProgramProblems;
use tracing::warn;

use crate::settings::Setting;

/// A file that was given by a setting, and that the program takes up again when it changes.
#[derive(Debug)]
pub(crate) struct ChangedFile {
    setting: &'static Setting,
    /// One setting may name several files.
    subject: String,
    problems: ProgramProblems,
}

impl ChangedFile {
    pub(crate) fn new(setting: &'static Setting, path: &Path, problems: ProgramProblems) -> Self {
        Self { setting, subject: format!("{} {}", setting.label(), path.display()), problems }
    }

    /// Tells that the new content is not used.
    pub(crate) fn refused(&self, error: &anyhow::Error) {
        let setting = self.setting.label();
        let error = format!("{error:#}");
        warn!(%setting, %error, "a changed file cannot be used; what was known stands");
        let text =
            format!("A changed file of {setting} cannot be used, what was known stands: {error}");
        self.problems.tell(&self.subject, &text);
    }

    /// Tells that the new content is used.
    pub(crate) fn taken_up(&self) {
        self.problems.end(&self.subject);
    }
}
