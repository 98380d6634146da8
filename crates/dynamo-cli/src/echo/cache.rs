//! A prefix cache as engines have it: which beginnings of prompts were read lately. It has no values,
//! since an echo needs none; it is there for the tokens that the engine tells as cached.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::text::tokens;

/// The tokens of a block.
const BLOCK: usize = 16;
/// With more blocks, the half that was used less recently is forgotten.
const MOST: usize = 8192;

/// The tokens of a prompt that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) tokens: usize,
    /// Those at the beginning that were cached: whole blocks, and never the last token.
    pub(super) cached: usize,
}

/// The blocks that were read, by the hash of the prompt up to their end, and when they were used last.
#[derive(Debug, Default)]
pub(super) struct Cache {
    blocks: HashMap<u64, u64>,
    prompts: u64,
}

impl Cache {
    /// Reads a prompt, and keeps it.
    pub(super) fn read<'a>(&mut self, model: &str, texts: impl Iterator<Item = &'a str>) -> Read {
        self.prompts += 1;
        let mut hasher = DefaultHasher::new();
        model.hash(&mut hasher);
        let (mut read, mut ends) = (0, Vec::new());
        for text in texts {
            for token in tokens(text) {
                token.hash(&mut hasher);
                read += 1;
                if read % BLOCK == 0 {
                    ends.push(hasher.finish());
                }
            }
            // Where a message ends is a part of the prompt.
            hasher.write_u8(0);
        }
        let reusable = ends[..read.saturating_sub(1) / BLOCK].iter();
        let known = reusable.take_while(|end| self.blocks.contains_key(end)).count();
        self.blocks.extend(ends.into_iter().map(|end| (end, self.prompts)));
        if self.blocks.len() > MOST {
            let mut uses: Vec<_> = self.blocks.values().copied().collect();
            let (_, median, _) = uses.select_nth_unstable(MOST / 2);
            let median = *median;
            self.blocks.retain(|_, used| *used > median);
        }
        Read { tokens: read, cached: known * BLOCK }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, count: usize) -> String {
        (0..count).map(|n| format!("{name}{n} ")).collect()
    }

    #[test]
    fn a_prompt_finds_the_whole_blocks_of_its_beginning_but_never_its_last_token() {
        let mut cache = Cache::default();
        let (long, longer) = (words("a", 40), words("a", 50));
        let mut read =
            |model: &str, texts: &[&str]| cache.read(model, texts.iter().copied()).cached;
        assert_eq!(read("m", &[&long]), 0);
        assert_eq!(read("m", &[&long]), 32);
        assert_eq!(read("m", &[&longer]), 32);
        assert_eq!(read("m", &[&longer]), 48);
        assert_eq!(read("n", &[&longer]), 0, "another model");
        assert_eq!(read("m", &[&words("b", 1), &long]), 0, "another beginning");
        assert_eq!(read("m", &[&words("a", 48)]), 32, "the last token is always computed");
    }

    #[test]
    fn it_forgets_what_was_used_less_recently_and_stays_bounded() {
        let mut cache = Cache::default();
        for n in 0..2000 {
            cache.read("m", [&*words(&format!("{n}-"), 160)].into_iter());
            assert!(cache.blocks.len() <= MOST);
        }
        let mut cached =
            |n: usize| cache.read("m", [&*words(&format!("{n}-"), 160)].into_iter()).cached;
        assert_eq!((cached(1999), cached(0)), (144, 0));
    }
}
