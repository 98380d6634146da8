//! Names that clients ask for, and the models that answer them.
//!
//! An alias is resolved through its caller's sight. A target that the caller's scope does not contain
//! does not exist for the caller, so one table may be for the callers of all scopes.

mod definition;
mod live;
mod offer;
mod share;
mod table;
#[cfg(test)]
mod tests;

pub use self::definition::{Alias, AliasTarget, AnswerAs};
pub use self::live::Aliases;
pub(crate) use self::offer::{Offer, Offered, Step};
pub use self::table::{AliasTable, InvalidAliases};
