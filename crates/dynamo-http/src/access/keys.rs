//! The keys that are valid now, with the lens and the limits of each.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::hash::KeyHash;
use super::limit::{Exceeded, Permit, Usage};
use super::list::{Credential, KeyList, KeyName};
use crate::client_name::ClientName;
use crate::error::ApiError;
use crate::view::{FeedEnded, Lens, Scopes};

/// The header in which Anthropic's clients, and some others, send their key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The keys that open a front door. A clone is the same set of keys.
///
/// ```
/// use dynamo_http::{
///     ApiKey, ApiKeys, Feed, Frontend, FrontendConfig, KeyHash, KeyList, Source, Switchboard,
/// };
/// use dynamo_namespace::NamespaceScope;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let source = Source::new("none", Box::pin(futures_util::stream::pending()));
/// let all = NamespaceScope::All;
/// let (switchboard, writer) = Switchboard::new([all.clone()]);
/// let feed = Feed::new(writer, [source]);
/// let keys = ApiKeys::new(feed.scopes());
/// let config = FrontendConfig::new().with_api_keys(Some(keys.clone()));
/// let frontend = Frontend::new(&switchboard, &all, feed.status(), &config);
/// tokio::spawn(feed.run());
///
/// let hash = KeyHash::of("a-key-that-nobody-could-guess")?;
/// let team_a = NamespaceScope::from_target(Some("team-a"))?;
/// let key = ApiKey::new("team-a".parse()?, hash, team_a);
/// keys.replace(&KeyList::new([key], &all)?).await?;
/// # let _ = frontend;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("{:?}", self.tenants().iter().map(|tenant| &tenant.name).collect::<Vec<_>>())]
pub struct ApiKeys {
    inner: Arc<Inner>,
}

struct Inner {
    scopes: Scopes,
    tenants: ArcSwap<Tenants>,
    unauthorized: AtomicU64,
    began: Instant,
}

/// The tenants, by what their requests show.
#[derive(Default)]
struct Tenants {
    by_hash: HashMap<KeyHash, Arc<Tenant>>,
    /// Those that have no key.
    by_client: HashMap<ClientName, Arc<Tenant>>,
}

/// The owner of a key.
#[derive(derive_more::Debug)]
#[debug("Tenant({name})")]
pub(crate) struct Tenant {
    pub(crate) name: KeyName,
    /// The name of the client that requests need.
    client: Option<ClientName>,
    pub(crate) lens: Lens,
    requests_per_minute: Option<NonZeroU32>,
    concurrent: Option<NonZeroU32>,
    pub(super) explain: bool,
    pub(crate) usage: Arc<Usage>,
    began: Instant,
}

impl ApiKeys {
    /// A set without keys, which admits no request. `scopes` opens the views of later keys.
    pub fn new(scopes: Scopes) -> Self {
        let inner = Inner {
            scopes,
            tenants: ArcSwap::default(),
            unauthorized: AtomicU64::new(0),
            began: Instant::now(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Replaces all keys at once. From then on a key that is not among them is invalid; requests
    /// that have begun go on.
    ///
    /// A key that keeps its name keeps its counters, so that a change of the list gives no key a
    /// full minute again. Calls must not overlap.
    ///
    /// # Errors
    ///
    /// When the feed has ended. The keys stay as they were.
    pub async fn replace(&self, keys: &KeyList) -> Result<(), FeedEnded> {
        let scopes = keys.iter().map(|key| key.scope.clone()).collect();
        let views = self.inner.scopes.open(scopes).await?;
        let before = self.inner.tenants.load();
        let usage: HashMap<_, _> =
            before.iter().map(|tenant| (&tenant.name, &tenant.usage)).collect();
        let mut tenants = Tenants::default();
        for (key, live) in keys.iter().zip(views) {
            let tenant = Arc::new(Tenant {
                name: key.name.clone(),
                client: key.credential.client().cloned(),
                lens: live.into(),
                requests_per_minute: key.requests_per_minute,
                concurrent: key.concurrent,
                explain: key.explain,
                usage: usage.get(&key.name).map_or_else(Arc::default, |usage| (*usage).clone()),
                began: self.inner.began,
            });
            match &key.credential {
                Credential::Key(hash) | Credential::Both(hash, _) => {
                    tenants.by_hash.insert(*hash, tenant);
                }
                Credential::Client(client) => {
                    tenants.by_client.insert(client.clone(), tenant);
                }
            }
        }
        self.inner.tenants.store(Arc::new(tenants));
        Ok(())
    }

    /// The owner of a request's key. `client` is the name in the client's verified certificate.
    ///
    /// An unknown key does not matter where a certificate is enough, since some libraries always send
    /// a key. The time does not depend on how much of a wrong key is right: keys are found by their
    /// hash, and hashes are compared in constant time.
    ///
    /// # Errors
    ///
    /// 401 when the request has no key and no certificate that is enough, or an invalid key.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        client: Option<&ClientName>,
    ) -> Result<Arc<Tenant>, ApiError> {
        let refused = |message| {
            self.inner.unauthorized.fetch_add(1, Ordering::Relaxed);
            ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key")
        };
        let tenants = self.inner.tenants.load();
        let key = presented(headers);
        if let Some(tenant) =
            key.and_then(KeyHash::of_bytes).and_then(|hash| tenants.by_hash.get(&hash))
        {
            return match &tenant.client {
                needed @ Some(_) if needed.as_ref() != client => {
                    Err(refused("The API key is not valid with this client certificate."))
                }
                _ => Ok(tenant.clone()),
            };
        }
        if let Some(tenant) = client.and_then(|client| tenants.by_client.get(client)) {
            return Ok(tenant.clone());
        }
        Err(refused(match key {
            Some(_) => "The API key is not valid.",
            None => "No API key was given: send it as `Authorization: Bearer KEY`.",
        }))
    }

    /// The owners of all keys, by name.
    pub(crate) fn tenants(&self) -> Vec<Arc<Tenant>> {
        let mut tenants: Vec<_> = self.inner.tenants.load().iter().cloned().collect();
        tenants.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        tenants
    }

    /// How many requests had no valid key.
    pub(crate) fn unauthorized(&self) -> u64 {
        self.inner.unauthorized.load(Ordering::Relaxed)
    }
}

impl Tenants {
    fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_hash.values().chain(self.by_client.values())
    }
}

impl Tenant {
    /// Begins a request that counts against the key's limits.
    ///
    /// # Errors
    ///
    /// 429 while the requests of the key are at a limit.
    pub(crate) fn begin(&self) -> Result<Permit, ApiError> {
        let limits = (self.requests_per_minute, self.concurrent);
        self.usage.begin(limits.0, limits.1, self.began.elapsed()).map_err(|exceeded| {
            let error = |message: String, code| {
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).with_code(code)
            };
            let most = |limit: Option<NonZeroU32>| limit.map_or(0, NonZeroU32::get);
            match exceeded {
                Exceeded::Rate(wait) => error(
                    format!("This API key may begin {} requests per minute.", most(limits.0)),
                    "rate_limit_exceeded",
                )
                .with_retry_after(wait),
                Exceeded::Concurrency => error(
                    format!("This API key may have {} requests under way.", most(limits.1)),
                    "concurrency_limit_exceeded",
                ),
            }
        })
    }
}

/// The key of a request: the bearer token, else the value of `x-api-key`. A header that is there
/// twice gives no key, since another program might read its other value.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = single(headers, &AUTHORIZATION)?.map(HeaderValue::as_bytes).and_then(bearer);
    match bearer {
        Some(key) => Some(key),
        None => single(headers, &X_API_KEY)?.map(HeaderValue::as_bytes),
    }
}

/// The value of a header, if the request has it; none at all where the header is there several
/// times.
#[expect(clippy::option_option, reason = "the outer one is `?` where a header is ambiguous")]
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    values.next().is_none().then_some(first)
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    let (scheme, key) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| key.trim_ascii())
}

/// Removes the key from a request, since no worker may learn it.
pub(super) fn take_out(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(X_API_KEY);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(headers: &[(HeaderName, &'static str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.clone(), HeaderValue::from_static(value));
        }
        presented(&map).map(|key| String::from_utf8(key.to_vec()).unwrap())
    }

    #[test]
    fn a_key_is_a_bearers_or_that_of_x_api_key() {
        for (headers, expected) in [
            (&[][..], None),
            (&[(AUTHORIZATION, "Bearer k")], Some("k")),
            (&[(AUTHORIZATION, "bearer  k ")], Some("k")),
            (&[(X_API_KEY, "k")], Some("k")),
            (&[(X_API_KEY, "x"), (AUTHORIZATION, "BEARER k")], Some("k")),
            (&[(AUTHORIZATION, "Basic dTpw"), (X_API_KEY, "k")], Some("k")),
            (&[(AUTHORIZATION, "k")], None),
            (&[(AUTHORIZATION, "Bearerk")], None),
            (&[(AUTHORIZATION, "Bearer k"), (AUTHORIZATION, "Bearer l")], None),
            (&[(X_API_KEY, "k"), (X_API_KEY, "l")], None),
        ] {
            assert_eq!(key_of(headers).as_deref(), expected, "{headers:?}");
        }
    }
}
