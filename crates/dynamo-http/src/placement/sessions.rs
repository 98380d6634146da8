//! Where each session was last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::server::Server;

/// How many sessions are remembered at most.
const MOST: usize = 100_000;
/// A session that is idle for so long is forgotten.
const IDLE: Duration = Duration::from_secs(3600);
/// The sessions are in so many parts, each with a lock of its own.
const PARTS: usize = 16;

/// The last server of each session.
///
/// Each part has two generations. When the young one is full it becomes the old one, and what was the
/// old one is forgotten. So what was used last stays, without a list of uses.
#[derive(Debug, Default)]
pub(super) struct Sessions([Mutex<Generations>; PARTS]);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Last>,
    old: HashMap<u64, Last>,
}

#[derive(Debug)]
struct Last {
    server: Weak<Server>,
    at: Instant,
}

impl Sessions {
    /// The server where a session was in the last hour.
    pub(super) fn last(&self, session: u64, now: Instant) -> Option<Arc<Server>> {
        let part = self.part(session).lock().unwrap_or_else(PoisonError::into_inner);
        let last = part.young.get(&session).or_else(|| part.old.get(&session))?;
        (now.saturating_duration_since(last.at) < IDLE).then(|| last.server.upgrade()).flatten()
    }

    /// Notes where a session is now.
    pub(super) fn note(&self, session: u64, server: &Arc<Server>, now: Instant) {
        let mut part = self.part(session).lock().unwrap_or_else(PoisonError::into_inner);
        if part.young.len() >= MOST / PARTS / 2 && !part.young.contains_key(&session) {
            part.old = std::mem::take(&mut part.young);
        }
        part.old.remove(&session);
        part.young.insert(session, Last { server: Arc::downgrade(server), at: now });
    }

    /// How many sessions are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let parts = self.0.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner));
        parts.map(|part| part.young.len() + part.old.len()).sum()
    }

    fn part(&self, session: u64) -> &Mutex<Generations> {
        &self.0[(session >> 60) as usize % PARTS]
    }
}
