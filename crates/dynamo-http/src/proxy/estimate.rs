//! Estimates the tokens of a request before it is sent, for the limits of its key.

use memchr::memmem;

use super::peek::Prompt;
use crate::placement::{Path, weigh};

#[cfg(test)]
mod tests;

/// The bytes of a token.
const BYTES: u64 = 4;
/// The tokens of an image or a file.
const PART: u64 = 1000;

/// The estimated tokens of a prompt. `path` is the path of the prompt, if it is known. A body without
/// a member that is known to be a prompt is one as a whole.
pub(super) fn input(prompt: &Prompt<'_>, path: Option<&Path>, body: &[u8]) -> u64 {
    let other = [prompt.tools, prompt.system, prompt.instructions];
    if let Some(ids) = token_ids(prompt.input) {
        let (text, parts) = weigh(other.map(str::as_bytes));
        return tokens(text, parts).saturating_add(ids);
    }
    let (text, parts) = match path {
        Some(path) => (path.text(), path.parts()),
        None => {
            let [tools, system, instructions] = other;
            let pieces = [tools, system, instructions, prompt.input];
            let is_empty = pieces.iter().all(|piece| piece.is_empty());
            match is_empty {
                true => weigh([body]),
                false => weigh(pieces.map(str::as_bytes)),
            }
        }
    };
    tokens(text, parts.max(named_parts(prompt.input)))
}

fn tokens(text: usize, parts: usize) -> u64 {
    (text as u64 / BYTES).saturating_add((parts as u64).saturating_mul(PART))
}

/// How many tokens a prompt has that consists of their ids: a list of numbers, or of such lists.
fn token_ids(raw: &str) -> Option<u64> {
    let first = raw.bytes().find(|byte| !byte.is_ascii_whitespace() && *byte != b'[')?;
    if !raw.starts_with('[') || !first.is_ascii_digit() {
        return None;
    }
    let is_of_numbers =
        |byte: u8| byte.is_ascii_digit() || byte.is_ascii_whitespace() || b"[],".contains(&byte);
    let commas = raw.bytes().filter(|byte| *byte == b',').count();
    raw.bytes().all(is_of_numbers).then_some(commas as u64 + 1)
}

/// How many images and files a prompt names, also those that the engine is to fetch. The words cannot
/// stand in a text, whose quotes are escaped.
fn named_parts(raw: &str) -> usize {
    const TYPES: [&str; 8] = [
        "image_url",
        "input_image",
        "image",
        "input_file",
        "file",
        "document",
        "input_audio",
        "video_url",
    ];
    let behind = |at: usize| {
        let value = raw[at..].trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        value.split('"').next()
    };
    let name = "\"type\"";
    memmem::find_iter(raw.as_bytes(), name)
        .filter(|at| behind(at + name.len()).is_some_and(|kind| TYPES.contains(&kind)))
        .count()
}

/// The longest answer that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    /// The greatest number of tokens of the members that limit them.
    most: Option<u64>,
    /// How many answers are asked for.
    answers: Option<u64>,
}

impl Output {
    /// The tokens of an answer whose length is not limited.
    const DEFAULT: u64 = 1024;
    /// The most tokens of an answer that are reserved: clients set the greatest length that a model
    /// has, and nearly all answers are shorter.
    const MOST: u64 = 8192;

    /// Reads a member of the body by its name and its raw value.
    pub(super) fn read(&mut self, name: &str, value: &str) {
        let number = || value.parse().ok();
        match name {
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" => {
                self.most = self.most.max(number());
            }
            "n" => self.answers = number().or(self.answers),
            _ => {}
        }
    }

    /// The tokens to reserve.
    pub(super) fn tokens(self) -> u64 {
        let each = self.most.unwrap_or(Self::DEFAULT).min(Self::MOST);
        each.saturating_mul(self.answers.unwrap_or(1).max(1))
    }
}
