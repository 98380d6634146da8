//! Who may ask, for which models, and how often.
//!
//! Without keys everyone may ask for everything in the frontend's scope. With them a request's key
//! decides which view it gets; whatever has no key gets a view in which nothing is.

mod admit;
mod caller;
mod hash;
mod keys;
mod limit;
mod list;

pub(crate) use self::admit::admit;
pub(crate) use self::caller::Caller;
pub use self::hash::{InvalidKeyHash, KeyHash, WeakKey};
pub use self::keys::ApiKeys;
pub(crate) use self::limit::Permit;
pub use self::list::{ApiKey, InvalidKeyName, InvalidKeys, KeyList, KeyName};
