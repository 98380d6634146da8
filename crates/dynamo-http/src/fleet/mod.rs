//! The workers' servers, as one front door knows them: how each is reached, its connections, its
//! load, its standing.
//!
//! Views say who serves what. A fleet is what one reader of such views adds to that, so two front
//! doors on one switchboard share no connection, no count and no limit.

mod asking;
mod attention;
mod claims;
mod connect;
mod dial;
#[expect(clippy::module_inception, reason = "the file's subject is the fleet itself")]
mod fleet;
mod identity;
mod known;
mod line;
mod load;
mod names;
mod network;
mod patience;
mod place;
mod pool;
mod probe;
mod question;
mod resolve;
mod rotation;
mod standing;
mod targets;
mod tenants;
mod terms;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod transport;
mod upkeep;
mod upstream;
mod window;
mod worker_key;

pub(crate) use self::claims::{Claim, Claimed};
pub(crate) use self::connect::{ConnectError, Connector};
pub use self::fleet::Fleet;
pub(crate) use self::fleet::{outage, reasons};
pub(crate) use self::identity::{Finding, Identity};
pub(crate) use self::line::Rank;
pub(crate) use self::load::ConcurrencyLimit;
pub use self::network::{InvalidNetwork, Network, Networks};
pub(crate) use self::patience::Patience;
pub(crate) use self::place::Place;
pub(crate) use self::pool::{Connection, ExchangeError, Judge, Wait};
pub use self::resolve::{Resolve, ResolveError, Resolving, SystemResolver};
pub(crate) use self::rotation::Outage;
#[cfg(test)]
pub(crate) use self::standing::FAILURES;
pub(crate) use self::standing::Out;
pub(crate) use self::targets::{Lasting, Need, Origin, Targets};
pub(crate) use self::tenants::Tenants;
pub(crate) use self::terms::{key_of, networks_of};
pub(crate) use self::upkeep::MAX_IDLE;
pub(crate) use self::upstream::Upstream;
pub use self::worker_key::{InvalidWorkerKey, WorkerKey};
