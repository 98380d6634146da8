//! An address that others take over: whose prompts their engines see, and for how long they may.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamo_tests::{Program, Prompt, ScriptedEngine};
use tokio::time::Instant;

/// Between questions of a frontend to a control port, and for the answer.
pub const ASKED: Duration = Duration::from_secs(3);

/// For how long after a worker's death a stranger at its engine's address may get prompts.
///
/// `Some` is a time after the death, whatever the store says. `None` is until the store has lost the
/// dead worker's entry, as it is where nobody asks control ports.
const BOUND: Option<Duration> = Some(ASKED);

/// The lease of a worker whose address is taken over: much longer than `BOUND` may be, so that the
/// two can be told apart.
pub const LEASE: &str = "60";

/// As all deadlines here, generous: a busy machine proves nothing.
fn generous(bound: Duration) -> Duration {
    5 * bound + Duration::from_secs(10)
}

/// The namespace that the strangers are of. Each prompt begins with the namespace that it is from.
pub const STRANGE: &str = "team-b";

/// An engine of another namespace, where one of ours was.
struct Stranger {
    engine: ScriptedEngine,
    _worker: Option<Program>,
    /// The instance that was there, when it died, and when the store had lost it.
    instance: String,
    died: Instant,
    lost: Option<Instant>,
}

/// All who took an address over; each stays.
#[derive(Clone, Default)]
pub struct Strangers(Arc<Mutex<Vec<Stranger>>>);

impl Strangers {
    /// Someone moves in where this instance died.
    pub fn move_in(
        &self,
        engine: ScriptedEngine,
        worker: Option<Program>,
        instance: String,
        died: Instant,
    ) {
        let stranger = Stranger { engine, _worker: worker, instance, died, lost: None };
        self.0.lock().unwrap().push(stranger);
    }

    /// The store has these instances, and no others.
    pub fn store_has(&self, instances: &BTreeSet<String>) {
        for stranger in self.0.lock().unwrap().iter_mut() {
            if !instances.contains(&stranger.instance) {
                stranger.lost.get_or_insert_with(Instant::now);
            }
        }
    }

    /// **N**: no prompt reaches an engine of another namespace, but for the time that the bound allows.
    /// Returns how many did within that time.
    pub fn check(&self, breaches: &mut Vec<String>) -> usize {
        let mut allowed = 0;
        for stranger in self.0.lock().unwrap().iter() {
            let until = match BOUND {
                Some(bound) => Some(stranger.died + generous(bound)),
                None => stranger.lost.map(|lost| lost + generous(ASKED)),
            };
            let mut astray = stranger.engine.seen();
            astray.retain(|prompt| !prompt.text.starts_with(STRANGE));
            let late = |prompt: &&Prompt| until.is_some_and(|until| prompt.at > until);
            let late: Vec<_> = astray.iter().filter(late).collect();
            allowed += astray.len() - late.len();
            if let Some(last) = late.last() {
                breaches.push(format!(
                    "{} prompts reached an engine of another namespace too late, the last one {:?} \
                     after the death of the worker at that address, {:?} after the store had lost \
                     it: {:?}",
                    late.len(),
                    last.at - stranger.died,
                    stranger.lost.map(|lost| last.at - lost),
                    last.text,
                ));
            }
        }
        allowed
    }
}
