//! The keys that are valid now, with the lens and the limits of each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::hash::KeyHash;
use super::limit::Usage;
use super::list::{Credential, KeyList, KeyName};
use super::others::Others;
use super::tenant::Tenant;
use super::window::Clock;
use crate::client_name::ClientName;
use crate::error::ApiError;
use crate::view::{FeedEnded, Scopes};

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
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    scopes: Scopes,
    tenants: ArcSwap<Tenants>,
    /// The counters of all keys, and of those that are gone and whose windows have not ended.
    usages: Mutex<HashMap<KeyName, Arc<Usage>>>,
    /// What other frontends have counted.
    pub(super) others: Others,
    unauthorized: AtomicU64,
    pub(super) clock: Clock,
}

/// The tenants, by what their requests show.
#[derive(Default)]
struct Tenants {
    /// By name.
    all: Vec<Arc<Tenant>>,
    by_hash: HashMap<KeyHash, Arc<Tenant>>,
    /// Those that have no key.
    by_client: HashMap<ClientName, Arc<Tenant>>,
}

impl ApiKeys {
    /// A set without keys, which admits no request. `scopes` opens the views of later keys.
    pub fn new(scopes: Scopes) -> Self {
        Self::with_clock(scopes, Clock::start())
    }

    pub(super) fn with_clock(scopes: Scopes, clock: Clock) -> Self {
        let inner = Inner {
            scopes,
            tenants: ArcSwap::default(),
            usages: Mutex::default(),
            others: Others::default(),
            unauthorized: AtomicU64::new(0),
            clock,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Replaces all keys at once. From then on a key that is not among them is invalid; requests
    /// that have begun go on.
    ///
    /// A key that keeps its name keeps its counters, so that a change of the list gives no key a
    /// full minute again, nor a full day or month. A key that goes and comes back within its month has
    /// used what it had used. Calls must not overlap.
    ///
    /// # Errors
    ///
    /// When the feed has ended. The keys stay as they were.
    pub async fn replace(&self, keys: &KeyList) -> Result<(), FeedEnded> {
        let scopes = keys.iter().map(|key| key.scope.clone()).collect();
        let views = self.inner.scopes.open(scopes).await?;
        let mut tenants = Tenants::default();
        for (key, live) in keys.iter().zip(views) {
            let usage = self.usage_of(&key.name);
            let tenant = Arc::new(Tenant::new(key, live, usage, self.inner.clock));
            match &key.credential {
                Credential::Key(hashes) | Credential::Both(hashes, _) => {
                    let one = |hash: &KeyHash| (*hash, tenant.clone());
                    tenants.by_hash.extend(hashes.iter().map(one));
                }
                Credential::Client(client) => {
                    tenants.by_client.insert(client.clone(), tenant.clone());
                }
            }
            tenants.all.push(tenant);
        }
        tenants.all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.forget_others(&tenants.all);
        self.inner.tenants.store(Arc::new(tenants));
        Ok(())
    }

    /// The counters of a key of this name.
    fn usage_of(&self, name: &KeyName) -> Arc<Usage> {
        let usage = self.inner.usages().entry(name.clone()).or_default().clone();
        let now = self.inner.clock.now();
        for (window, used) in self.inner.others.of(name, now) {
            usage.ledger.others_used(window, used);
        }
        usage
    }

    /// Forgets the counters of keys that are not among these and have used nothing lately.
    fn forget_others(&self, tenants: &[Arc<Tenant>]) {
        let now = self.inner.clock.now();
        let is_there =
            |name: &KeyName| tenants.binary_search_by(|tenant| tenant.name.cmp(name)).is_ok();
        self.inner.usages().retain(|name, usage| is_there(name) || !usage.ledger.is_empty(now));
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
            return match tenant.client() {
                needed @ Some(_) if needed != client => {
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
        self.inner.tenants.load().all.clone()
    }

    /// How many requests had no valid key.
    pub(crate) fn unauthorized(&self) -> u64 {
        self.inner.unauthorized.load(Ordering::Relaxed)
    }
}

impl Inner {
    pub(super) fn usages(&self) -> MutexGuard<'_, HashMap<KeyName, Arc<Usage>>> {
        self.usages.lock().unwrap_or_else(PoisonError::into_inner)
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
