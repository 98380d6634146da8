//! Shares by weight: weighted rendezvous hashing.
//!
//! Each target draws a lot from the session's hash and its own, and the weight scales the lot. The
//! lowest lot wins. So a change of weights moves a session only to a target whose share grows, and
//! no session between two targets whose weights keep their ratio.

use twox_hash::XxHash3_64;

/// The hash of bytes. It is the same in every process, so several frontends share sessions out alike.
pub(super) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// A target's part in the drawing of lots: the hash of its name, and its weight.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    pub(super) hash: u64,
    pub(super) weight: u32,
}

/// The lot of a target for a session.
fn lot(ticket: Ticket, session: u64) -> f64 {
    let drawn = hash(session, &ticket.hash.to_le_bytes());
    // The upper 53 bits, as a number between 0 and 1 that is neither.
    let uniform = ((drawn >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(ticket.weight)
}

/// Puts targets into the order in which they get a session: the first one gets it, and the others, in
/// their order, if those before them have left.
pub(super) fn sort<T>(targets: &mut [T], session: u64, ticket: impl Fn(&T) -> Ticket) {
    let lot = |target: &T| lot(ticket(target), session);
    targets.sort_by(|one, other| lot(one).total_cmp(&lot(other)));
}

/// The hash of a session's name.
pub(super) fn session(name: &[u8]) -> u64 {
    hash(0x5e55_1055, name)
}
