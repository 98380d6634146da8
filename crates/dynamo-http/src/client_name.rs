//! The name of a client, as its certificate says.

use std::fmt;
use std::sync::Arc;

/// The name of a client, as its certificate says: the first URI among its alternative names, else
/// the first DNS name, else the common name (CN) of its subject.
///
/// [`serve`](crate::serve) puts it into the extensions of requests over TLS whose client showed a
/// certificate that is valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientName(Arc<str>);

/// A text is no name of a client. The error does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a client's name has 1 to {} bytes and no control characters", ClientName::LONGEST)]
pub struct InvalidClientName;

impl ClientName {
    /// The longest name, in bytes.
    pub const LONGEST: usize = 512;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ClientName {
    type Err = InvalidClientName;

    fn from_str(text: &str) -> Result<Self, InvalidClientName> {
        let fits = (1..=Self::LONGEST).contains(&text.len());
        if fits && !text.contains(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidClientName)
        }
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
