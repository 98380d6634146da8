//! The names of the models that a caller may use.

use std::sync::Arc;

/// A set of model names: exact names, and beginnings that end in `*`.
///
/// ```
/// use dynamo_http::ModelNames;
///
/// let names = ModelNames::new(["gpt-4o", "Qwen/*"])?;
/// assert!(names.contains("gpt-4o") && names.contains("Qwen/Qwen3-32B"));
/// assert!(!names.contains("gpt-4o-mini"));
/// assert!(ModelNames::new(["a*b"]).is_err(), "an asterisk stands at the end");
/// # Ok::<(), dynamo_http::InvalidModelNames>(())
/// ```
#[derive(Clone, derive_more::Debug, PartialEq, Eq)]
#[debug("{_0:?}")]
pub struct ModelNames(Arc<[Pattern]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(Box<str>),
    Beginning(Box<str>),
}

/// A text is no name and no beginning of a name. The error does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a model name, or the beginning of one with an asterisk at the end")]
pub struct InvalidModelNames;

impl ModelNames {
    /// The set of the names that any of these patterns matches. Without a pattern the set is empty.
    ///
    /// # Errors
    ///
    /// When a pattern is empty, or has an asterisk elsewhere than at its end.
    pub fn new<T: AsRef<str>>(
        names: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidModelNames> {
        let pattern = |name: T| {
            let name = name.as_ref();
            let (name, pattern): (_, fn(Box<str>) -> Pattern) = match name.strip_suffix('*') {
                Some(beginning) => (beginning, Pattern::Beginning),
                None if name.is_empty() => return Err(InvalidModelNames),
                None => (name, Pattern::Exact),
            };
            if name.contains('*') { Err(InvalidModelNames) } else { Ok(pattern(name.into())) }
        };
        names.into_iter().map(pattern).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the name is in the set.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Exact(exact) => **exact == *name,
            Pattern::Beginning(beginning) => name.starts_with(&**beginning),
        })
    }
}
