//! An address that others take over: whose prompts their engines see, and for how long they may.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamo_tests::{Program, Prompt, ScriptedEngine};
use tokio::time::Instant;

/// For how long after a worker's death a stranger at its engine's address may get prompts, whatever
/// the store says: between questions of a frontend to a control port, and for the answer.
pub const ASKED: Duration = Duration::from_secs(3);

/// The lease of a worker whose address is taken over: much longer than a bound may be, so that the
/// two can be told apart.
pub const LEASE: &str = "60";

/// The namespace that the strangers are of. Each prompt begins with the namespace that it is from.
pub const STRANGE: &str = "team-b";

/// For how long a stranger may get prompts of others.
#[derive(Clone, Copy)]
pub struct Bound {
    /// When the address was left.
    left: Instant,
    /// As all deadlines here, generous: a busy machine proves nothing.
    until: Instant,
}

impl Bound {
    /// For so long after its address was left, which is what the product promises.
    pub fn after(left: Instant, promised: Duration) -> Self {
        Self { left, until: left + 5 * promised + Duration::from_secs(10) }
    }

    /// Not at all.
    pub fn none() -> Self {
        let now = Instant::now();
        Self { left: now, until: now }
    }
}

/// An engine of another namespace, where one of ours was.
struct Stranger {
    engine: ScriptedEngine,
    _worker: Option<Program>,
    bound: Bound,
}

/// All who took an address over; each stays.
#[derive(Clone, Default)]
pub struct Strangers(Arc<Mutex<Vec<Stranger>>>);

impl Strangers {
    /// Someone moves in.
    pub fn move_in(&self, engine: ScriptedEngine, worker: Option<Program>, bound: Bound) {
        self.0.lock().unwrap().push(Stranger { engine, _worker: worker, bound });
    }

    /// **N**: no prompt reaches an engine of another namespace, but for the time that the bound allows.
    /// Returns how many did within that time.
    pub fn check(&self, breaches: &mut Vec<String>) -> usize {
        let mut allowed = 0;
        for stranger in self.0.lock().unwrap().iter() {
            let mut astray = stranger.engine.seen();
            astray.retain(|prompt| !prompt.text.starts_with(STRANGE));
            let late = |prompt: &&Prompt| prompt.at > stranger.bound.until;
            let late: Vec<_> = astray.iter().filter(late).collect();
            allowed += astray.len() - late.len();
            if let Some(last) = late.last() {
                breaches.push(format!(
                    "{} prompts reached an engine of another namespace too late, the last one {:?} \
                     after its address was left: {:?}",
                    late.len(),
                    last.at - stranger.bound.left,
                    last.text,
                ));
            }
        }
        allowed
    }
}
