//! Which part of the status is asked for: a filter, and pages of what it leaves.

use http::StatusCode;

use super::snapshot::Row;
use crate::error::ApiError;

/// The rows of a page, unless a number is asked for.
const LIMIT: usize = 50;
/// The most rows of a page.
const MOST: usize = 500;
/// The longest text to search for, in bytes.
const LONGEST: usize = 256;

/// Which part of the status is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// A text that the namespace, the model, the URL or the key of an instance contains, in lower case.
    search: String,
    namespace: Option<String>,
    model: Option<String>,
    state: Wanted,
    /// The first group to be shown, and the first instance.
    pub(super) groups: usize,
    pub(super) instances: usize,
    /// The most groups to be shown, and the most instances.
    pub(super) limit: usize,
}

/// Instances of which state.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// All that need a look: every state but `serving`.
    Ailing,
    One(&'static str),
}

impl Default for Query {
    fn default() -> Self {
        Self {
            search: String::new(),
            namespace: None,
            model: None,
            state: Wanted::All,
            groups: 0,
            instances: 0,
            limit: LIMIT,
        }
    }
}

impl Query {
    /// Reads the query of a URL.
    ///
    /// # Errors
    ///
    /// 400 for a parameter that does not exist, and for an invalid value.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                _ if value.len() > LONGEST => {
                    return Err(invalid(&name, "is longer than 256 bytes"));
                }
                "search" => parsed.search = value.trim().to_lowercase(),
                "namespace" => parsed.namespace = Some(value.into_owned()),
                "model" => parsed.model = Some(value.into_owned()),
                "state" => {
                    parsed.state = match Row::STATES.iter().find(|state| **state == value) {
                        Some(state) => Wanted::One(state),
                        None if value == "ailing" => Wanted::Ailing,
                        None if value.is_empty() => Wanted::All,
                        None => return Err(invalid(&name, "is no state of an instance")),
                    }
                }
                "groups" => parsed.groups = number(&name, &value)?,
                "instances" => parsed.instances = number(&name, &value)?,
                "limit" => match number(&name, &value)? {
                    limit @ 1..=MOST => parsed.limit = limit,
                    _ => return Err(invalid(&name, "is not from 1 to 500")),
                },
                _ => {
                    let known = "search, namespace, model, state, groups, instances, limit";
                    let message = format!("There is no such parameter; there are {known}.");
                    return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
                }
            }
        }
        Ok(parsed)
    }

    /// Whether an instance is among those that are asked for.
    pub(super) fn admits(&self, row: &Row) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.search);
        (match &self.state {
            Wanted::All => true,
            Wanted::Ailing => row.state() != "serving",
            Wanted::One(state) => row.state() == *state,
        }) && self.namespace.as_deref().is_none_or(|name| name == row.namespace())
            && self.model.as_deref().is_none_or(|name| name == row.model())
            && (self.search.is_empty()
                || has(row.namespace())
                || has(row.model())
                || row.url().is_some_and(has)
                || has(&row.key()))
    }
}

fn number(name: &str, value: &str) -> Result<usize, ApiError> {
    value.parse().map_err(|_| invalid(name, "is no number"))
}

/// The name is one of the known ones; the value is not repeated.
fn invalid(name: &str, why: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, format!("The parameter '{name}' {why}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_and_what_is_wrong_is_named() {
        assert_eq!(Query::parse(None).unwrap(), Query::default());
        let query =
            Query::parse(Some("search=+Team%2DA&state=held&limit=500&instances=50")).unwrap();
        assert_eq!((query.search.as_str(), query.limit, query.instances), ("team-a", 500, 50));
        assert_eq!(query.state, Wanted::One("held"));
        assert_eq!(Query::parse(Some("state=")).unwrap().state, Wanted::All);
        for (query, says) in [
            ("limit=0", "'limit' is not from 1 to 500"),
            ("limit=501", "'limit' is not from 1 to 500"),
            ("groups=-1", "'groups' is no number"),
            ("state=well", "'state' is no state"),
            ("sarch=a", "no such parameter; there are search"),
            (&format!("search={}", "x".repeat(257)), "'search' is longer"),
        ] {
            let error = Query::parse(Some(query)).unwrap_err();
            assert!(error.message().contains(says), "{query}: {}", error.message());
        }
    }
}
