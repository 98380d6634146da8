//! Private parts that a fuzzer must reach.

use std::ops::Range;

use bytes::Bytes;

use crate::proxy::{PlainRename, peek, renamed};

/// What the proxy reads of a request's body.
#[derive(Debug)]
pub struct Peeked {
    /// The model.
    pub model: String,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// What names the session, as raw JSON.
    pub session: Option<String>,
    /// What the model is to work on, as raw JSON.
    pub prompt: Option<String>,
    /// The place of the model's name in the body.
    pub place: Range<usize>,
    /// The body with this in place of the name.
    pub renamed: Vec<u8>,
}

/// What the bodies get in place of the model's name, as JSON.
pub const NAME: &str = r#""a\"é""#;

/// Reads a body, or says what the client is told.
///
/// # Errors
///
/// The message of the answer.
pub fn peek(body: &[u8]) -> Result<Peeked, String> {
    let peeked = peek::peek(body).map_err(|error| error.message().to_owned())?;
    let place = peeked.places.model.clone();
    Ok(Peeked {
        renamed: renamed(body, place.clone(), Bytes::from_static(NAME.as_bytes())),
        place,
        model: peeked.model.into_owned(),
        stream: peeked.stream,
        session: peeked.session.map(Into::into),
        prompt: Some(peeked.prompt.input).filter(|input| !input.is_empty()).map(Into::into),
    })
}

/// A plain answer, in pieces of this length, with [`NAME`] in place of its model's name.
pub fn rename(answer: &[u8], piece: usize) -> Vec<u8> {
    let mut rename = PlainRename::new(Bytes::from_static(NAME.as_bytes()));
    answer.chunks(piece.max(1)).flat_map(|data| rename.pass(Bytes::copy_from_slice(data))).collect()
}
