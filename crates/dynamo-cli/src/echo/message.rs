//! A message of a conversation, as every dialect writes it.

use serde::Deserialize;

use super::text::tokens;

/// A message; items of other kinds, which have no role or no text, count as silent ones.
#[derive(Deserialize)]
pub(super) struct Message {
    role: Option<String>,
    content: Option<Content>,
}

/// A text, or parts of which some are texts.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
pub(super) struct Part {
    text: Option<String>,
}

impl Content {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts.iter().filter_map(|part| part.text.as_deref()).collect(),
        }
    }
}

impl Message {
    fn text(&self) -> String {
        self.content.as_ref().map(Content::text).unwrap_or_default()
    }
}

/// What the user said last, or else whoever said something; nothing where there is no message.
pub(super) fn asked(messages: &[Message]) -> Option<String> {
    let from_user = |message: &&Message| message.role.as_deref() == Some("user");
    messages.iter().rfind(from_user).or(messages.last()).map(Message::text)
}

/// The tokens of all messages.
pub(super) fn length(messages: &[Message]) -> usize {
    messages.iter().map(|message| tokens(&message.text()).len()).sum()
}
