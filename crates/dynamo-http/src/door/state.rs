//! The state behind all pages of a front door.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::config::FrontendConfig;
use super::page::Page;
use super::program_metrics::ProgramMetrics;
use super::program_problems::ProgramProblems;
use super::status::shared::Status;
use crate::access::ApiKeys;
use crate::feed::DiscoveryStatus;
use crate::proxy::Proxy;
use crate::serve::Connections;
use crate::view::LiveView;

/// The state behind all pages of a front door.
pub(super) struct State {
    pub(super) proxy: Proxy,
    /// The view of the front door's scope, for operators and for pages that are not about a caller.
    pub(super) all: LiveView,
    pub(super) discovery: DiscoveryStatus,
    /// The keys that admit callers; none where no key is required.
    pub(super) keys: Option<ApiKeys>,
    /// The counts of the front door's listener.
    pub(super) connections: Option<Connections>,
    pub(super) program_metrics: Option<ProgramMetrics>,
    pub(super) program_problems: ProgramProblems,
    pub(super) status: Status,
    pages: [Reports; 2],
    draining: AtomicBool,
}

/// The pages that show all instances.
#[derive(Default)]
pub(super) struct Reports {
    pub(super) health: Page<Bytes>,
    pub(super) metrics: Page<Bytes>,
}

/// The reader of a page about the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A client of the port. The page leaves out every value that changes with other namespaces.
    Client,
    /// A client of the admin port.
    Operator,
}

impl State {
    pub(super) fn new(
        proxy: Proxy,
        all: LiveView,
        discovery: DiscoveryStatus,
        config: &FrontendConfig,
    ) -> Self {
        Self {
            proxy,
            all,
            discovery,
            keys: config.api_keys.clone(),
            connections: config.connections.clone(),
            program_metrics: config.program_metrics.clone(),
            program_problems: config.program_problems.clone(),
            status: Status::new(),
            pages: Default::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// The pages as this reader sees them.
    pub(super) fn reports(&self, reader: Reader) -> &Reports {
        match reader {
            Reader::Client => &self.pages[0],
            Reader::Operator => &self.pages[1],
        }
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
