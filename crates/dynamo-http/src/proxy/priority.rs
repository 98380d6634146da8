//! The class of a request: what decides it, and how engines are told.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::edit::Edits;
use super::member::Member;
use super::peek::Places;
use crate::access::Caller;
use crate::error::ApiError;
use crate::priority::{Priority, PriorityMode};

#[cfg(test)]
mod tests;

/// The header in which a client that may do so names the class of its request.
pub(super) const X_DYNAMO_PRIORITY: &str = "x-dynamo-priority";

/// The class of one request, which takes the place of the client's own `priority`: with that, a client
/// could overtake those of others.
#[derive(Clone, Debug)]
pub(crate) struct Ranked {
    pub(super) class: Priority,
    /// The client's own member, or else where one may be inserted.
    at: Result<Member, usize>,
}

impl Ranked {
    /// The class of a request by a caller. `None` where requests have no classes.
    ///
    /// # Errors
    ///
    /// 400 when a caller that may name a class names none that there is, and when the body has several
    /// `priority`.
    pub(super) fn of(
        mode: PriorityMode,
        caller: &Caller,
        headers: &HeaderMap,
        places: &Places,
    ) -> Result<Option<Self>, ApiError> {
        let may_choose = match (mode, caller.key()) {
            (PriorityMode::None, _) => return Ok(None),
            (PriorityMode::Keys | PriorityMode::Header, Some(_)) => caller.may_prioritize(),
            (PriorityMode::Keys, None) => false,
            (PriorityMode::Header, None) => true,
        };
        let class = match named(headers).filter(|_| may_choose) {
            None => caller.priority(),
            Some(named) => named?,
        };
        if places.repeats_priority {
            return Err(invalid("The field 'priority' appears more than once."));
        }
        let at = places.priority.clone().ok_or(places.first_member);
        Ok(Some(Self { class, at }))
    }

    /// Puts the class into a body, in place of the client's own `priority`; for an engine that does not
    /// accept it, that is removed. This edit comes last: others may insert where it removes.
    pub(super) fn put_into(&self, edits: &mut Edits, body: &[u8], accepts: bool) {
        match &self.at {
            Ok(member) if accepts => edits.replace(member.value.clone(), number(self.class)),
            Ok(member) => edits.replace(member.with_comma(body), Bytes::new()),
            Err(at) if accepts => {
                let member = format!(r#""priority":{},"#, number(self.class));
                edits.replace(*at..*at, member);
            }
            Err(_) => {}
        }
    }
}

/// The class that a request names, if it names one.
fn named(headers: &HeaderMap) -> Option<Result<Priority, ApiError>> {
    let mut values = headers.get_all(X_DYNAMO_PRIORITY).iter();
    let first = values.next()?;
    let class = first.to_str().ok().filter(|_| values.next().is_none());
    Some(class.and_then(|class| class.parse().ok()).ok_or_else(|| {
        invalid("The header 'x-dynamo-priority' must be interactive, default or bulk.")
    }))
}

fn invalid(message: &'static str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, message)
}

/// The number by which vLLM knows a class: the lowest goes first.
fn number(class: Priority) -> &'static str {
    match class {
        Priority::Interactive => "-10",
        Priority::Default => "0",
        Priority::Bulk => "10",
    }
}
