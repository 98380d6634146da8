//! Keeps callers apart in the prefix caches of engines, by a salt that only frontends can compute.

use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use dynamo_discovery::RequestField;
use dynamo_namespace::NamespaceScope;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::StatusCode;
use sha2::Sha256;

use super::edit::Edits;
use super::json;
use super::peek::Places;
use crate::error::ApiError;

#[cfg(test)]
mod tests;

/// What each salt is computed of first: its purpose and its version.
const PURPOSE: &[u8] = b"dynamo-cache-salt/1";
/// The length of a SHA-256 in base64url without padding.
const SALT: usize = 43;

/// Keeps callers apart in the prefix caches of engines.
///
/// An engine shares what it has computed for the beginning of a prompt among all requests, so one
/// caller can learn by timing what another one asked. With isolation, each request for a text gets a
/// `cache_salt`, and engines share nothing among different salts. The salt is
/// base64url(HMAC-SHA256(secret, `dynamo-cache-salt/1` ‖ length ‖ caller ‖ length ‖ own salt)) without
/// padding. The caller is the name of its key, or the frontend's scope where no key is needed; its own
/// salt is the `cache_salt` of its request, or nothing. A length is that of the following bytes, as eight
/// bytes, the most significant first.
///
/// Requests go only to workers whose entry accepts `cache_salt`, unless it is
/// [best effort](Self::best_effort).
///
/// ```
/// use dynamo_http::{FrontendConfig, Isolation};
///
/// let isolation = Isolation::new(b"0123456789abcdef0123456789abcdef")?;
/// let config = FrontendConfig::new().with_isolation(Some(isolation));
/// assert!(Isolation::new(b"short").is_err());
/// # let _ = config;
/// # Ok::<(), dynamo_http::ShortSecret>(())
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("Isolation({})", if *is_best_effort { "best effort" } else { "cache salt" })]
pub struct Isolation {
    /// It has the secret, and nothing else yet.
    mac: Hmac<Sha256>,
    is_best_effort: bool,
    /// The name of callers without a key.
    scope: Arc<str>,
}

/// A secret is too short. The message does not repeat the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret of at least {} bytes is needed", Isolation::SHORTEST)]
pub struct ShortSecret;

impl Isolation {
    /// The shortest secret, in bytes.
    pub const SHORTEST: usize = 32;

    /// Isolation by a secret. Frontends with the same secret give a caller the same salts.
    ///
    /// # Errors
    ///
    /// When the secret is shorter than [`SHORTEST`](Self::SHORTEST).
    pub fn new(secret: &[u8]) -> Result<Self, ShortSecret> {
        if secret.len() < Self::SHORTEST {
            return Err(ShortSecret);
        }
        let mac = Hmac::new_from_slice(secret).map_err(|_| ShortSecret)?;
        Ok(Self { mac, is_best_effort: false, scope: Arc::default() })
    }

    /// The same, but workers that do not accept `cache_salt` get requests as well, as clients send them.
    #[must_use]
    pub fn best_effort(self) -> Self {
        Self { is_best_effort: true, ..self }
    }

    /// The same for a frontend of this scope.
    pub(crate) fn within(&self, scope: &NamespaceScope) -> Self {
        Self { scope: scope.to_string().into(), ..self.clone() }
    }

    /// The salt of a request by the owner of a key, or by anyone.
    ///
    /// # Errors
    ///
    /// 400 when the body has several `cache_salt`, since engines take the last one, or one that is no
    /// string.
    pub(super) fn salt(
        &self,
        key: Option<&Arc<str>>,
        body: &[u8],
        places: &Places,
    ) -> Result<Salt, ApiError> {
        let invalid = |message| ApiError::new(StatusCode::BAD_REQUEST, message);
        if places.repeats_salt {
            return Err(invalid("The field 'cache_salt' appears more than once."));
        }
        // The body is JSON, which is UTF-8, and places are at the ends of values.
        let raw = places.cache_salt.clone().map(|place| &body[place]);
        let raw = raw.map(|raw| str::from_utf8(raw).unwrap_or_default());
        let own = match raw {
            None | Some("null") => Default::default(),
            Some(raw) => json::string(raw).ok_or_else(|| {
                invalid("The field 'cache_salt' must be a string.").with_param("cache_salt")
            })?,
        };
        let caller = key.unwrap_or(&self.scope);
        let mut mac = self.mac.clone();
        mac.update(PURPOSE);
        for part in [caller.as_bytes(), own.as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let mut text = [0; SALT];
        let written = URL_SAFE_NO_PAD.encode_slice(mac.finalize().into_bytes(), &mut text);
        debug_assert_eq!(written, Ok(SALT));
        let at = places.cache_salt.clone();
        let at = at.ok_or(places.first_member);
        Ok(Salt { text, at, is_needed: !self.is_best_effort })
    }
}

/// The salt of one request.
#[derive(Clone, derive_more::Debug)]
#[debug("Salt")]
pub(crate) struct Salt {
    text: [u8; SALT],
    /// The place of the client's own in the body, or else where a member may be inserted.
    at: Result<Range<usize>, usize>,
    /// Whether the request must not be sent without it.
    is_needed: bool,
}

impl Salt {
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The field that a worker must accept to get the request.
    pub(super) fn needs(&self) -> Option<RequestField> {
        self.is_needed.then_some(RequestField::CacheSalt)
    }

    /// Puts the salt into a body, in place of the client's own.
    pub(super) fn put_into(&self, edits: &mut Edits) {
        let quoted = |before: &[u8], after: &[u8]| -> Bytes {
            [before, b"\"", &self.text, b"\"", after].concat().into()
        };
        match &self.at {
            Ok(place) => edits.replace(place.clone(), quoted(b"", b"")),
            Err(at) => edits.replace(*at..*at, quoted(br#""cache_salt":"#, b",")),
        }
    }
}

/// The answer for a model without any worker that may get the request.
pub(super) fn none_accepts(name: &str) -> ApiError {
    let message = format!(
        "The model '{name}' cannot be served: none of its workers keeps the prompts of different \
         clients apart (cache_salt)."
    );
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
        .with_code("isolation_unavailable")
        .without_retry_after()
}
