//! The key that workers want from us, which may change while we run.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderValue;

/// The key that every worker gets, as `Authorization: Bearer KEY`. A clone is the same key.
///
/// Without one, workers get what clients send. With one, they get this instead: in requests that
/// are passed on, and in whatever the frontend asks them itself.
///
/// ```
/// use dynamo_http::WorkerKey;
///
/// let key = WorkerKey::default();
/// assert_eq!(key.header(), None);
/// key.set("secret")?;
/// assert_eq!(key.header().unwrap(), "Bearer secret");
/// assert!(key.set("two words").is_err(), "and the old one stands");
/// assert_eq!(key.header().unwrap(), "Bearer secret");
/// # Ok::<(), dynamo_http::InvalidWorkerKey>(())
/// ```
#[derive(Clone, derive_more::Debug, Default)]
#[debug("WorkerKey({})", if _0.load().is_some() { "set" } else { "none" })]
pub struct WorkerKey(Arc<ArcSwapOption<HeaderValue>>);

/// Why a text is no key for workers. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is one or more visible ASCII characters, without blanks")]
pub struct InvalidWorkerKey;

impl WorkerKey {
    /// Makes this the key, for every request from now on.
    ///
    /// # Errors
    ///
    /// When the text is empty or has a character that a header cannot carry; nothing changes then.
    pub fn set(&self, key: &str) -> Result<(), InvalidWorkerKey> {
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidWorkerKey);
        }
        let mut header =
            HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| InvalidWorkerKey)?;
        header.set_sensitive(true);
        self.0.store(Some(Arc::new(header)));
        Ok(())
    }

    /// The value of `Authorization` for workers, where there is a key.
    pub fn header(&self) -> Option<HeaderValue> {
        self.0.load().as_deref().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_shows_the_key() {
        let key = WorkerKey::default();
        key.set("secret").unwrap();
        assert_eq!(format!("{key:?} {:?}", key.header()), "WorkerKey(set) Some(Sensitive)");
    }

    #[test]
    fn what_no_header_can_carry_is_refused() {
        for text in ["", " ", "a b", "a\n", "ä", "\u{1b}[31m"] {
            assert_eq!(WorkerKey::default().set(text), Err(InvalidWorkerKey), "{text:?}");
        }
    }

    #[test]
    fn a_clone_has_the_new_key_too() {
        let key = WorkerKey::default();
        let clone = key.clone();
        key.set("one").unwrap();
        key.set("two").unwrap();
        assert_eq!(clone.header().unwrap(), "Bearer two");
    }
}
