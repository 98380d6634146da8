//! The kinds of load: requests and their answers.

use std::time::Duration;

use clap::ValueEnum;

/// The answer to a short chat, 259 bytes.
const CHAT: &str = r#"{"id":"chatcmpl-0123456789ab","object":"chat.completion","created":1790000000,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}"#;

const CHUNK: &str = r#"{"id":"chatcmpl-0123456789abcdef0123","object":"chat.completion.chunk","created":1790000000,"model":"bench","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}"#;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A short answer in one piece
    Chat,
    /// The same, to a prompt of 1 MiB
    Long,
    /// A stream of 64 tokens, all at once
    Burst,
    /// A stream of 8 tokens, 5 ms apart
    Paced,
    /// A stream of 64 tokens, 50 ms apart
    Open,
}

impl Kind {
    /// The body of a request.
    pub(crate) fn request(self) -> String {
        let body = |content: &str, rest: &str| {
            format!(
                r#"{{"model":"bench","messages":[{{"role":"user","content":"{content}"}}],{rest}}}"#
            )
        };
        match self {
            Self::Chat => body("Hello, how are you today?", r#""temperature":0.25"#),
            Self::Long => {
                const LINE: &str =
                    r"A line of a long document, as they are pasted into a prompt, and its end.\n";
                body(&LINE.repeat((1 << 20) / LINE.len()), r#""temperature":0.25"#)
            }
            Self::Burst => body("Hello, how are you?", r#""stream":true"#),
            Self::Paced => body("Hello, how are you?", r#""max_tokens":8,"stream":true"#),
            Self::Open => body("Hello, how are you?", r#""max_tokens":64,"stream":true"#),
        }
    }

    /// The kind of a body, which the body's last bytes tell.
    pub(crate) fn of(request: &[u8]) -> Self {
        if request.ends_with(br#"8,"stream":true}"#) {
            Self::Paced
        } else if request.ends_with(br#"64,"stream":true}"#) {
            Self::Open
        } else if request.ends_with(br#""stream":true}"#) {
            Self::Burst
        } else {
            Self::Chat
        }
    }

    /// The number of tokens of the stream before the end marker.
    pub(crate) fn tokens(self) -> usize {
        match self {
            Self::Chat | Self::Long => 0,
            Self::Burst | Self::Open => 64,
            Self::Paced => 8,
        }
    }

    /// The time from one token to the next.
    pub(crate) fn pace(self) -> Duration {
        match self {
            Self::Chat | Self::Long | Self::Burst => Duration::ZERO,
            Self::Paced => Duration::from_millis(5),
            Self::Open => Duration::from_millis(50),
        }
    }

    /// The pieces of the answer's body: the events of a stream, else all of it.
    pub(crate) fn answer(self) -> Vec<String> {
        match self.tokens() {
            0 => vec![CHAT.into()],
            tokens => std::iter::repeat_n(CHUNK, tokens)
                .chain(["[DONE]"])
                .map(|event| format!("data: {event}\n\n"))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_is_as_long_as_the_one_that_earlier_figures_were_taken_with() {
        assert_eq!(Kind::Chat.request().len(), 103);
        assert_eq!(CHAT.len(), 259);
    }

    #[test]
    fn a_request_is_known_by_its_end() {
        for kind in [Kind::Chat, Kind::Burst, Kind::Paced, Kind::Open] {
            assert_eq!(Kind::of(kind.request().as_bytes()), kind);
        }
    }
}
