//! The owner of a key.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, StatusCode};

use super::budget::{TokenLimit, TokenLimits};
use super::ledger::{Amount, Denied, Share};
use super::limit::{Exceeded, Permit, Usage};
use super::list::{ApiKey, KeyName};
use super::told::{self, Told};
use super::window::{Moment, rfc3339};
use crate::client_name::ClientName;
use crate::error::{ApiError, ErrorShape};
use crate::priority::Priority;
use crate::view::{Lens, LiveView};

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
    pub(super) tokens: TokenLimits,
    pub(super) explain: bool,
    pub(super) priority: Priority,
    pub(super) priority_header: bool,
    pub(crate) usage: Arc<Usage>,
    began: Instant,
}

impl Tenant {
    /// The owner of a key, which sees what is live. `began` is the fixed point of the steady clock.
    pub(super) fn new(key: &ApiKey, live: LiveView, usage: Arc<Usage>, began: Instant) -> Self {
        let lens = Lens::from(live);
        Self {
            name: key.name.clone(),
            client: key.credential.client().cloned(),
            lens: match key.models.clone() {
                Some(names) => lens.with_names(names),
                None => lens,
            },
            requests_per_minute: key.requests_per_minute,
            concurrent: key.concurrent,
            tokens: key.tokens,
            explain: key.explain,
            priority: key.priority,
            priority_header: key.priority_header,
            usage,
            began,
        }
    }

    /// The name of the client that requests need beside the key.
    pub(super) fn client(&self) -> Option<&ClientName> {
        self.client.as_ref()
    }

    /// Begins a request that counts against the key's limits.
    ///
    /// # Errors
    ///
    /// 429 while the requests of the key are at a limit.
    pub(super) fn begin(&self) -> Result<Permit, ApiError> {
        let limits = (self.requests_per_minute, self.concurrent);
        self.usage.begin(limits.0, limits.1, self.began.elapsed()).map_err(|exceeded| {
            let most = |limit: Option<NonZeroU32>| limit.map_or(0, NonZeroU32::get);
            match exceeded {
                Exceeded::Rate(wait) => limited(
                    format!("This API key may begin {} requests per minute.", most(limits.0)),
                    "rate_limit_exceeded",
                )
                .with_retry_after(wait),
                Exceeded::Concurrency => limited(
                    format!("This API key may have {} requests under way.", most(limits.1)),
                    "concurrency_limit_exceeded",
                ),
            }
        })
    }

    /// Reserves the tokens of a request.
    ///
    /// # Errors
    ///
    /// 429 while a limit forbids it.
    pub(super) fn reserve(&self, permit: &mut Permit, estimate: Amount) -> Result<(), ApiError> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        permit.reserve(&self.tokens, estimate, self.began).map_err(|denied| match denied {
            Denied::Minute { limit, wait } => limited(
                format!("This API key may use {}.", limit.in_words()),
                "rate_limit_exceeded",
            )
            .with_retry_after(wait),
            Denied::Window { limit, ends } => limited(
                format!(
                    "This API key may use {}, and too few are left until {}.",
                    limit.in_words(),
                    rfc3339(ends)
                ),
                "insufficient_quota",
            )
            .without_retry(),
            Denied::TooLarge { limit, needed } => limited(
                format!(
                    "The request is estimated at {needed} tokens, and this API key may use {}.",
                    limit.in_words()
                ),
                "request_too_large",
            )
            .without_retry(),
        })
    }

    /// Puts the limits into the headers of an answer, in place of a worker's.
    pub(super) fn tell_limits(&self, headers: &mut HeaderMap, shape: ErrorShape) {
        told::take_out(headers);
        if self.requests_per_minute.is_none() && self.tokens.is_empty() {
            return;
        }
        let now = Moment::now(self.began);
        let requests = self.requests_per_minute.map(|most| self.usage.requests(most, now.steady));
        let tokens = self.token_shares(now).map(|(limit, share)| (limit.counted, share));
        Told::new(requests, tokens).put(headers, shape, now.wall);
    }

    /// The part that is left of each limit, by the limit's name: 1 where nothing is used, 0 where
    /// nothing is left.
    pub(crate) fn remaining(&self) -> Vec<(String, f64)> {
        let now = Moment::now(self.began);
        let part = |share: Share| share.remaining as f64 / share.limit as f64;
        let mut all = Vec::new();
        if let Some(most) = self.requests_per_minute {
            all.push(("requests_per_minute".into(), part(self.usage.requests(most, now.steady))));
        }
        if let Some(most) = self.concurrent {
            let limit = u64::from(most.get());
            let remaining = limit.saturating_sub(self.usage.counts().in_flight.into());
            all.push(("concurrent".into(), remaining as f64 / limit as f64));
        }
        all.extend(self.token_shares(now).map(|(limit, share)| (limit.name(), part(share))));
        all
    }

    fn token_shares(&self, now: Moment) -> impl Iterator<Item = (TokenLimit, Share)> {
        let shares = (!self.tokens.is_empty()).then(|| self.usage.ledger.shares(&self.tokens, now));
        shares.into_iter().flatten()
    }
}

fn limited(message: String, code: &'static str) -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).with_code(code)
}
