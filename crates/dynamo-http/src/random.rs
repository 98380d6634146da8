//! Random numbers for ids that no other process has.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, RandomState};

use fastrand::Rng;

thread_local! {
    /// Seeded by the operating system. The generator that `fastrand` itself keeps for a thread is seeded
    /// with the time and the thread's number: frontends that start at the same moment might give their
    /// requests the same ids.
    static IDS: RefCell<Rng> = RefCell::new(Rng::with_seed(seed()));
}

/// A number that the operating system has made random. Nobody can tell it from the ids of requests.
pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(())
}

/// Draws the numbers of an id. Whoever has seen several of them can tell the next ones.
pub(crate) fn id<T>(draw: impl FnOnce(&mut Rng) -> T) -> T {
    IDS.with_borrow_mut(draw)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_thread_draws_the_ids_of_another_one() {
        let draw = || (0..1000).map(|_| id(|ids| ids.u128(..))).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let drawn = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        assert_eq!(drawn.collect::<HashSet<_>>().len(), 4000);
    }

    #[test]
    fn no_seed_comes_twice() {
        assert_eq!((0..1000).map(|_| seed()).collect::<HashSet<_>>().len(), 1000);
    }
}
