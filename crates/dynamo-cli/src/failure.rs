//! How a program fails: its last line on stderr, and its exit code.

use std::fmt;
use std::process::ExitCode;

/// Why a program could not do its work. `Display` gives one line, causes included.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The program was started with wrong flags, variables or files: exit 2.
    Usage(anyhow::Error),
    /// The program failed while it ran: exit 1.
    Running(anyhow::Error),
}

impl Failure {
    /// Wrong usage, explained by one sentence.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(anyhow::Error::msg(message.to_string()))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Running(_) => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(error) | Self::Running(error)) = self;
        f.write_str(&without_user_info(&one_line(&format!("{error:#}"))))
    }
}

/// The text, with each run of white space replaced by one blank.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text with `…` in place of what stands before an `@`, as a name and a password do in a URL.
pub(crate) fn without_user_info(text: &str) -> String {
    let is_edge = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`');
    let words = text.split_inclusive(is_edge).map(|word| match word.rsplit_once('@') {
        None => word.to_owned(),
        Some((before, after)) => {
            let scheme = before.find("://").map_or("", |at| &before[..at + 3]);
            format!("{scheme}…@{after}")
        }
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let cause = std::io::Error::other("first\n  second");
        let error = Err::<(), _>(cause).context("cannot read \"x\"").unwrap_err();
        assert_eq!(Failure::Running(error).to_string(), "cannot read \"x\": first second");
    }

    #[test]
    fn no_failure_repeats_user_info() {
        for (text, expected) in [
            ("`http://u:p@h:1` is no URL", "`http://…@h:1` is no URL"),
            ("not \"x=u:p/q@h\"", "not \"…@h\""),
            ("https://a@b@h", "https://…@h"),
            ("nothing to hide", "nothing to hide"),
        ] {
            assert_eq!(Failure::usage(text).to_string(), expected);
        }
    }
}
