//! How instances that vanish are held.

use std::time::Duration;

use crate::config::config;

config! {
    /// How instances that vanish are held.
    ///
    /// An instance that vanishes without having been withdrawn goes on serving while its server is
    /// asked whether it answers. If the server does within a second, the instance is held: until it
    /// is published again, until its server takes no connection or fails a probe (there is one every
    /// 1 to 2 s), until its worker withdraws it, and for no longer than
    /// [`longest`](Self::with_longest). Entries under flat keys, and entries without a URL, are not
    /// held.
    pub struct Hold {
        /// How long an instance is held at most; zero: not at all. Default 30 s.
        longest, with_longest: Duration = Duration::from_secs(30);
        /// How many instances are held at one time; those above go at once. Default 1024.
        at_most, with_at_most: usize = 1024;
    }
}
