//! The optional fields of requests that an engine accepts.

use std::fmt;
use std::str::FromStr;

/// A field of a request that some engines know and others refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum RequestField {
    /// `stream_options.include_usage`: the stream tells the tokens that it used.
    IncludeUsage = 1,
    /// `cache_salt`: prompts share cached prefixes only with prompts of the same salt.
    CacheSalt = 2,
    /// `priority`: the place of the request in the engine's queue.
    Priority = 4,
}

impl RequestField {
    /// Every field.
    pub const ALL: &'static [Self] = &[Self::IncludeUsage, Self::CacheSalt, Self::Priority];

    /// The name in stored values, such as `include_usage`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IncludeUsage => "include_usage",
            Self::CacheSalt => "cache_salt",
            Self::Priority => "priority",
        }
    }
}

impl fmt::Display for RequestField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of [`RequestField`]s: the field `accepts` of a stored value. Its default is empty.
///
/// ```
/// use dynamo_discovery::{Accepts, RequestField};
///
/// let accepts: Accepts = "include_usage,priority".parse()?;
/// assert!(accepts.contains(RequestField::IncludeUsage));
/// assert!(!accepts.contains(RequestField::CacheSalt));
/// assert_eq!(accepts.to_string(), "include_usage,priority");
/// # Ok::<(), dynamo_discovery::UnknownRequestField>(())
/// ```
#[derive(Clone, Copy, derive_more::Debug, Default, PartialEq, Eq, Hash)]
#[debug("{:?}", self.iter().collect::<Vec<_>>())]
pub struct Accepts(u8);

impl Accepts {
    /// No field.
    pub const NONE: Self = Self(0);

    /// Whether the field is in the set.
    pub const fn contains(self, field: RequestField) -> bool {
        self.0 & field as u8 != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The fields that both sets have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The fields in the set.
    pub fn iter(self) -> impl Iterator<Item = RequestField> {
        RequestField::ALL.iter().copied().filter(move |field| self.contains(*field))
    }

    /// The known ones of these names. A later release may know the others.
    pub(crate) fn known<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().filter_map(field).collect()
    }
}

fn field(name: &str) -> Option<RequestField> {
    RequestField::ALL.iter().copied().find(|field| field.name() == name)
}

impl FromIterator<RequestField> for Accepts {
    fn from_iter<T: IntoIterator<Item = RequestField>>(fields: T) -> Self {
        Self(fields.into_iter().fold(0, |set, field| set | field as u8))
    }
}

impl fmt::Display for Accepts {
    /// The names, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(RequestField::name).collect();
        f.pad(&names.join(","))
    }
}

/// A name is no [`RequestField`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected some of include_usage, cache_salt, priority, separated by commas, or nothing")]
pub struct UnknownRequestField;

impl FromStr for Accepts {
    type Err = UnknownRequestField;

    /// Reads names separated by commas. The empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, UnknownRequestField> {
        if text.trim().is_empty() {
            return Ok(Self::NONE);
        }
        text.split(',').map(|name| field(name.trim()).ok_or(UnknownRequestField)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_by_the_names_of_its_fields() {
        for (text, shown) in [
            ("", ""),
            (" ", ""),
            ("priority", "priority"),
            ("priority, include_usage,cache_salt,priority", "include_usage,cache_salt,priority"),
        ] {
            assert_eq!(text.parse::<Accepts>().unwrap().to_string(), shown, "{text}");
        }
        for text in [",", "include-usage", "Priority", "priority,"] {
            assert_eq!(text.parse::<Accepts>(), Err(UnknownRequestField), "{text}");
        }
    }
}
