//! Follows the names of servers in use: connections to addresses that a name has left are closed.
//!
//! A server that is always busy would else keep its connections, and so its address, for ever.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::time::{MissedTickBehavior, interval};

use super::connect::ConnectError;
use super::fleet::Fleet;
use super::upstream::Upstream;

/// How often a name in use is resolved. A resolver that remembers its answers is not asked more often
/// than they end.
const INTERVAL: Duration = Duration::from_secs(5);
/// How many names are resolved at one time.
const AT_ONCE: usize = 8;

impl Fleet {
    /// Follows the names, for as long as `owner` lives.
    pub(crate) async fn follow_names_while(self, owner: Weak<impl Sized>) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if owner.strong_count() == 0 {
                return;
            }
            let followed =
                self.names().into_iter().map(|(name, servers)| self.follow(name, servers));
            stream::iter(followed).for_each_concurrent(AT_ONCE, |one| one).await;
        }
    }

    /// The servers in use that are reached by a name, by that name.
    fn names(&self) -> BTreeMap<String, Vec<Arc<Upstream>>> {
        let mut names = BTreeMap::<_, Vec<_>>::new();
        for server in self.all_servers() {
            let host = server.url.host();
            if server.attended.load(Relaxed) && !super::connect::is_address(host) {
                names.entry(host.to_owned()).or_default().push(server);
            }
        }
        names
    }

    async fn follow(&self, name: String, servers: Vec<Arc<Upstream>>) {
        let addresses = match self.connector().addresses(&name).await {
            Ok(addresses) => addresses,
            Err(ConnectError::Theirs(_)) => Vec::new(),
            Err(ConnectError::Ours(_)) => return,
        };
        for server in servers {
            server.pool().keep_only(&addresses);
        }
    }
}
