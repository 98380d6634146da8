//! The log lines of a watcher: each fact once, and a flood kept short.

use std::collections::HashSet;
use std::fmt;

use tracing::{debug, error, info, warn};

use super::event::DiscoveryEvent;
use crate::catalog::{Applied, Gone, ModelUpdate, Refused};
use crate::error_chain::ErrorChain;
use crate::instance::Instance;
use crate::store::{Key, KeyRange, Revision, StoreError};

/// The keys that a watcher must be allowed to read.
pub(super) struct Needs {
    pub(super) range: KeyRange,
    /// The range that [`WatchScope::Key`](super::WatchScope::Key) would need.
    pub(super) narrower: Option<KeyRange>,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, narrower } = self;
        write!(f, "read permission for the keys from {} to {}", range.start(), range.end())?;
        match narrower {
            Some(narrow) => write!(
                f,
                "; with the watch scope `key` only from {} to {}",
                narrow.start(),
                narrow.end()
            ),
            None => Ok(()),
        }
    }
}

/// The facts that were logged already.
#[derive(Default)]
pub(super) struct Told {
    /// Keys whose refusal was logged.
    refused: HashSet<Key>,
    /// Keys of which an ignored field was logged.
    ignored: HashSet<Key>,
    /// The kinds of outage that were logged since the watch ran last.
    outages: Vec<DiscoveryEvent>,
    /// What this batch has changed so far; during a list, what all batches of it have.
    so_far: Counts,
}

#[derive(Default)]
struct Counts {
    changes: usize,
    refused: usize,
    out_of_scope: usize,
}

impl Told {
    /// How many keys of each set are remembered.
    const REMEMBERED: usize = 1024;
    /// How many changes of one batch, or of one list, are logged at info level. The rest is logged at
    /// debug level.
    const CHANGES: usize = 16;

    /// A batch or a list begins.
    pub(super) fn begin(&mut self) {
        self.so_far = Counts::default();
    }

    pub(super) fn connected(&mut self) {
        info!("connected to the store");
        self.outages.clear();
    }

    pub(super) fn outage(&mut self, event: &DiscoveryEvent, error: &StoreError, needs: &Needs) {
        if self.outages.contains(event) {
            return;
        }
        self.outages.push(event.clone());
        let error = ErrorChain(error);
        if *event == DiscoveryEvent::Denied {
            error!(
                %error,
                %needs,
                "the store denies access, retrying; what is known stays in service"
            );
        } else {
            warn!(%error, "store unavailable, retrying; what is known stays in service");
        }
    }

    pub(super) fn listed(&self, revision: Revision) {
        let Counts { changes, refused, out_of_scope } = self.so_far;
        info!(%revision, changes, refused, out_of_scope, "listed");
    }

    pub(super) fn tell(&mut self, applied: &Applied) {
        for (index, update) in applied.updates.iter().enumerate() {
            tell_update(update, self.so_far.changes + index < Self::CHANGES);
        }
        self.so_far.changes += applied.updates.len();
        self.so_far.refused += applied.refused.len();
        self.so_far.out_of_scope += applied.out_of_scope;
        for refused in &applied.refused {
            self.tell_refused(refused);
        }
        for ignored in &applied.ignored {
            if is_first(&mut self.ignored, &ignored.key) {
                let (error, key) = (&ignored.error, &ignored.key);
                warn!(%error, %key, "the entry's control address is ignored");
            }
        }
        for key in &applied.unknown_deletes {
            debug!(%key, "deleted key was not known");
        }
    }

    fn tell_refused(&mut self, refused: &Refused) {
        if is_first(&mut self.refused, &refused.key) {
            warn!(
                error = %ErrorChain(&refused.error),
                model_name = refused.model.as_deref(),
                namespace = refused.namespace.as_ref().map(AsRef::<str>::as_ref),
                key = %refused.key,
                "entry refused"
            );
        }
    }
}

/// Whether a key is not yet in a set, which remembers it.
fn is_first(told: &mut HashSet<Key>, key: &Key) -> bool {
    if told.len() >= Told::REMEMBERED {
        told.clear();
    }
    told.insert(key.clone())
}

fn tell_update(update: &ModelUpdate, prominent: bool) {
    let tell = |instance: &Instance, gone: Option<Gone>, what: &str| {
        let entry = instance.entry();
        let (model_name, endpoint) = (entry.name(), entry.endpoint());
        let gone = gone.map(tracing::field::debug);
        if prominent {
            info!(model_name, %endpoint, key = %instance.key(), gone, "{what}");
        } else {
            debug!(model_name, %endpoint, key = %instance.key(), gone, "{what}");
        }
        for flag in entry.unknown_kinds() {
            debug!(model_name, flag = %flag.escape_default(), "unknown flag skipped");
        }
    };
    match update {
        ModelUpdate::Added(new) => tell(new, None, "instance added"),
        ModelUpdate::Changed { new, .. } => tell(new, None, "instance changed"),
        ModelUpdate::Removed(old, gone) => tell(old, Some(*gone), "instance removed"),
    }
}
