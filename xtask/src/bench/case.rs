//! The kinds of load that are compared.

use clap::ValueEnum;

/// One block of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Short chats, one connection
    Chat1,
    /// Short chats, 16 connections
    Chat16,
    /// Short chats, 64 connections
    Chat64,
    /// Short chats, 256 connections
    Chat256,
    /// Prompts of 1 MiB, 4 connections
    Long,
    /// Streams of 64 tokens that come all at once, 16 connections
    Burst,
    /// The time to the first of 8 tokens that come 5 ms apart, one connection
    FirstToken1,
    /// The same, 64 connections
    FirstToken64,
    /// 1000 streams that are open at once, each of 64 tokens that come 50 ms apart
    Streams1000,
    /// From the start of a proxy until it has answered
    Start,
}

impl Case {
    /// The block's title.
    pub(crate) fn title(self) -> String {
        let what = match self.kind() {
            Some("long") => "chat, 1 MiB in, 259 bytes out",
            Some("burst") => "stream of 64 tokens in a burst",
            Some("open") => "stream of 64 tokens, 50 ms apart; p50 and p99 of the first one",
            Some("paced") => "stream of 8 tokens, 5 ms apart; p50 and p99 of the first one",
            Some(_) => "chat, 103 bytes in, 259 out",
            None => return "from the start of the process until a chat is answered".into(),
        };
        let connections = self.connections();
        let plural = if connections == 1 { "" } else { "s" };
        format!("{what}, {connections} connection{plural}")
    }

    /// The load generator's name for the case; `None` if the generator takes no part.
    pub(crate) fn kind(self) -> Option<&'static str> {
        match self {
            Self::Chat1 | Self::Chat16 | Self::Chat64 | Self::Chat256 => Some("chat"),
            Self::Long => Some("long"),
            Self::Burst => Some("burst"),
            Self::FirstToken1 | Self::FirstToken64 => Some("paced"),
            Self::Streams1000 => Some("open"),
            Self::Start => None,
        }
    }

    pub(crate) fn connections(self) -> usize {
        match self {
            Self::Chat1 | Self::FirstToken1 | Self::Start => 1,
            Self::Long => 4,
            Self::Chat16 | Self::Burst => 16,
            Self::Chat64 | Self::FirstToken64 => 64,
            Self::Chat256 => 256,
            Self::Streams1000 => 1000,
        }
    }

    /// The count and the latencies of the case: names in the load generator's result.
    pub(crate) fn figures(self) -> [&'static str; 3] {
        match self {
            Self::Burst => ["tokens", "p50_us", "p99_us"],
            Self::FirstToken1 | Self::FirstToken64 | Self::Streams1000 => {
                ["tokens", "first_p50_us", "first_p99_us"]
            }
            _ => ["requests", "p50_us", "p99_us"],
        }
    }
}
