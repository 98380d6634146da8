//! How instances that vanish are held.

use std::time::Duration;

use crate::config::config;

config! {
    /// How instances that vanish are held.
    ///
    /// An instance that vanishes without having been withdrawn gets no request until its worker's
    /// control port proves that the worker is still there; its model stays known meanwhile. The
    /// instance is then held: until it is published again, until its server takes no connection,
    /// until the control port does not prove it any more (it is asked every 1 to 2 s), until its
    /// worker withdraws it, and for no longer than [`longest`](Self::with_longest). Entries under
    /// flat keys, entries without a URL, and entries without a control port are not held.
    pub struct Hold {
        /// How long an instance is held at most; zero: not at all. Default 30 s.
        longest, with_longest: Duration = Duration::from_secs(30);
        /// How many instances are held at one time; those above go at once. Default 1024.
        at_most, with_at_most: usize = 1024;
        /// Whether an entry without a control port is held, and served from an earlier run, if its
        /// server lists the model and no other entry that the feed knows names its URL. Another
        /// engine at a reused address may list the same model. Default no.
        unproven, with_unproven: bool = false;
    }
}
