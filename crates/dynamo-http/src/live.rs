//! A setting that may change while requests read it.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// A setting that may change while requests read it. To read it takes no lock.
#[derive(derive_more::Debug)]
#[debug("{:?}", packed)]
pub(crate) struct Live<T> {
    packed: AtomicU64,
    of: PhantomData<fn() -> T>,
}

/// A value of 64 bits.
pub(crate) trait Packed {
    fn pack(self) -> u64;
    fn unpack(packed: u64) -> Self;
}

impl<T: Packed> Live<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { packed: AtomicU64::new(value.pack()), of: PhantomData }
    }

    /// The value of now.
    pub(crate) fn now(&self) -> T {
        T::unpack(self.packed.load(SeqCst))
    }

    pub(crate) fn set(&self, value: T) {
        self.packed.store(value.pack(), SeqCst);
    }
}

impl Packed for usize {
    fn pack(self) -> u64 {
        self as u64
    }

    fn unpack(packed: u64) -> Self {
        packed as Self
    }
}

impl Packed for Option<NonZeroUsize> {
    fn pack(self) -> u64 {
        self.map_or(0, NonZeroUsize::get).pack()
    }

    fn unpack(packed: u64) -> Self {
        NonZeroUsize::new(usize::unpack(packed))
    }
}

/// In nanoseconds, up to 584 years.
impl Packed for Duration {
    fn pack(self) -> u64 {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX)
    }

    fn unpack(packed: u64) -> Self {
        Self::from_nanos(packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_was_set() {
        fn same<T: Packed + Copy + PartialEq + std::fmt::Debug>(values: &[T]) {
            let live = Live::new(values[0]);
            for value in values {
                live.set(*value);
                assert_eq!(live.now(), *value);
            }
        }
        same(&[0, 1, usize::MAX]);
        same(&[None, NonZeroUsize::new(1), Some(NonZeroUsize::MAX)]);
        same(&[Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1 << 33)]);
        assert_eq!(Live::new(Duration::MAX).now(), Duration::from_nanos(u64::MAX));
    }
}
