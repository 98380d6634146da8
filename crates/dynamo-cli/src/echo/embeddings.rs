//! `/v1/embeddings`: a unit vector that depends on the input only.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Refusal, Request};
use super::text::tokens;
use super::{Answered, Shared};

const DIMENSIONS: usize = 64;
const MOST_DIMENSIONS: usize = 16_384;

#[derive(Deserialize)]
pub(super) struct Embedding {
    model: String,
    input: Input,
    dimensions: Option<usize>,
    encoding_format: Option<String>,
}

/// Texts, or texts as tokens.
#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Request(request): Request<Embedding>,
) -> Answered {
    let in_flight = answer::begin(&shared, &request.model)?;
    let dimensions = match request.dimensions {
        None => DIMENSIONS,
        Some(dimensions @ 1..=MOST_DIMENSIONS) => dimensions,
        Some(_) => return Err(Refusal::invalid("dimensions is out of range")),
    };
    let encode: fn(&[f32]) -> Value = match request.encoding_format.as_deref() {
        None | Some("float") => |vector| json!(vector),
        Some("base64") => |vector| {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            base64(&bytes).into()
        },
        Some(_) => return Err(Refusal::invalid("encoding_format is neither float nor base64")),
    };
    let text = |text: String| (tokens(&text).len(), hash(&text));
    let ids = |ids: Vec<u32>| (ids.len(), hash(&ids));
    let inputs: Vec<(usize, u64)> = match request.input {
        Input::Text(one) => vec![text(one)],
        Input::Texts(many) => many.into_iter().map(text).collect(),
        Input::Tokens(one) => vec![ids(one)],
        Input::ManyTokens(many) => many.into_iter().map(ids).collect(),
    };
    let read: usize = inputs.iter().map(|(tokens, _)| tokens).sum();
    let data: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(index, (_, seed))| {
            let embedding = encode(&unit_vector(*seed, dimensions));
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    answer::write(&in_flight, 1).await;
    Ok(Json(json!({
        "object": "list", "data": data, "model": request.model,
        "usage": { "prompt_tokens": read, "total_tokens": read },
    }))
    .into_response())
}

fn hash(input: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    hasher.finish()
}

fn unit_vector(seed: u64, dimensions: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let vector: Vec<f32> = (0..dimensions).map(|_| random.f32() - 0.5).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.into_iter().map(|x| x / length).collect()
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { digit.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_in_the_rfc() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn one_input_has_one_vector_of_length_one() {
        let vector = unit_vector(hash("hello"), 64);
        assert_eq!(vector, unit_vector(hash("hello"), 64));
        assert_ne!(vector, unit_vector(hash("hallo"), 64));
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
}
