//! Below which root of the store our keys are.

use std::str::FromStr;

use dynamo_discovery::{MODEL_ROOT_PATH, NetworkPrefix};

use super::value::from_text;

/// The root of the keys of models: what was given, and `models/` below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root(pub(crate) NetworkPrefix);

from_text!(Root);

impl FromStr for Root {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let base = text.trim_end_matches('/');
        if base.is_empty() {
            return Err("it is empty; without a root, keys are below models/".to_owned());
        }
        // Whoever watches `models/` would see such keys as well.
        if format!("{base}/").starts_with(MODEL_ROOT_PATH) {
            return Err(format!("keys below {MODEL_ROOT_PATH} are those without a root"));
        }
        let prefix = NetworkPrefix::new(&format!("{base}/{MODEL_ROOT_PATH}"));
        prefix.map(Self).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_below_what_is_given() {
        for (text, expected) in [
            ("ours", "ours/models/"),
            ("ours/", "ours/models/"),
            ("/llm/staging", "/llm/staging/models/"),
            ("modelsx", "modelsx/models/"),
        ] {
            assert_eq!(text.parse::<Root>().unwrap().0.as_str(), expected);
        }
        for text in ["", "/", "models", "models/", "models/ours", "a b", "ä"] {
            assert!(text.parse::<Root>().is_err(), "{text:?}");
        }
    }
}
