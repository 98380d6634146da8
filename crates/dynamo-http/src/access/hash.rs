//! The hash of a key, which is stored in place of the key.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The SHA-256 of a key, as text `sha256:` and 64 hexadecimal digits.
///
/// Keys are long and random. A slow hash hinders guessing, so it is not needed here. Two hashes are
/// compared in constant time.
///
/// ```
/// use dynamo_http::KeyHash;
///
/// let hash = KeyHash::of("a-key-that-nobody-could-guess")?;
/// assert_eq!(hash.to_string().parse(), Ok(hash));
/// assert!(KeyHash::of("guessable").is_err());
/// # Ok::<(), dynamo_http::WeakKey>(())
/// ```
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

/// A text is no key. The error does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key is {} to {} visible ASCII characters without blanks",
    KeyHash::SHORTEST_KEY,
    KeyHash::LONGEST_KEY
)]
pub struct WeakKey;

/// A text is no hash of a key. The error does not repeat the text, which may be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `sha256:` and 64 hexadecimal digits, as `dynamo-frontend hash-key` prints them")]
pub struct InvalidKeyHash;

const ALGORITHM: &str = "sha256:";

impl KeyHash {
    /// The shortest key, in bytes. Fewer characters cannot have 128 random bits.
    pub const SHORTEST_KEY: usize = 24;
    /// The longest key, in bytes.
    pub const LONGEST_KEY: usize = 1024;

    /// The hash of a key.
    ///
    /// # Errors
    ///
    /// When the key is too short or too long, or has a character that is not visible ASCII.
    pub fn of(key: &str) -> Result<Self, WeakKey> {
        Self::of_bytes(key.as_bytes()).ok_or(WeakKey)
    }

    pub(crate) fn of_bytes(key: &[u8]) -> Option<Self> {
        let fits = (Self::SHORTEST_KEY..=Self::LONGEST_KEY).contains(&key.len());
        (fits && key.iter().all(u8::is_ascii_graphic)).then(|| Self(Sha256::digest(key).into()))
    }
}

impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

/// Eight bytes are enough for a hash table, since all bytes are equally random.
impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0[..8]);
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALGORITHM)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Shows two bytes only, so that a line of a log is of no use in a file of keys.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{:02x}{:02x}…", self.0[0], self.0[1])
    }
}

impl FromStr for KeyHash {
    type Err = InvalidKeyHash;

    fn from_str(text: &str) -> Result<Self, InvalidKeyHash> {
        let digits = text.strip_prefix(ALGORITHM).ok_or(InvalidKeyHash)?.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return Err(InvalidKeyHash);
        }
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(InvalidKeyHash);
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let value = digit(pair[0])? << 4 | digit(pair[1])?;
            *byte = u8::try_from(value).map_err(|_| InvalidKeyHash)?;
        }
        Ok(Self(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_sha_256() {
        // `printf %s abcdefghijklmnopqrstuvwxyz | sha256sum`
        assert_eq!(
            KeyHash::of("abcdefghijklmnopqrstuvwxyz").unwrap().to_string(),
            "sha256:71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73"
        );
    }

    #[test]
    fn a_key_that_could_be_guessed_or_sent_in_no_header_has_no_hash() {
        for key in
            ["", "short", &"x".repeat(23), &"x".repeat(1025), &format!("{} ", "x".repeat(30))]
        {
            assert_eq!(KeyHash::of(key), Err(WeakKey), "{key:?}");
        }
        assert!(KeyHash::of(&"x".repeat(24)).is_ok());
        assert!(KeyHash::of(&"ä".repeat(30)).is_err());
    }

    #[test]
    fn what_is_no_hash_is_refused_and_not_repeated() {
        let digits = "0123456789abcdef".repeat(4);
        assert!(format!("sha256:{digits}").parse::<KeyHash>().is_ok());
        assert!(format!("sha256:{}", digits.to_uppercase()).parse::<KeyHash>().is_ok());
        for text in [
            digits.clone(),
            format!("sha512:{digits}"),
            format!("sha256:{digits}0"),
            format!("sha256:{}g", &digits[1..]),
            format!("sha256:{}+", &digits[1..]),
            format!("sha256:{}ä", &digits[2..]),
            "my-secret-key".into(),
        ] {
            let error = text.parse::<KeyHash>().unwrap_err();
            assert!(!error.to_string().contains("my-secret-key"));
        }
    }

    #[test]
    fn hashes_differ_wherever_one_bit_differs() {
        let hash = KeyHash([7; 32]);
        for byte in 0..32 {
            let mut other = hash;
            other.0[byte] ^= 1;
            assert_ne!(hash, other);
        }
        assert_eq!(hash, KeyHash([7; 32]));
    }
}
