//! A message of a conversation, in the form that all dialects share.

use serde::Deserialize;

/// A message. Items of other kinds, which have no role or no text, count as messages without text.
#[derive(Deserialize)]
pub(super) struct Message {
    role: Option<String>,
    content: Option<Content>,
}

/// A text, or a list of parts, some of which are texts.
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

/// The text of the user's last message, else of the last message; `None` without messages.
pub(super) fn asked(messages: &[Message]) -> Option<String> {
    let from_user = |message: &&Message| message.role.as_deref() == Some("user");
    messages.iter().rfind(from_user).or(messages.last()).map(Message::text)
}

/// The texts of all messages.
pub(super) fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(Message::text).collect()
}
