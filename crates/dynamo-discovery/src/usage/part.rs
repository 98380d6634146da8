//! The values under the keys: `{key name: [input, output]}`, in parts that etcd takes.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// The tokens of prompts and of answers by the name of a key.
pub type Counts = BTreeMap<String, [u64; 2]>;

/// The longest value, in bytes.
pub(super) const LONGEST: usize = 64 * 1024;
/// The longest name in a value, in bytes.
const LONGEST_NAME: usize = 64;

/// The value of some counts.
pub(super) fn encode(counts: &Counts) -> Bytes {
    // A map of texts and numbers has a JSON text.
    serde_json::to_vec(counts).unwrap_or_default().into()
}

/// The counts of a value. None if no frontend of ours writes such a value.
pub(super) fn decode(value: &[u8]) -> Option<Counts> {
    let counts: Counts = (value.len() <= LONGEST).then(|| serde_json::from_slice(value).ok())??;
    counts.keys().all(|name| (1..=LONGEST_NAME).contains(&name.len())).then_some(counts)
}

/// In which part the counts of each name are. A name stays in its part, so that a part changes only
/// when one of its counts does.
#[derive(Debug, Default)]
pub(super) struct Division {
    part_of: HashMap<String, usize>,
    /// The bytes of the last part, if all its numbers were as long as they can be.
    filled: usize,
    parts: usize,
}

impl Division {
    /// The counts in parts. Names that no key can have are left out.
    pub(super) fn divide(&mut self, counts: &Counts) -> Vec<Counts> {
        for name in counts.keys() {
            if !self.part_of.contains_key(name) {
                self.place(name);
            }
        }
        let mut parts = vec![Counts::new(); self.parts];
        for (name, count) in counts {
            if let Some(part) = self.part_of.get(name).and_then(|part| parts.get_mut(*part)) {
                part.insert(name.clone(), *count);
            }
        }
        parts
    }

    fn place(&mut self, name: &str) {
        /// Quotes, a colon, brackets and commas.
        const MARKS: usize = 8;
        /// The digits of a number.
        const DIGITS: usize = 20;

        if name.is_empty() || name.len() > LONGEST_NAME {
            return;
        }
        // Each byte of a name may be escaped.
        let most = name.len() * "\\u0000".len() + 2 * DIGITS + MARKS;
        if self.parts == 0 || self.filled + most > LONGEST {
            self.parts += 1;
            self.filled = MARKS;
        }
        self.filled += most;
        self.part_of.insert(name.to_owned(), self.parts - 1);
    }
}
