//! Private parts that a fuzzer must reach.

use crate::proxy::peek;

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
}

/// Reads a body, or says what the client is told.
///
/// # Errors
///
/// The message of the answer.
pub fn peek(body: &[u8]) -> Result<Peeked, String> {
    let peeked = peek::peek(body).map_err(|error| error.message().to_owned())?;
    Ok(Peeked {
        model: peeked.model.into_owned(),
        stream: peeked.stream,
        session: peeked.session.map(Into::into),
        prompt: Some(peeked.prompt.input).filter(|input| !input.is_empty()).map(Into::into),
    })
}
