//! Random numbers that no other process has.

use std::hash::{BuildHasher as _, RandomState};

/// A random number, whose seed comes from the operating system.
///
/// `fastrand` is no source of names: it seeds each thread with the time and the thread's number, so two
/// processes that start at the same moment may draw the same numbers.
pub(crate) fn number() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_number_comes_twice_and_no_bit_is_fixed() {
        let draw = || (0..1000).map(|_| number());
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(move || draw().collect::<Vec<_>>())).collect();
        let drawn: Vec<u64> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), 4000);
        assert_eq!(drawn.iter().fold(0, |bits, number| bits | number), u64::MAX);
        assert_eq!(drawn.iter().fold(u64::MAX, |bits, number| bits & number), 0);
    }
}
