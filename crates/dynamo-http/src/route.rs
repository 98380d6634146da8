//! The HTTP routes of a front door: the path, the kind and the shape of errors of each.

use dynamo_discovery::{Kind, Kinds};

use crate::error::ErrorShape;

/// A route that is proxied to workers.
///
/// A route is open for a caller while the caller sees a model of the route's [kind](Self::kind). A
/// front door answers 503 on a closed route.
///
/// ```
/// use dynamo_discovery::Kind;
/// use dynamo_http::Route;
///
/// let opened: Vec<_> = Route::of(Kind::Chat.into()).map(Route::path).collect();
/// assert_eq!(opened, ["/v1/chat/completions", "/v1/responses", "/v1/messages"]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Route {
    /// `POST /v1/chat/completions`, OpenAI's chat completions.
    ChatCompletions,
    /// `POST /v1/responses`, OpenAI's responses.
    Responses,
    /// `POST /v1/messages`, Anthropic's messages.
    Messages,
    /// `POST /v1/completions`, OpenAI's text completions.
    Completions,
    /// `POST /v1/embeddings`, OpenAI's embeddings.
    Embeddings,
    /// `POST /v1/images/generations`, OpenAI's image generation.
    ImageGenerations,
    /// `POST /v1/audio/speech`, OpenAI's speech generation.
    AudioSpeech,
    /// `POST /classify`, as vLLM has it.
    Classify,
    /// `POST /pooling`, as vLLM has it.
    Pooling,
    /// `POST /v1/rerank`, as vLLM and Jina have it.
    Rerank,
    /// `POST /v1/score`, as vLLM has it.
    Score,
}

impl Route {
    /// Whether engines continue a prompt on this route, and keep what they computed for it. Inputs of
    /// the other routes are small, or lists of which nothing is kept.
    #[cfg(feature = "proxy")]
    pub(crate) const fn continues_a_prompt(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Responses | Self::Messages | Self::Completions)
    }

    /// Whether engines may keep what they computed for a text on this route, and share it among
    /// requests.
    #[cfg(feature = "proxy")]
    pub(crate) const fn shares_prefixes(self) -> bool {
        !matches!(self, Self::ImageGenerations | Self::AudioSpeech)
    }

    /// Every route. A later version may add routes at any place.
    pub const ALL: &'static [Self] = &[
        Self::ChatCompletions,
        Self::Responses,
        Self::Messages,
        Self::Completions,
        Self::Embeddings,
        Self::ImageGenerations,
        Self::AudioSpeech,
        Self::Classify,
        Self::Pooling,
        Self::Rerank,
        Self::Score,
    ];

    /// The path at the front door, and below the base URL of the worker.
    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::ImageGenerations => "/v1/images/generations",
            Self::AudioSpeech => "/v1/audio/speech",
            Self::Classify => "/classify",
            Self::Pooling => "/pooling",
            Self::Rerank => "/v1/rerank",
            Self::Score => "/v1/score",
        }
    }

    /// The route at a path.
    ///
    /// ```
    /// use dynamo_http::Route;
    ///
    /// assert_eq!(Route::at("/v1/embeddings"), Some(Route::Embeddings));
    /// assert_eq!(Route::at("/v1/models"), None);
    /// ```
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|route| route.path() == path)
    }

    /// The value of the label `endpoint` in metrics: Dynamo's name where Dynamo has the route.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::ImageGenerations => "images_generations",
            Self::AudioSpeech => "audio_speech",
            Self::Classify => "classify",
            Self::Pooling => "pooling",
            Self::Rerank => "rerank",
            Self::Score => "score",
        }
    }

    /// The kind that opens the route. The kinds `Prefill`, `TensorBased`, `Videos` and `Realtime`
    /// open no route.
    pub const fn kind(self) -> Kind {
        match self {
            Self::ChatCompletions | Self::Responses | Self::Messages => Kind::Chat,
            Self::Completions => Kind::Completions,
            Self::Embeddings => Kind::Embedding,
            Self::ImageGenerations => Kind::Images,
            Self::AudioSpeech => Kind::Audios,
            Self::Classify => Kind::Classify,
            Self::Pooling | Self::Rerank | Self::Score => Kind::Pooling,
        }
    }

    /// The routes that these kinds open.
    pub fn of(kinds: Kinds) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |route| kinds.contains(route.kind()))
    }

    /// The kinds that open at least one route.
    pub fn all_kinds() -> Kinds {
        Self::ALL.iter().copied().map(Self::kind).collect()
    }

    /// The shape of the errors that clients of this route understand.
    pub const fn error_shape(self) -> ErrorShape {
        match self {
            Self::Messages => ErrorShape::Anthropic,
            _ => ErrorShape::OpenAi,
        }
    }
}
