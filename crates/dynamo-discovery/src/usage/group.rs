//! The keys of a group: `{root}usage/{group}/{window}/{frontend}`, and
//! `{root}usage/{group}/frontends/{frontend}` while a frontend lives.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::network_prefix::{MODEL_ROOT_PATH, NetworkPrefix};
use crate::store::{Key, KeyRange};

/// The place of the frontends that live, where a window would be.
const FRONTENDS: &str = "frontends";

/// The name of a group: 1 to 64 characters of `[A-Za-z0-9._-]`, and not only dots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

/// A text is no name of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 64 letters, digits, '.', '_' or '-'")]
pub struct InvalidGroup;

impl GroupName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupName {
    type Err = InvalidGroup;

    fn from_str(text: &str) -> Result<Self, InvalidGroup> {
        let is_valid = is_name(text) && text.bytes().any(|byte| byte != b'.');
        if is_valid { Ok(Self(text.into())) } else { Err(InvalidGroup) }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

/// The frontends that count together: those with one file of keys.
///
/// ```
/// use dynamo_discovery::{NetworkPrefix, UsageGroup};
///
/// let root: NetworkPrefix = "staging/models/".parse()?;
/// let group = UsageGroup::new(&root, &"team-a".parse()?);
/// assert_eq!(group.to_string(), "staging/usage/team-a/");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageGroup(Arc<str>);

/// What a key of a group is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsageKey<'a> {
    /// A frontend lives.
    Frontend(&'a str),
    /// A part of the counts of one frontend in one window.
    Counts {
        /// The window, as [`WindowCounts::window`](super::WindowCounts::window).
        window: &'a str,
        /// The frontend.
        frontend: &'a str,
    },
}

impl UsageGroup {
    /// A group whose keys are beside those of the models.
    pub fn new(models: &NetworkPrefix, name: &GroupName) -> Self {
        let models = models.as_str();
        let root = models.strip_suffix(MODEL_ROOT_PATH).unwrap_or(models);
        Self(format!("{root}usage/{name}/").into())
    }

    /// All keys of the group. A frontend needs the permission to read and write them, and no other.
    pub fn range(&self) -> KeyRange {
        KeyRange::prefix(&self.0)
    }

    /// The key of a frontend that lives.
    pub(super) fn presence(&self, frontend: &str) -> Key {
        format!("{self}{FRONTENDS}/{frontend}").into()
    }

    /// The key of a part of a frontend's counts.
    pub(super) fn counts(&self, window: &str, frontend: &str, part: usize) -> Key {
        match part {
            0 => format!("{self}{window}/{frontend}").into(),
            _ => format!("{self}{window}/{frontend}/{part}").into(),
        }
    }

    /// What a key is about, if it is one of the group.
    pub fn parse<'a>(&self, key: &'a Key) -> Option<UsageKey<'a>> {
        let rest = key.as_str()?.strip_prefix(&*self.0)?;
        let mut parts = rest.split('/');
        let (first, frontend) = (parts.next()?, parts.next().filter(|name| is_name(name))?);
        match (parts.next(), parts.next()) {
            (None, None) if first == FRONTENDS => Some(UsageKey::Frontend(frontend)),
            (part, None) if is_window(first) && part.is_none_or(is_part) => {
                Some(UsageKey::Counts { window: first, frontend })
            }
            _ => None,
        }
    }
}

/// Whether a text is `2026-11` or `2026-11-30`.
fn is_window(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    matches!(text.len(), 7 | 10) && text.bytes().enumerate().all(fits)
}

fn is_part(text: &str) -> bool {
    (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The beginning of its keys.
impl fmt::Display for UsageGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
