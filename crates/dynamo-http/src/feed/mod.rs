//! The task between discovery and the switchboard.

mod keep;
mod source;
mod status;

use std::sync::Arc;

use dynamo_discovery::{DiscoveryBatch, DiscoveryEvent, Instance, ModelUpdate};
use futures_util::stream::{BoxStream, SelectAll, StreamExt as _};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{info, warn};

pub(crate) use self::keep::Keep;
pub use self::source::Source;
pub use self::status::{DiscoveryStatus, SourceStatus};
use crate::quiet::Quiet;
use crate::view::{OpenRequest, RouteChange, Scopes, SwitchboardWriter};

/// Keeps a switchboard current from its sources.
///
/// Events that are ready together are published together. A part of a list is published with the
/// event that follows it, so that a long list is not published piece by piece. The switchboard is
/// ready when every source has delivered its first list, and stays ready when a source fails later.
#[derive(derive_more::Debug)]
#[debug("Feed({status:?})")]
pub struct Feed {
    writer: SwitchboardWriter,
    status: DiscoveryStatus,
    events: SelectAll<BoxStream<'static, (usize, DiscoveryEvent)>>,
    scopes: Scopes,
    to_open: UnboundedReceiver<OpenRequest>,
    keep: Box<dyn Keep>,
    /// The instances that an earlier run knew, by source.
    remembered: Vec<Vec<Arc<Instance>>>,
}

impl Feed {
    /// A feed that is not running yet. [`run`](Self::run) does the work.
    pub fn new(writer: SwitchboardWriter, sources: impl IntoIterator<Item = Source>) -> Self {
        let mut statuses = Vec::new();
        let mut events = SelectAll::new();
        let mut remembered = Vec::new();
        for (index, source) in sources.into_iter().enumerate() {
            remembered.push(source.remembered);
            statuses.push(SourceStatus::new(source.name));
            events.push(source.events.map(move |event| (index, event)).boxed());
        }
        let (scopes, to_open) = Scopes::new();
        let status = DiscoveryStatus::of(statuses);
        Self { writer, status, events, scopes, to_open, keep: Box::new(keep::Nothing), remembered }
    }

    /// The same feed with another step between its sources and the switchboard.
    pub(crate) fn with_keep(self, keep: Box<dyn Keep>) -> Self {
        Self { keep, ..self }
    }

    /// The state of the sources.
    pub fn status(&self) -> DiscoveryStatus {
        self.status.clone()
    }

    /// A handle that opens views of further scopes while the feed runs.
    pub fn scopes(&self) -> Scopes {
        self.scopes.clone()
    }

    /// Runs the feed until the last source ends. The stream of a watcher never ends.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, if the feed holds instances (`with_hold`): it sets timers and
    /// spawns tasks.
    pub async fn run(self) {
        /// The most events in one publication.
        const AT_ONCE: usize = 1024;

        let Self { mut writer, status, events, scopes: _, mut to_open, mut keep, remembered } =
            self;
        for (source, instances) in remembered.into_iter().enumerate() {
            keep.remember(source, instances);
        }
        let mut ready = false;
        let mut events = events.ready_chunks(AT_ONCE);
        loop {
            let chunk = tokio::select! {
                chunk = events.next() => match chunk {
                    Some(chunk) => chunk,
                    None => return,
                },
                Some(OpenRequest { scopes, opened }) = to_open.recv() => {
                    let views = scopes.iter().map(|scope| writer.open(scope)).collect();
                    log(&writer.publish());
                    // The receiver may have gone. The next publication then closes the views.
                    let _ = opened.send(views);
                    continue;
                }
                () = keep.wait() => {
                    keep.work(&mut writer);
                    Vec::new()
                }
            };
            for (source, event) in &chunk {
                status.sources()[*source].note(event);
                if let DiscoveryEvent::Batch(batch) = event {
                    tell_unroutable(batch);
                    keep.stage(*source, batch, &mut writer);
                }
            }
            for (source, status) in status.sources().iter().enumerate() {
                status.note_remembered(keep.remembered(source));
            }
            if !ready {
                let mut sources = status.sources().iter().enumerate();
                ready = sources
                    .all(|(source, status)| status.synced() || keep.remembers_enough(source));
                if ready {
                    writer.stage_ready();
                    tell_ready(&status);
                }
            }
            if chunk.is_empty() || !chunk.iter().all(|(_, event)| is_part(event)) {
                log(&writer.publish());
            }
        }
    }
}

/// Whether the event is a part of a list whose rest follows at once.
fn is_part(event: &DiscoveryEvent) -> bool {
    matches!(event, DiscoveryEvent::Batch(batch) if batch.more)
}

/// Logs that instances came which no request can reach, at most once a minute.
fn tell_unroutable(batch: &DiscoveryBatch) {
    static LINE: Quiet = Quiet::new();

    let added = batch.updates.iter().filter_map(|update| match update {
        ModelUpdate::Added(new) | ModelUpdate::Changed { new, .. } => Some(new),
        _ => None,
    });
    let mut unroutable = added.filter(|new| new.url().is_none() && !new.kinds().is_empty());
    let Some(first) = unroutable.next() else { return };
    if let Some(left_out) = LINE.may_write() {
        warn!(
            model = first.model(),
            namespace = %first.endpoint().namespace(),
            instances = 1 + unroutable.count(),
            left_out,
            "instances are registered without a URL, so that no request can be sent to them: only \
             Dynamo's own frontend reaches Dynamo's workers"
        );
    }
}

fn tell_ready(status: &DiscoveryStatus) {
    info!("discovery is ready");
    for source in status.sources().iter().filter(|source| !source.synced()) {
        let (source, instances) = (source.name(), source.remembered());
        warn!(
            source,
            instances, "the source has not answered yet: what an earlier run knew of it serves"
        );
    }
}

fn log(changes: &[RouteChange]) {
    for change in changes {
        let path = change.route.path();
        let what = if change.open { "route opened" } else { "route closed" };
        info!(path, scope = %change.scope, "{what}");
    }
}
