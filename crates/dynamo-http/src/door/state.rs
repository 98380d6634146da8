//! The state behind all pages of a front door.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::access::ApiKeys;
use crate::feed::DiscoveryStatus;
use crate::proxy::Proxy;
use crate::view::LiveView;

/// The state behind all pages of a front door.
pub(super) struct State {
    pub(super) proxy: Proxy,
    /// All of the front door's scope: for operators, and for pages that name no caller's models.
    pub(super) all: LiveView,
    pub(super) discovery: DiscoveryStatus,
    /// The keys that let callers in; none where no key is required.
    pub(super) keys: Option<ApiKeys>,
    draining: AtomicBool,
}

/// Who reads a page about the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Anyone who reaches the port. What happens in other namespaces is not theirs to know, so
    /// nothing is told that moves with it.
    Client,
    /// Whoever reaches the admin port.
    Operator,
}

impl State {
    pub(super) fn new(
        proxy: Proxy,
        all: LiveView,
        discovery: DiscoveryStatus,
        keys: Option<ApiKeys>,
    ) -> Self {
        Self { proxy, all, discovery, keys, draining: AtomicBool::new(false) }
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
