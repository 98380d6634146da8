//! Shares by weight: weighted rendezvous hashing.
//!
//! Each target draws a lot from the session's hash and its own, and the weight scales the lot. The
//! lowest lot wins. So a change of weights moves a session only to a target whose share grows, and
//! no session between two targets whose weights keep their ratio.

use super::definition::{AliasTarget, hash};

/// The lot of a target for a session.
fn lot(target: &AliasTarget, session: u64) -> f64 {
    let drawn = hash(session, &target.hash().to_le_bytes());
    // The upper 53 bits, as a number between 0 and 1 that is neither.
    let uniform = ((drawn >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(target.weight())
}

/// Puts targets into the order in which they get a session: the first one gets it, and the others, in
/// their order, if those before them have left.
pub(super) fn sort(targets: &mut [&AliasTarget], session: u64) {
    targets.sort_by(|one, other| lot(one, session).total_cmp(&lot(other, session)));
}

/// The hash of a session's name.
pub(super) fn session(name: &[u8]) -> u64 {
    hash(0x5e55_1055, name)
}
