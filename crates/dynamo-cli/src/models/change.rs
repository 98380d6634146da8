//! Taking an entry out of service, and out of the store.

use std::time::Duration;

use anyhow::anyhow;
use dynamo_discovery::{ControlUrl, InstanceId, InstanceStatus, ModelEntry};
use http::StatusCode;

use super::item::{Item, Layout, Standing};
use super::shelf::{Shelf, failed};
use super::show;
use super::workers::Workers;
use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(5);
/// The control port waits for the store for 5 s before it answers.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// Takes an entry's worker out of service, and says how.
///
/// # Errors
///
/// When the entry is not ours to change, when the worker wants another key, or when the store fails.
pub(super) async fn drain(
    shelf: &Shelf,
    item: &Item,
    workers: &Workers,
) -> Result<String, Failure> {
    let key = &item.entry.key;
    check_ours(item)?;
    if let Some(why) = show::why(item) {
        return Err(refuse(format!(
            "{key} is refused ({why}), so no frontend uses it: `rm` deletes it"
        )));
    }
    let unasked = match (&item.offer.control, item.place.instance) {
        (Some(control), Some(id)) => match by_control_port(workers, control, id).await? {
            Asked::Done(told) => return Ok(format!("{key}: {told}\n")),
            Asked::Not(why) => why,
        },
        _ => "the entry names no control port".to_owned(),
    };
    if item.entry.lease.is_none() {
        return Err(refuse(format!(
            "{key} is under no lease, so no worker looks after it: `rm` deletes it"
        )));
    }
    if item.standing == Standing::Draining {
        return Ok(format!("{key}: it is draining already\n"));
    }
    let drained = ModelEntry::drained(&item.entry.value)
        .map_err(|error| refuse(format!("{key} cannot be marked: {error}")))?;
    match shelf.put(item, drained).await {
        Ok(true) => Ok(format!(
            "{key}: marked as draining in the store, since {unasked}; its worker does not know, and \
             marks it as serving when it registers again\n"
        )),
        Ok(false) => Err(refuse(format!("{key} has changed meanwhile: look at it again"))),
        Err(error) => Err(failed(&format!("cannot mark {key}"), &error)),
    }
}

/// Deletes an entry, and says what follows.
///
/// # Errors
///
/// When the entry is not ours to change, has changed, or the store fails.
pub(super) async fn remove(shelf: &Shelf, item: &Item) -> Result<String, Failure> {
    let key = &item.entry.key;
    check_ours(item)?;
    match shelf.delete(item).await {
        Ok(true) if item.entry.lease.is_some() => Ok(format!(
            "{key}: deleted. It was under a lease: a worker that lives writes it again, and `drain` \
             takes that out of service\n"
        )),
        Ok(true) => Ok(format!("{key}: deleted\n")),
        Ok(false) => Err(refuse(format!("{key} has changed meanwhile: look at it again"))),
        Err(error) => Err(failed(&format!("cannot delete {key}"), &error)),
    }
}

fn check_ours(item: &Item) -> Result<(), Failure> {
    if item.layout != Layout::Dynamo {
        return Ok(());
    }
    Err(refuse(format!(
        "{} is an entry of Dynamo 0.6 or later, which is only shown here: its own worker takes it out",
        item.entry.key
    )))
}

fn refuse(why: String) -> Failure {
    Failure::Running(anyhow!(why))
}

/// What came of asking a control port.
enum Asked {
    /// The worker drains, in words.
    Done(String),
    /// The worker could not be told, in words.
    Not(String),
}

/// Tells the worker to drain, once the control port has shown that it is this worker's.
async fn by_control_port(
    workers: &Workers,
    control: &ControlUrl,
    id: InstanceId,
) -> Result<Asked, Failure> {
    match workers.control(control).get(&InstanceStatus::path(id), PATIENCE).await {
        Ok(answer) if answer.status == StatusCode::OK => {}
        // The key is for the entry's worker and for nobody else.
        Ok(_) => return Ok(Asked::Not(format!("{control} is no longer this worker's"))),
        Err(error) => return Ok(Asked::Not(format!("{control} gives no answer ({error})"))),
    }
    match workers.control_with_key(control).post("/drain", DRAIN_PATIENCE).await {
        Ok(answer) => match answer.status {
            StatusCode::OK => Ok(Asked::Done(format!(
                "its worker has withdrawn all its models; POST {control}/undrain brings them back"
            ))),
            StatusCode::ACCEPTED => Ok(Asked::Done(format!(
                "its worker withdraws all its models; POST {control}/undrain brings them back"
            ))),
            StatusCode::CONFLICT => Ok(Asked::Done("its worker is ending".to_owned())),
            StatusCode::NOT_FOUND => Ok(Asked::Not(format!(
                "{control} lets nobody drain (the worker has no --control-key-file)"
            ))),
            StatusCode::UNAUTHORIZED => Err(refuse(format!(
                "the control port {control} wants its key: give --control-key-file the file that \
                 its worker was given"
            ))),
            status => Ok(Asked::Not(format!("{control} answers {}", status.as_u16()))),
        },
        Err(error) => Ok(Asked::Not(format!("{control} gives no answer ({error})"))),
    }
}
