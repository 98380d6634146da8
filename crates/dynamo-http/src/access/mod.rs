//! API keys: the callers that are admitted, the models that each caller sees, and the limits of
//! each.
//!
//! Without keys every request sees all models in the frontend's scope. With keys the key of a
//! request decides its lens, and a request without a key sees no model.

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
pub use self::list::{ApiKey, Credential, InvalidKeyName, InvalidKeys, KeyList, KeyName};
