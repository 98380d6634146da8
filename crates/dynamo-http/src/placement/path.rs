//! The path of a prompt: a chained hash for each KiB of the bytes that decide what an engine computes.

use memchr::memmem;
use twox_hash::XxHash3_64;

/// The bytes of one block.
pub const BLOCK: usize = 1024;
/// A prompt has blocks up to here; what is beyond counts as unknown.
const MOST: usize = 4 << 20;
/// The estimated tokens of an image, a file or another part in base64.
const PART: u32 = 1000;
/// A string in a member `data` that is shorter than this is text.
const SHORT: usize = 256;

/// What prompts must have in common before equal bytes mean equal caches: the caller's scope, the
/// model, the adapter, the cache salt.
///
/// The hash has no secret and is the same in every release. A collision misplaces a request among
/// the servers that its caller may use anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The seed of these parts, in this order. No two different lists of parts are the same bytes.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(parts.into_iter().fold(0, part))
    }

    /// The seed with one more part.
    #[must_use]
    pub fn and(self, bytes: &[u8]) -> Self {
        Self(part(self.0, bytes))
    }
}

/// The hash of one more part, which the hash of its length precedes.
fn part(before: u64, bytes: &[u8]) -> u64 {
    let length = XxHash3_64::oneshot_with_seed(before, &(bytes.len() as u64).to_le_bytes());
    XxHash3_64::oneshot_with_seed(length, bytes)
}

/// The hash of a text without a secret, as rendezvous hashing and sessions need it.
pub(super) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// The path of one prompt.
///
/// Two prompts that begin with the same blocks have the same first hashes, and from the first block
/// that differs on all hashes differ.
///
/// ```
/// use dynamo_http::placement::{Path, Seed};
///
/// let seed = Seed::of([&b"team-a"[..], b"llama"]);
/// let first = Path::of(seed, b"", [&[b'x'; 3000][..]]);
/// assert_eq!(first.blocks(), 2);
/// let longer = [&[b'x'; 3000][..], &[b'y'; 3000][..]].concat();
/// let second = Path::of(seed, b"", [&longer[..]]);
/// assert_eq!(first.shared_with(&second), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Path {
    steps: Vec<Step>,
    text: u32,
    parts: u32,
}

/// A block of a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) hash: u64,
    /// The bytes of text up to its end.
    text: u32,
    /// How many parts in base64 begin before its end.
    parts: u32,
}

impl Path {
    /// The path of a prompt: its tools, which are one block, then the rest, whose pieces count as one
    /// text.
    pub fn of<'a>(seed: Seed, tools: &[u8], rest: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut path = Writer { path: Self { steps: Vec::new(), text: 0, parts: 0 }, last: seed.0 };
        if !tools.is_empty() {
            path.path.weigh(tools.len(), &mut Encoded::of(tools));
            path.step(part(path.last, tools));
        }
        let mut border = [0; BLOCK];
        let mut carried = 0;
        for mut piece in rest {
            path.path.steps.reserve((piece.len().min(MOST) / BLOCK) + 1);
            let mut encoded = Encoded::of(piece);
            if carried > 0 {
                let taken = piece.len().min(BLOCK - carried);
                border[carried..carried + taken].copy_from_slice(&piece[..taken]);
                path.path.weigh(taken, &mut encoded);
                carried += taken;
                piece = &piece[taken..];
                if carried < BLOCK {
                    continue;
                }
                path.block(&border);
            }
            let (blocks, tail) = piece.as_chunks::<BLOCK>();
            for block in blocks {
                path.path.weigh(BLOCK, &mut encoded);
                path.block(block);
            }
            path.path.weigh(tail.len(), &mut encoded);
            border[..tail.len()].copy_from_slice(tail);
            carried = tail.len();
        }
        path.path
    }

    /// How many blocks the path has.
    pub fn blocks(&self) -> usize {
        self.steps.len()
    }

    /// How many blocks two paths have in common.
    pub fn shared_with(&self, other: &Self) -> usize {
        let both = self.steps.iter().zip(&other.steps);
        both.take_while(|(one, other)| one.hash == other.hash).count()
    }

    /// The text of the prompt in bytes, without parts in base64.
    pub fn text(&self) -> usize {
        self.text as usize
    }

    /// How many parts in base64 the prompt has: images, files, sound.
    pub fn parts(&self) -> usize {
        self.parts as usize
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The estimated tokens up to the end of the first `blocks` blocks.
    pub(super) fn tokens_of(&self, blocks: usize, bytes_per_token: f32) -> f32 {
        match blocks.checked_sub(1).and_then(|last| self.steps.get(last)) {
            Some(step) => tokens(step.text, step.parts, bytes_per_token),
            None => 0.0,
        }
    }

    /// The estimated tokens of all of it.
    pub(super) fn tokens(&self, bytes_per_token: f32) -> f32 {
        tokens(self.text, self.parts, bytes_per_token)
    }

    fn weigh(&mut self, bytes: usize, encoded: &mut Encoded) {
        let (text, parts) = encoded.next(bytes);
        self.text = self.text.saturating_add(text);
        self.parts += parts;
    }
}

fn tokens(text: u32, parts: u32, bytes_per_token: f32) -> f32 {
    text as f32 / bytes_per_token + (parts * PART) as f32
}

struct Writer {
    path: Path,
    last: u64,
}

impl Writer {
    fn block(&mut self, block: &[u8; BLOCK]) {
        if self.path.steps.len() < MOST / BLOCK {
            self.step(XxHash3_64::oneshot_with_seed(self.last, block));
        }
    }

    fn step(&mut self, hash: u64) {
        self.last = hash;
        self.path.steps.push(Step { hash, text: self.path.text, parts: self.path.parts });
    }
}

/// The text of the pieces of a prompt in bytes, without parts in base64, and how many parts in base64
/// there are. It is what a [`Path`] of them would have, without the hashes.
pub(crate) fn weigh<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (usize, usize) {
    pieces.into_iter().fold((0, 0), |(text, parts), piece| {
        let (more_text, more_parts) = Encoded::of(piece).next(piece.len());
        (text + more_text as usize, parts + more_parts as usize)
    })
}

/// The places of base64 in a piece of a body. They are read from the front.
struct Encoded {
    places: std::vec::IntoIter<std::ops::Range<usize>>,
    current: Option<std::ops::Range<usize>>,
    at: usize,
}

impl Encoded {
    fn of(piece: &[u8]) -> Self {
        let mut places = Vec::new();
        if piece.len() > SHORT {
            let urls = memmem::find_iter(piece, b";base64,").map(|at| at + 8);
            let members = memmem::find_iter(piece, b"\"data\":").filter_map(|at| {
                let from = at + 7;
                let quote =
                    from + piece[from..].iter().position(|byte| !byte.is_ascii_whitespace())?;
                (piece[quote] == b'"').then_some(quote + 1)
            });
            let mut starts: Vec<_> = urls.chain(members).collect();
            starts.sort_unstable();
            let mut behind = 0;
            for start in starts.into_iter() {
                if start < behind {
                    continue;
                }
                let length = memchr::memchr(b'"', &piece[start..]).unwrap_or(piece.len() - start);
                let is_base64 =
                    |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_\\".contains(byte);
                if length >= SHORT && piece[start..start + SHORT].iter().all(is_base64) {
                    places.push(start..start + length);
                    behind = start + length;
                }
            }
        }
        let mut places = places.into_iter();
        Self { current: places.next(), places, at: 0 }
    }

    /// The bytes of text among the next bytes, and how many parts begin there.
    fn next(&mut self, bytes: usize) -> (u32, u32) {
        let end = self.at + bytes;
        let (mut text, mut parts) = (bytes, 0);
        while let Some(place) = self.current.clone().filter(|place| place.start < end) {
            parts += u32::from(place.start >= self.at);
            text -= place.end.min(end) - place.start.max(self.at);
            if place.end > end {
                break;
            }
            self.current = self.places.next();
        }
        self.at = end;
        (u32::try_from(text).unwrap_or(u32::MAX), parts)
    }
}
