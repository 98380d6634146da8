//! The capabilities of a model, as flags.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// One capability of a model. The kinds of a model decide which HTTP routes it opens.
///
/// A kind is no [`EndpointId`](dynamo_namespace::EndpointId): that is the address of a worker in
/// Dynamo's terms. The values are the bits of Dynamo's `ModelType` (release 0.5.1).
///
/// Kinds are joined with `|`:
///
/// ```
/// use dynamo_discovery::{Kind, Kinds};
///
/// let kinds = Kind::Chat | Kind::Completions;
/// assert!(kinds.contains(Kind::Chat));
/// assert_eq!(kinds | Kind::Embedding, Kinds::parse("Chat | Completions | Embedding").kinds);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum Kind {
    /// Chat completions, responses and messages.
    Chat = 1,
    /// Text completions.
    Completions = 2,
    /// Embeddings.
    Embedding = 4,
    /// Inference on raw tensors; it has no HTTP route.
    TensorBased = 8,
    /// Prefill for another worker; it has no HTTP route.
    Prefill = 16,
    /// Image generation.
    Images = 32,
    /// Speech generation.
    Audios = 64,
    /// Video generation.
    Videos = 128,
    /// Bidirectional sessions.
    Realtime = 256,
    /// Classification.
    Classify = 512,
    /// Pooling, scores and ranks.
    Pooling = 1024,
}

impl Kind {
    /// Every kind, by ascending bit.
    pub const ALL: &'static [Self] = &[
        Self::Chat,
        Self::Completions,
        Self::Embedding,
        Self::TensorBased,
        Self::Prefill,
        Self::Images,
        Self::Audios,
        Self::Videos,
        Self::Realtime,
        Self::Classify,
        Self::Pooling,
    ];

    /// The name in stored values, such as `Chat`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "Chat",
            Self::Completions => "Completions",
            Self::Embedding => "Embedding",
            Self::TensorBased => "TensorBased",
            Self::Prefill => "Prefill",
            Self::Images => "Images",
            Self::Audios => "Audios",
            Self::Videos => "Videos",
            Self::Realtime => "Realtime",
            Self::Classify => "Classify",
            Self::Pooling => "Pooling",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of [`Kind`]s: the field `model_type` of a stored value.
///
/// ```
/// use dynamo_discovery::{Kind, Kinds};
///
/// let kinds = Kinds::parse("Chat | Completions").kinds;
/// assert!(kinds.contains(Kind::Chat));
/// assert_eq!(kinds.to_string(), "Chat | Completions");
///
/// // Dynamo up to 0.5.0 wrote this.
/// assert_eq!(Kinds::parse("Backend").kinds, kinds);
/// ```
#[derive(Clone, Copy, derive_more::Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[debug("Kinds({self})")]
pub struct Kinds(u16);

/// The result of [`Kinds::parse`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParsedKinds {
    /// The flags that are known.
    pub kinds: Kinds,
    /// The flags that are not known, as written. A later release may know them.
    pub unknown: Vec<String>,
}

impl Kinds {
    /// No kind.
    pub const NONE: Self = Self(0);

    /// Reads flags joined by `|`. Case counts, blanks do not. It also reads the spellings `Completion`
    /// and `Backend` (chat and completions) of Dynamo up to 0.5.0, and bits as `0x…`.
    pub fn parse(text: &str) -> ParsedKinds {
        let mut parsed = ParsedKinds::default();
        for flag in text.split('|').map(str::trim).filter(|flag| !flag.is_empty()) {
            match Self::parse_flag(flag) {
                Some(kinds) => parsed.kinds |= kinds,
                None => parsed.unknown.push(flag.to_owned()),
            }
        }
        parsed
    }

    fn parse_flag(flag: &str) -> Option<Self> {
        match flag {
            "Completion" => Some(Kind::Completions.into()),
            "Backend" => Some(Kind::Chat | Kind::Completions),
            _ => match flag.strip_prefix("0x") {
                Some(bits) => {
                    let known = u128::from_str_radix(bits, 16).ok()?;
                    let has = |kind: &Kind| known & *kind as u128 != 0;
                    let kinds: Self = Kind::ALL.iter().copied().filter(has).collect();
                    (!kinds.is_empty()).then_some(kinds)
                }
                None => {
                    let named = Kind::ALL.iter().find(|kind| kind.name() == flag);
                    named.copied().map(Self::from)
                }
            },
        }
    }

    /// Whether the kind is in the set.
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & kind as u16 != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The kinds of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The kinds of this set that are not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The kinds in the set, by ascending bit.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(move |kind| self.contains(*kind))
    }
}

impl From<Kind> for Kinds {
    fn from(kind: Kind) -> Self {
        Self(kind as u16)
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<T: IntoIterator<Item = Kind>>(kinds: T) -> Self {
        kinds.into_iter().fold(Self::NONE, |set, kind| set | kind)
    }
}

impl<T: Into<Kinds>> BitOr<T> for Kind {
    type Output = Kinds;

    fn bitor(self, other: T) -> Kinds {
        Kinds::from(self) | other
    }
}

impl<T: Into<Kinds>> BitOr<T> for Kinds {
    type Output = Self;

    fn bitor(self, other: T) -> Self {
        self.union(other.into())
    }
}

impl<T: Into<Kinds>> BitOrAssign<T> for Kinds {
    fn bitor_assign(&mut self, other: T) {
        *self = *self | other;
    }
}

/// The flags joined by ` | `, as Dynamo writes them since 0.5.1.
impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, kind) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { " | " };
            write!(f, "{separator}{kind}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_that_dynamo_wrote_is_read() {
        let chat = Kinds::from(Kind::Chat);
        let both = Kind::Chat | Kind::Completions;
        for (text, expected) in [
            ("Chat", chat),
            ("Completion", Kind::Completions.into()),
            ("Completions", Kind::Completions.into()),
            ("Embedding", Kind::Embedding.into()),
            ("Backend", both),
            ("Chat | Completions", both),
            ("Chat|Completions", both),
            (" Completions  |Chat | ", both),
            ("0x1", chat),
            ("0x3", both),
            ("0x8001", chat),
            ("", Kinds::NONE),
            (" | ", Kinds::NONE),
        ] {
            let parsed = Kinds::parse(text);
            assert_eq!(parsed.kinds, expected, "{text:?}");
            assert!(parsed.unknown.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn kinds_and_sets_of_them_are_joined_by_a_bar_in_any_mix() {
        let all = Kinds::from_iter([Kind::Chat, Kind::Embedding, Kind::Images]);
        assert_eq!(Kind::Chat | Kind::Embedding | Kind::Images, all);
        assert_eq!(Kind::Chat | (Kind::Embedding | Kind::Images), all);
        assert_eq!((Kind::Chat | Kind::Embedding) | (Kind::Embedding | Kind::Images), all);
        let mut grown = Kinds::from(Kind::Chat);
        grown |= Kind::Embedding;
        grown |= Kinds::from(Kind::Images);
        assert_eq!(grown, all);
        assert_eq!(Kind::ALL.iter().copied().collect::<Kinds>().iter().count(), Kind::ALL.len());
    }

    #[test]
    fn unknown_flags_are_told_apart_and_do_not_hide_known_ones() {
        let parsed = Kinds::parse("Chat | Telepathy | chat | 0x | 0xzz | 0x8000");
        assert_eq!(parsed.kinds, Kind::Chat.into());
        assert_eq!(parsed.unknown, ["Telepathy", "chat", "0x", "0xzz", "0x8000"]);
    }

    proptest! {
        #[test]
        fn display_of_kinds_parses_back(bits in 0_u16..2048) {
            let kinds = Kinds(bits);
            let parsed = Kinds::parse(&kinds.to_string());
            prop_assert_eq!(parsed.kinds, kinds);
            prop_assert!(parsed.unknown.is_empty());
            prop_assert_eq!(kinds.iter().collect::<Kinds>(), kinds);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = Kinds::parse(&text);
        }
    }
}
