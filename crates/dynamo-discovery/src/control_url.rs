//! The address of a worker's control port.

use std::fmt;
use std::str::FromStr;

use crate::worker_url::{InvalidUrl, WorkerUrl};

/// Where a worker's control port answers: `http` or `https`, a host, maybe a port, and no path.
///
/// The other rules are those of [`WorkerUrl`]: no user info, no query, no fragment, no forbidden
/// address, one spelling for each address. A clone is cheap.
///
/// ```
/// use dynamo_discovery::{ControlUrl, InvalidUrl};
///
/// let control: ControlUrl = "http://GPU-7.example:41234/".parse()?;
/// assert_eq!(control.as_str(), "http://gpu-7.example:41234");
/// assert_eq!("http://gpu-7.example/v1".parse::<ControlUrl>(), Err(InvalidUrl::Path));
/// # Ok::<(), InvalidUrl>(())
/// ```
#[derive(Clone, derive_more::Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[debug("{_0:?}")]
pub struct ControlUrl(WorkerUrl);

impl ControlUrl {
    /// The URL, normalized.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The same address as a [`WorkerUrl`], which has its host and port.
    pub fn as_worker_url(&self) -> &WorkerUrl {
        &self.0
    }
}

impl FromStr for ControlUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<WorkerUrl>()?.try_into()
    }
}

impl TryFrom<WorkerUrl> for ControlUrl {
    type Error = InvalidUrl;

    fn try_from(url: WorkerUrl) -> Result<Self, Self::Error> {
        // A normalized URL has no slash at its end, so a third one begins a path.
        if url.as_str().matches('/').count() > 2 { Err(InvalidUrl::Path) } else { Ok(Self(url)) }
    }
}

impl fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_is_taken_and_has_one_spelling() {
        for (text, expected) in [
            ("http://192.0.2.7:41234", "http://192.0.2.7:41234"),
            ("HTTP://Gpu-7.Example:41234/", "http://gpu-7.example:41234"),
            ("https://gpu-7.example:443", "https://gpu-7.example"),
            ("http://[2001:db8::7]:41234//", "http://[2001:db8::7]:41234"),
        ] {
            let control: ControlUrl = text.parse().unwrap();
            assert_eq!(control.as_str(), expected);
            assert_eq!(control.as_str().parse(), Ok(control));
        }
    }

    #[test]
    fn a_path_is_refused_and_so_is_all_that_no_worker_url_may_have() {
        for (text, expected) in [
            ("http://192.0.2.7:1/control", InvalidUrl::Path),
            ("http://[2001:db8::7]/a", InvalidUrl::Path),
            ("192.0.2.7:1", InvalidUrl::Scheme),
            ("ftp://h:1", InvalidUrl::Scheme),
            ("http://user@192.0.2.7:1", InvalidUrl::UserInfo),
            ("http://192.0.2.7:1?q", InvalidUrl::QueryOrFragment),
            ("http://169.254.169.254", InvalidUrl::ForbiddenAddress),
        ] {
            assert_eq!(text.parse::<ControlUrl>(), Err(expected), "{text}");
        }
    }
}
