//! The rule: what each server costs a request, and which one is taken.

use std::num::NonZeroUsize;

use super::index::Known;
use super::path::{Path, hash};

/// The price of a request in flight, in tokens of prefill.
pub(super) const IN_FLIGHT: f32 = 200.0;
/// The price of a request's own prefill beside that of others: it pays once for its time, and twice
/// because what it evicts is missing later, to a request that makes others wait in turn.
const OWN: f32 = 3.0;
/// Servers whose cost differs by less are equal.
const EQUAL: f32 = 128.0;
/// A session stays at its server while that one costs at most this much more than the best.
const LOYALTY: f32 = 4000.0;
/// The share of the unknown that does not count at the server where another frontend has probably sent
/// the prompt.
const PRESUMED: f32 = 0.7;
/// From this share of tokens on that are known here, prompts repeat often enough to presume.
const REPEATING: f32 = 0.25;

/// What a rule needs to know of one candidate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// The hash of its URL.
    pub(super) name: u64,
    /// Prefill outstanding, in tokens.
    pub(super) outstanding: f32,
    pub(super) in_flight: f32,
}

/// Why a server was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It costs least by more than the margin.
    Cost,
    /// Several cost about the same, and rendezvous hashing decided.
    Rendezvous,
    /// Several cost about the same, the prompt is short, and it was this server's turn.
    Turn,
    /// It costs more than the best, but not much, and the request's session was there last.
    Session,
}

impl Reason {
    /// The reason in one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Rendezvous => "rendezvous",
            Self::Turn => "turn",
            Self::Session => "session",
        }
    }
}

/// How much a frontend relies on others having sent a prompt to its home: 0 for one that is alone, and
/// little where prompts do not repeat. `repeated` is the share of tokens that were known here lately.
pub(super) fn presumption(frontends: NonZeroUsize, repeated: f32) -> f32 {
    if frontends.get() > 1 { PRESUMED * (repeated / REPEATING).min(1.0) } else { 0.0 }
}

/// The server to which all frontends send a prompt that none of them knows: rendezvous hashing over
/// the first block behind the last one where paths part. That block is the first one that tells a
/// conversation from others, so frontends that know different parts of it agree.
fn home(path: &Path, known: &Known, standings: &[Standing]) -> Option<usize> {
    let parting = known.ways.iter().rposition(|ways| *ways > 1).map_or(0, |at| at + 1);
    let block = path.steps().get(parting)?;
    rendezvous(block.hash, 0..standings.len(), standings)
}

fn rendezvous(
    block: u64,
    among: impl Iterator<Item = usize>,
    standings: &[Standing],
) -> Option<usize> {
    among.max_by_key(|at| hash(block, &standings[*at].name.to_le_bytes()))
}

/// The costs of all candidates, and the block that decides between equal ones.
pub(super) struct Costs {
    pub(super) of: Vec<f32>,
    /// The hash of the first block that nobody knows, else of the last block.
    decider: Option<u64>,
}

impl Costs {
    /// What each candidate costs, in tokens of prefill before the request's first token.
    pub(super) fn new(
        path: &Path,
        known: &Known,
        standings: &[Standing],
        bytes_per_token: f32,
        presumption: f32,
    ) -> Self {
        let reach = known.ways.len();
        let servers = standings.len() as f32;
        let tokens_of = |blocks| path.tokens_of(blocks, bytes_per_token);
        // What the blocks from here to the last known one cost a server that lacks them. A block behind
        // which many paths part is worth having everywhere, so it counts little.
        let mut lacking = vec![0.0; reach + 1];
        let mut ways = 1;
        for at in (0..reach).rev() {
            ways = ways.max(known.ways[at]);
            let share = 1.0 + (ways - 1) as f32 / (2.0 * servers);
            lacking[at] = lacking[at + 1] + (tokens_of(at + 1) - tokens_of(at)) / share;
        }
        let beyond = path.tokens(bytes_per_token) - tokens_of(reach);
        let decider = path.steps().get(reach).or(path.steps().last()).map(|step| step.hash);
        let own = |blocks: u32| beyond + lacking[blocks as usize];
        let price = |standing: &Standing| standing.outstanding + IN_FLIGHT * standing.in_flight;
        let of = known.blocks.iter().zip(standings);
        let of = of.map(|(blocks, standing)| OWN * own(*blocks) + price(standing));
        let mut costs = Self { of: of.collect(), decider };
        if presumption > 0.0
            && let Some(home) = home(path, known, standings)
        {
            costs.of[home] -= OWN * presumption * own(known.blocks[home]);
        }
        costs
    }

    /// The candidate that costs least. `turn` decides between equal ones where the prompt does not.
    pub(super) fn choose(
        &self,
        standings: &[Standing],
        last: Option<usize>,
        turn: impl FnOnce() -> usize,
    ) -> Option<(usize, Reason)> {
        let best = self.of.iter().copied().min_by(f32::total_cmp)?;
        if let Some(last) = last
            && self.of[last] <= best + LOYALTY
        {
            return Some((last, Reason::Session));
        }
        let equal = || (0..self.of.len()).filter(|at| self.of[*at] <= best + EQUAL);
        let count = equal().count();
        if count == 1 {
            return Some((equal().next()?, Reason::Cost));
        }
        match self.decider.and_then(|block| rendezvous(block, equal(), standings)) {
            Some(chosen) => Some((chosen, Reason::Rendezvous)),
            None => Some((equal().nth(turn() % count)?, Reason::Turn)),
        }
    }
}
