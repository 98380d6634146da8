//! How a program fails: what it says, in one line, and the code that it exits with.

use std::fmt;
use std::process::ExitCode;

/// Why a program could not do its work. It displays on one line, causes included.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was started wrongly: exit 2.
    Usage(anyhow::Error),
    /// It failed while it ran: exit 1.
    Running(anyhow::Error),
}

impl Failure {
    /// Wrong usage, told in one sentence.
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
        f.write_str(&one_line(&format!("{error:#}")))
    }
}

/// The text with every run of white space as one blank.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
}
