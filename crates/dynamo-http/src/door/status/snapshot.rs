//! The status of a front door at one moment.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dynamo_discovery::{Instance, WorkerUrl};

use super::history::Recent;
use crate::fleet::{Fleet, Outage, outage};
use crate::meter::Totals;
use crate::view::View;

/// The status of a front door at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// In unix seconds.
    pub(super) at: u64,
    pub(super) view: Arc<View>,
    /// All instances, by namespace, model and key.
    pub(super) rows: Vec<Row>,
    /// Workers that no instance names any more, with the requests that they still answer.
    pub(super) leaving: BTreeMap<String, usize>,
    pub(super) recent: Recent,
}

/// An instance.
#[derive(Debug)]
pub(super) struct Row {
    instance: Arc<Instance>,
    held_since: Option<u64>,
    outage: Option<Outage>,
    pub(super) in_flight: usize,
    /// Whether its server has series, so that rates of it are known.
    is_used: bool,
}

impl Row {
    /// What an instance can be, from best to worst.
    pub(super) const STATES: [&'static str; 4] = ["serving", "held", "out", "unroutable"];

    pub(super) fn namespace(&self) -> &str {
        self.instance.endpoint().namespace().as_str()
    }

    pub(super) fn model(&self) -> &str {
        self.instance.model()
    }

    pub(super) fn url(&self) -> Option<&str> {
        self.instance.url().map(WorkerUrl::as_str)
    }

    pub(super) fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The key of the instance's entry.
    pub(super) fn key(&self) -> String {
        self.instance.key().to_string()
    }

    /// One of the [`STATES`](Self::STATES).
    pub(super) fn state(&self) -> &'static str {
        match (&self.outage, self.held_since, self.instance.url()) {
            (_, _, None) => Self::STATES[3],
            (Some(_), ..) => Self::STATES[2],
            (None, Some(_), _) => Self::STATES[1],
            (None, None, _) => Self::STATES[0],
        }
    }

    /// Why it is not just serving.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match (&self.outage, self.held_since, self.instance.url()) {
            (_, None, None) => Some("registered without a URL"),
            (_, Some(_), None) => Some("the store has lost it, and its worker is being asked"),
            (Some(outage), ..) => Some(outage.reason),
            (None, Some(_), _) => Some("the store has lost it, and its worker answers"),
            (None, None, _) => None,
        }
    }

    /// Since when it is so, in unix seconds.
    pub(super) fn since(&self, now: u64) -> Option<u64> {
        let out_since = |outage: &Outage| now.saturating_sub(outage.lasts.as_secs());
        self.outage.as_ref().map(out_since).or(self.held_since)
    }

    /// What its server has counted lately, if it had a request.
    pub(super) fn recent<'a>(&self, recent: &'a Recent) -> Option<&'a Totals> {
        self.url().filter(|_| self.is_used).and_then(|url| recent.workers.get(url))
    }
}

impl Snapshot {
    pub(super) fn take(view: Arc<View>, fleet: &Fleet, recent: Recent) -> Self {
        let mut rows: Vec<Row> = view
            .instances()
            .map(|instance| {
                let server = fleet.server_of(instance);
                Row {
                    held_since: view.held_since(instance),
                    outage: server.as_ref().and_then(|server| outage(server, instance)),
                    in_flight: server.as_ref().map_or(0, |server| server.load.in_flight()),
                    is_used: server.is_some_and(|server| fleet.has_series(&server)),
                    instance: instance.clone(),
                }
            })
            .collect();
        rows.sort_by(|one, other| {
            let by_namespace = one.namespace().cmp(other.namespace());
            let by_model = || one.model().cmp(other.model());
            let by_key = || one.instance.key().cmp(other.instance.key());
            by_namespace.then_with(by_model).then_with(by_key)
        });
        let named: HashSet<&str> = rows.iter().filter_map(Row::url).collect();
        let leaving = fleet
            .all_servers()
            .filter(|server| !named.contains(server.url.as_str()))
            .map(|server| (server.url.to_string(), server.load.in_flight()))
            .filter(|(_, in_flight)| *in_flight > 0)
            .collect();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { at: at.as_secs(), leaving, recent, rows, view }
    }
}
