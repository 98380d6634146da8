//! `dynamo-frontend hash-key`: prints the hash of a key, for a file of keys.

use std::fmt::Write as _;
use std::io::{BufRead as _, Read as _};
use std::process::ExitCode;

use anyhow::Context as _;
use dynamo_http::{KeyHash, WeakKey};

use crate::failure::Failure;
use crate::program;
use crate::settings::given::Given;
use crate::settings::table::NewKey;

pub(crate) fn run(given: &Given) -> Result<ExitCode, Failure> {
    let generate = *NewKey::read(given)?.generate;
    let key = if generate { new_key()? } else { read_key()? };
    let hash = KeyHash::of(&key).map_err(|weak| Failure::usage(why(weak, &key)))?;
    program::print(&if generate { format!("{key}\n{hash}\n") } else { format!("{hash}\n") })?;
    Ok(ExitCode::SUCCESS)
}

/// The key: the only line of stdin.
fn read_key() -> Result<String, Failure> {
    let longest = u64::try_from(KeyHash::LONGEST_KEY + 2).unwrap_or(u64::MAX);
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(longest)
        .read_line(&mut line)
        .context("cannot read the key from stdin")
        .map_err(Failure::Running)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Why a text is no key. The text is not repeated, since it may be one elsewhere.
fn why(weak: WeakKey, text: &str) -> String {
    let length = text.chars().count();
    if length > KeyHash::LONGEST_KEY {
        format!("{weak}; this one has more")
    } else if length < KeyHash::SHORTEST_KEY {
        format!("{weak}; this one has {length}")
    } else {
        format!("{weak}; this one has others")
    }
}

/// 256 random bits.
fn new_key() -> Result<String, Failure> {
    let mut random = [0; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut random)
        .map_err(|_| Failure::Running(anyhow::Error::msg("the system gives no random numbers")))?;
    let mut key = "dyn-".to_owned();
    for byte in random {
        // Writing to a string cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_told_with_its_length_and_not_repeated() {
        let expected = "a key is 24 to 1024 visible ASCII characters without blanks; this one has ";
        for (text, part) in [
            ("sk-1234".to_owned(), "7"),
            (String::new(), "0"),
            ("k".repeat(1026), "more"),
            ("sk 1234".repeat(4), "others"),
            ("schlüssel".repeat(3), "others"),
        ] {
            let weak = KeyHash::of(&text).unwrap_err();
            assert_eq!(why(weak, &text), format!("{expected}{part}"));
        }
    }

    #[test]
    fn a_new_key_is_long_enough_and_never_the_same() {
        let (one, other) = (new_key().unwrap(), new_key().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 4 + 64);
        assert!(KeyHash::of(&one).is_ok());
    }
}
