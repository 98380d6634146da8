//! Text as tokens: words with the white space after them.

/// The tokens of a text; their concatenation is the text.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len());
        let blank = rest[word..].find(char::is_whitespace).map_or(rest.len(), |at| word + at);
        let next =
            rest[blank..].find(|c: char| !c.is_whitespace()).map_or(rest.len(), |at| blank + at);
        let (token, after) = rest.split_at(next);
        tokens.push(token);
        rest = after;
    }
    tokens
}

/// The first tokens of a text, and the reason for the end: `stop`, or `length` at the limit.
pub(super) fn limited(text: &str, limit: Option<usize>) -> (Vec<&str>, &'static str) {
    let mut tokens = tokens(text);
    match limit {
        Some(limit) if limit < tokens.len() => {
            tokens.truncate(limit);
            (tokens, "length")
        }
        _ => (tokens, "stop"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_words_and_join_to_the_text() {
        for (text, expected) in [
            ("", &[][..]),
            ("one", &["one"]),
            ("one two  three\n", &["one ", "two  ", "three\n"]),
            (" a\u{3000}ü 日本 ", &[" a\u{3000}", "ü ", "日本 "]),
            ("  ", &["  "]),
        ] {
            assert_eq!(tokens(text), expected, "{text:?}");
            assert_eq!(tokens(text).concat(), text);
        }
    }

    #[test]
    fn a_limit_cuts_and_says_so() {
        assert_eq!(limited("a b c", Some(2)), (vec!["a ", "b "], "length"));
        assert_eq!(limited("a b c", Some(3)).1, "stop");
        assert_eq!(limited("a b c", None).0.len(), 3);
    }
}
