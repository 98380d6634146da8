//! Writes a configuration file: texts as JSON has them, which is YAML as well.

use serde_json::Value;

/// A text of a configuration file, in quotes, with `$` as the file has it.
pub(super) fn text(text: &str) -> String {
    verbatim(&text.replace('$', "$$"))
}

/// The same for a text in which `${NAME}` stands for a variable.
pub(super) fn verbatim(text: &str) -> String {
    Value::from(text).to_string()
}
