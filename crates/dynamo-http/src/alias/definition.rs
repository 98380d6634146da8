//! One alias: its name, its targets, and how it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use dynamo_namespace::Namespace;
use http::HeaderValue;

use super::share::{Ticket, hash};
use crate::view::Model;

/// A name that clients ask for, and the models that answer.
///
/// ```
/// use dynamo_http::{Alias, AliasTarget};
///
/// let old = AliasTarget::new("Qwen/Qwen3-32B").with_namespace("team-a-0f3c9a1b".parse()?);
/// let new = AliasTarget::new("Qwen/Qwen3-32B").with_namespace("team-a-77ab01cd".parse()?);
/// let alias = Alias::new("gpt-4o", [old.with_weight(95), new.with_weight(5)])
///     .with_fallback([AliasTarget::new("Qwen/Qwen3-8B")]);
/// assert_eq!(alias.name(), "gpt-4o");
/// # Ok::<(), dynamo_namespace::InvalidNamespace>(())
/// ```
#[derive(Clone, Debug)]
pub struct Alias {
    name: Arc<str>,
    pub(super) targets: Vec<AliasTarget>,
    pub(super) fallback: Vec<AliasTarget>,
    answer_as: AnswerAs,
    listed: bool,
    on_too_many_requests: bool,
    on_context_length: bool,
    /// The name as a JSON string.
    json: Bytes,
    /// Whether it was logged that the alias hides a model of the same name.
    told: Arc<AtomicBool>,
}

/// A model that answers for an alias, or its part in one namespace.
#[derive(Clone, Debug)]
pub struct AliasTarget {
    model: Arc<str>,
    namespace: Option<Namespace>,
    weight: u32,
    /// The model's name as a JSON string.
    json: Bytes,
    /// The model's name as the value of a header.
    header: Option<HeaderValue>,
    /// The hash by which sessions are shared out.
    hash: u64,
}

/// The name that the answers of an alias carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerAs {
    /// The name that the client asked for.
    #[default]
    Asked,
    /// The name of the model that has answered.
    Served,
}

impl Alias {
    /// An alias of these targets, which is listed, answers by its own name, and has no fallback.
    pub fn new(name: &str, targets: impl IntoIterator<Item = AliasTarget>) -> Self {
        Self {
            name: name.into(),
            targets: targets.into_iter().collect(),
            fallback: Vec::new(),
            answer_as: AnswerAs::default(),
            listed: true,
            on_too_many_requests: false,
            on_context_length: false,
            json: json(name),
            told: Arc::default(),
        }
    }

    /// The same alias with models that answer, in this order, where no target can. Their weights mean
    /// nothing.
    #[must_use]
    pub fn with_fallback(self, fallback: impl IntoIterator<Item = AliasTarget>) -> Self {
        Self { fallback: fallback.into_iter().collect(), ..self }
    }

    /// The same alias with another name in its answers. Default [`AnswerAs::Asked`].
    #[must_use]
    pub fn with_answer_as(self, answer_as: AnswerAs) -> Self {
        Self { answer_as, ..self }
    }

    /// The same alias, in `/v1/models` or not. Default listed.
    #[must_use]
    pub fn with_listed(self, listed: bool) -> Self {
        Self { listed, ..self }
    }

    /// The same alias, which also falls back where a worker answers 429. Default no.
    #[must_use]
    pub fn with_fallback_on_too_many_requests(self, falls: bool) -> Self {
        Self { on_too_many_requests: falls, ..self }
    }

    /// The same alias, which also falls back where a worker answers 400 because the prompt is longer
    /// than the model's context. Default no.
    #[must_use]
    pub fn with_fallback_on_context_length(self, falls: bool) -> Self {
        Self { on_context_length: falls, ..self }
    }

    /// The name that clients ask for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `/v1/models` has it.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed
    }

    /// What replaces the model's name in the answers of a target: the alias's own name as a JSON
    /// string. None: the answers stay as they are.
    pub(crate) fn answers_as(&self, target: &AliasTarget) -> Option<&Bytes> {
        let is_edited = self.answer_as == AnswerAs::Asked && target.model != self.name;
        is_edited.then_some(&self.json)
    }

    /// What replaces the name that the client asked for in the body for a target: the model's name as
    /// a JSON string. None: it is the same name.
    pub(crate) fn asks_as<'a>(&self, target: &'a AliasTarget) -> Option<&'a Bytes> {
        (target.model != self.name).then_some(&target.json)
    }

    /// Whether a 429 of a worker is a reason to fall back.
    pub(crate) fn falls_back_on_too_many_requests(&self) -> bool {
        self.on_too_many_requests
    }

    /// Whether a prompt that is too long is a reason to fall back.
    pub(crate) fn falls_back_on_context_length(&self) -> bool {
        self.on_context_length
    }

    /// Whether it has the model of its own name among its targets.
    pub(crate) fn stands_for_itself(&self) -> bool {
        self.all().any(|target| target.model == self.name)
    }

    /// Its targets, and then its fallbacks.
    pub(crate) fn all(&self) -> impl Iterator<Item = &AliasTarget> {
        self.targets.iter().chain(&self.fallback)
    }

    /// Whether nobody has told yet that the alias hides a model. From now on somebody has.
    pub(crate) fn is_to_be_told(&self) -> bool {
        !self.told.load(Relaxed) && !self.told.swap(true, Relaxed)
    }
}

impl AliasTarget {
    /// All instances of a model that the caller sees, with the weight 1.
    pub fn new(model: &str) -> Self {
        Self {
            model: model.into(),
            namespace: None,
            weight: 1,
            json: json(model),
            header: HeaderValue::from_bytes(model.as_bytes()).ok(),
            hash: hash(0, model.as_bytes()),
        }
    }

    /// The same target, of which only the instances in one namespace count.
    #[must_use]
    pub fn with_namespace(self, namespace: Namespace) -> Self {
        let hash = hash(hash(0, self.model.as_bytes()), namespace.as_str().as_bytes());
        Self { namespace: Some(namespace), hash, ..self }
    }

    /// The same target with another share of the requests: its weight divided by the sum of the
    /// weights. With the weight 0 the target is as if it were not there. Default 1.
    #[must_use]
    pub fn with_weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The namespace whose instances count; none where all do.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// The share of the requests.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    pub(crate) fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }

    /// What it draws its lots by.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket { hash: self.hash, weight: self.weight }
    }

    /// Whether the model has an instance that the target means.
    pub(crate) fn is_served_by(&self, model: &Model) -> bool {
        !model.part(self.namespace()).kinds.is_empty()
    }

    /// Whether both mean the same instances.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.model == other.model && self.namespace == other.namespace
    }
}

fn json(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}
