//! How many frontends send requests to the same servers.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How many frontends send requests to the same servers, this one among them. It may change while
/// requests are served. A clone is the same number.
///
/// ```
/// use std::num::NonZeroUsize;
/// use dynamo_http::placement::Frontends;
///
/// let frontends = Frontends::default();
/// assert_eq!(frontends.count().get(), 1);
/// frontends.clone().set(NonZeroUsize::new(3).unwrap());
/// assert_eq!(frontends.count().get(), 3);
/// ```
#[derive(Clone, Debug)]
pub struct Frontends(Arc<AtomicUsize>);

impl Frontends {
    /// So many frontends.
    pub fn new(count: NonZeroUsize) -> Self {
        Self(Arc::new(AtomicUsize::new(count.get())))
    }

    /// Notes that there are so many now.
    pub fn set(&self, count: NonZeroUsize) {
        self.0.store(count.get(), Relaxed);
    }

    /// How many there are now.
    pub fn count(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.0.load(Relaxed)).unwrap_or(NonZeroUsize::MIN)
    }
}

impl Default for Frontends {
    /// One frontend, which is alone.
    fn default() -> Self {
        Self::new(NonZeroUsize::MIN)
    }
}

impl From<NonZeroUsize> for Frontends {
    fn from(count: NonZeroUsize) -> Self {
        Self::new(count)
    }
}
