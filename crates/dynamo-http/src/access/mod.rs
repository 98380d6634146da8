//! API keys: the callers that are admitted, the models that each caller sees, and the limits of
//! each.
//!
//! Without keys every request sees all models in the frontend's scope. With keys the key of a
//! request decides its lens, and a request without a key sees no model.

mod admit;
mod budget;
mod caller;
mod hash;
mod keys;
mod ledger;
mod limit;
mod list;
mod others;
mod reservation;
mod shared;
mod tenant;
mod told;
mod window;

pub(crate) use self::admit::admit;
pub use self::budget::{Counted, Span, TokenLimit, TokenLimits};
pub(crate) use self::caller::Caller;
pub use self::hash::{InvalidKeyHash, KeyHash, WeakKey};
pub use self::keys::ApiKeys;
pub(crate) use self::ledger::Amount;
pub(crate) use self::limit::Permit;
pub use self::list::{
    ApiKey, Credential, InvalidKeyName, InvalidKeys, KeyHashes, KeyList, KeyName,
};
pub(crate) use self::reservation::Reservation;
