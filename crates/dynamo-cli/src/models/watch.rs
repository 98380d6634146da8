//! The instances that a frontend discovers, as they change.

use std::io::{ErrorKind, Write as _};
use std::sync::Arc;

use anyhow::Context as _;
use dynamo_discovery::{
    DiscoveryEvent, Entry, Gone, Instance, ModelUpdate, ModelWatcher, Revision, WatcherConfig,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::item::Item;
use super::shelf::Shelf;
use super::table::escaped;
use crate::failure::Failure;
use crate::settings::value::EntryFormat;

/// Prints every change until a signal comes, or nobody reads any more.
///
/// # Errors
///
/// When signals cannot be listened to, or stdout cannot be written.
pub(super) async fn run(shelf: Shelf, format: EntryFormat) -> Result<(), Failure> {
    let listen = |kind| signal(kind).context("cannot listen for signals").map_err(Failure::Running);
    let mut interrupted = listen(SignalKind::interrupt())?;
    let mut terminated = listen(SignalKind::terminate())?;
    let (root, scope) = (shelf.root.clone(), shelf.scope.clone());
    let config = WatcherConfig::new(Arc::new(shelf.into_store()))
        .with_network_prefix(root)
        .with_target_namespace(scope.scope)
        .with_watch_scope(scope.watch);
    let mut watcher = ModelWatcher::new(config).map_err(|error| Failure::Usage(error.into()))?;
    loop {
        let event = tokio::select! {
            event = watcher.next() => event,
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
        };
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(lines(&event, format).as_bytes());
        match written.and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("cannot write to stdout").map_err(Failure::Running)?,
        }
    }
}

/// What is printed of an event. A store that is away is a matter of the log.
fn lines(event: &DiscoveryEvent, format: EntryFormat) -> String {
    match event {
        DiscoveryEvent::Batch(batch) => batch
            .updates
            .iter()
            .map(|update| match update {
                ModelUpdate::Added(instance) => line("added", None, instance, format),
                ModelUpdate::Changed { new, .. } => line("changed", None, new, format),
                ModelUpdate::Removed(instance, gone) => {
                    line("removed", Some(reason(*gone)), instance, format)
                }
            })
            .collect(),
        _ => String::new(),
    }
}

fn reason(gone: Gone) -> &'static str {
    match gone {
        Gone::Withdrawn => "withdrawn",
        Gone::Vanished => "vanished",
        Gone::Refused => "refused",
        Gone::OutOfScope => "moved",
        _ => "gone",
    }
}

fn line(what: &str, reason: Option<&str>, instance: &Instance, format: EntryFormat) -> String {
    if format == EntryFormat::Json {
        let entry = Entry {
            key: instance.key().clone(),
            value: instance.entry().to_json(),
            mod_revision: Revision::default(),
            lease: None,
        };
        let mut object = Item::valid(entry, instance).json();
        // A watch tells neither.
        for unknown in ["lease", "revision"] {
            object.as_object_mut().map(|object| object.remove(unknown));
        }
        return format!("{}\n", json!({ "event": what, "reason": reason, "entry": object }));
    }
    let url = instance.url().map_or_else(|| "-".to_owned(), ToString::to_string);
    let what = reason.map_or_else(|| what.to_owned(), |reason| format!("{what}:{reason}"));
    format!(
        "{what:<18} {}   {}   {url}   {}\n",
        instance.endpoint().namespace(),
        escaped(instance.model()),
        instance.key(),
    )
}
