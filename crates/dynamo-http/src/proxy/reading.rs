//! Reads an answer on its way to the client, for its tokens.

use bytes::Bytes;
use http::{HeaderMap, header};

use super::headers::Media;
use super::outline::Outline;
use super::rename::{EventRename, PlainRename};
use super::stage::Stage;
use super::tokens::Tokens;
use crate::meter::{Form, Usage};
use crate::route::Route;

/// The reader of an answer.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Nobody reads the answer.
    Nothing,
    Plain(Outline),
    /// Boxed, since few answers are renamed.
    Renamed(Box<(Outline, PlainRename)>),
    /// Boxed, so that its state is not part of every answer.
    Events(Box<Stage<Tokens>>),
}

impl Reading {
    /// How an answer with these headers comes, as far as it can be read.
    pub(crate) fn form(media: Media, headers: &HeaderMap) -> Form {
        // An answer has few headers, so a pass over their names is cheaper than a look-up.
        let is_coded = || headers.keys().any(|name| *name == header::CONTENT_ENCODING);
        match media {
            Media::Json if !is_coded() => Form::Plain,
            Media::Events if !is_coded() => Form::Stream,
            _ => Form::Unreadable,
        }
    }

    /// A reader of answers on a route. `asked` says that a stream has the usage for the proxy only, and
    /// `weighs` that the bytes of its content are counted. `rename` replaces the model's name, as a JSON
    /// string.
    pub(crate) fn new(
        form: Form,
        route: Route,
        asked: bool,
        weighs: bool,
        rename: Option<Bytes>,
    ) -> Self {
        let tokens = || {
            let tokens = Tokens::new(route, asked);
            if weighs { tokens.weighing() } else { tokens }
        };
        match (form, rename) {
            (Form::Plain, None) => Self::Plain(Outline::default()),
            (Form::Plain, Some(name)) => {
                Self::Renamed(Box::new((Outline::default(), PlainRename::new(name))))
            }
            (Form::Stream, Some(name)) => {
                Self::events(Stage::editing(tokens().renaming(EventRename::new(name, route))))
            }
            (Form::Stream, None) if asked => Self::events(Stage::editing(tokens())),
            (Form::Stream, None) => Self::events(Stage::watching(tokens())),
            (Form::Unreadable, _) => Self::Nothing,
        }
    }

    fn events(stage: Stage<Tokens>) -> Self {
        Self::Events(Box::new(stage))
    }

    /// Reads the next piece of the body. Returns what may go on to the client now.
    pub(crate) fn pass(&mut self, data: Bytes) -> Bytes {
        match self {
            Self::Nothing => data,
            Self::Plain(outline) => {
                outline.pass(&data);
                data
            }
            Self::Renamed(both) => {
                both.0.pass(&data);
                both.1.pass(data)
            }
            Self::Events(stage) => stage.pass(data),
        }
    }

    /// Ends the body. Returns what was held.
    pub(crate) fn finish(&mut self) -> Bytes {
        match self {
            Self::Nothing | Self::Plain(_) | Self::Renamed(_) => Bytes::new(),
            Self::Events(stage) => stage.finish(),
        }
    }

    /// Whether the bytes that pass may differ from those that came.
    pub(crate) fn edits(&self) -> bool {
        match self {
            Self::Nothing | Self::Plain(_) => false,
            Self::Renamed(_) => true,
            Self::Events(stage) => stage.edits(),
        }
    }

    /// How many events carried content so far. None where nobody tells content from other bytes.
    pub(crate) fn content(&self) -> Option<u64> {
        match self {
            Self::Nothing | Self::Plain(_) | Self::Renamed(_) => None,
            Self::Events(stage) => Some(stage.reader().content()),
        }
    }

    /// The bytes of content so far, where a reader tells content from other bytes and weighs it.
    pub(crate) fn content_bytes(&self) -> Option<u64> {
        match self {
            Self::Nothing | Self::Plain(_) | Self::Renamed(_) => None,
            Self::Events(stage) => Some(stage.reader().bytes()),
        }
    }

    /// What was read so far: the usage, and how many events were too long.
    pub(crate) fn read(&self) -> (Usage, u64) {
        match self {
            Self::Nothing => (Usage::default(), 0),
            Self::Plain(outline) => (outline.usage(), 0),
            Self::Renamed(both) => (both.0.usage(), 0),
            Self::Events(stage) => (stage.reader().usage(), stage.unread()),
        }
    }
}
