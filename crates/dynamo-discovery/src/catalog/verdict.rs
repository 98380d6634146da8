//! The verdict on one entry: whether it is live in a catalog, and why not.

use std::sync::Arc;

use dynamo_namespace::{EndpointId, Namespace, NamespaceScope};

use super::update::{Ignored, Refusal, Refused};
use crate::entry::{RawEntry, State, ValidEntry, check_model_name};
use crate::instance::Instance;
use crate::model_key::{InvalidKey, KeyParts, may_belong};
use crate::network_prefix::NetworkPrefix;
use crate::store::{Entry, Key};

/// Whether an entry is live.
#[derive(Debug)]
pub(super) enum Verdict {
    Live(Arc<Instance>),
    Not(Unfit),
}

/// Why an entry is not live.
#[derive(Debug)]
pub(super) enum Unfit {
    Draining(Arc<Instance>),
    OutOfScope,
    Refused(Box<Refused>),
}

/// Judges entries, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    root: NetworkPrefix,
    scope: NamespaceScope,
    /// The endpoint of the last live entry. It is in scope. The next entry probably has the same one,
    /// and then shares its memory.
    recent: Option<EndpointId>,
}

impl Judge {
    pub(super) fn new(root: NetworkPrefix, scope: NamespaceScope) -> Self {
        Self { root, scope, recent: None }
    }

    /// The key without the root; `None` where it is not below the root.
    pub(super) fn below_root<'a>(&self, key: &'a Key) -> Option<&'a [u8]> {
        key.as_bytes().strip_prefix(self.root.as_str().as_bytes())
    }

    /// Judges an entry. Of a live entry, the fields that are invalid are added to `ignored`.
    pub(super) fn verdict(&mut self, entry: Entry, ignored: &mut Vec<Ignored>) -> Verdict {
        let Some(below_root) = self.below_root(&entry.key) else {
            return Verdict::Not(Unfit::OutOfScope);
        };
        // This check is the first, so that nothing is told about a neighbour's entry.
        if !self.scope_has(below_root) {
            return Verdict::Not(Unfit::OutOfScope);
        }
        let refuse = |namespace: Option<&Namespace>, model: &str, error: Refusal| {
            let fit = namespace.is_some() && check_model_name(model).is_ok();
            Verdict::Not(Unfit::Refused(Box::new(Refused {
                key: entry.key.clone(),
                namespace: namespace.cloned(),
                model: fit.then(|| model.to_owned()),
                error,
            })))
        };
        let key = std::str::from_utf8(below_root)
            .map_err(|_| InvalidKey::NotUtf8)
            .and_then(|key| KeyParts::parse(key, self.recent.as_ref()));
        let key = match key {
            Ok(key) => key,
            Err(error) => return refuse(None, "", error.into()),
        };
        // A native key names the endpoint, the model and the worker process; a flat key names nothing.
        let (told, id) = match &key {
            KeyParts::Native { endpoint, instance, model } => {
                (Some((endpoint, model.as_ref())), Some(*instance))
            }
            KeyParts::Flat => (None, None),
        };
        let like = told.map(|(endpoint, _)| endpoint).or(self.recent.as_ref());
        let raw = match RawEntry::parse(&entry.value, like) {
            Ok(raw) => raw,
            Err(error) => {
                let (endpoint, model) = told.unzip();
                let namespace = endpoint.map(EndpointId::namespace);
                return refuse(namespace, model.unwrap_or_default(), error.into());
            }
        };
        match told {
            None if !self.scope.contains(raw.endpoint().namespace()) => {
                return Verdict::Not(Unfit::OutOfScope);
            }
            // The namespace and the model of the value are told only where the key agrees with them.
            Some((endpoint, model)) if (endpoint, model) != (raw.endpoint(), raw.name()) => {
                return refuse(Some(endpoint.namespace()), model, InvalidKey::Disagrees.into());
            }
            _ => {}
        }
        match raw.validate() {
            Ok(ValidEntry { entry: value, .. }) if value.state() == State::Draining => {
                Verdict::Not(Unfit::Draining(Arc::new(Instance::new(entry.key, id, value))))
            }
            Ok(ValidEntry { entry: value, ignored_control }) => {
                if let Some(error) = ignored_control {
                    ignored.push(Ignored { key: entry.key.clone(), error });
                }
                if self.recent.as_ref() != Some(value.endpoint()) {
                    self.recent = Some(value.endpoint().clone());
                }
                Verdict::Live(Arc::new(Instance::new(entry.key, id, value)))
            }
            Err(error) => refuse(Some(raw.endpoint().namespace()), raw.name(), error.into()),
        }
    }

    /// Whether a key can belong to the scope. A key in the namespace of the last live entry does.
    fn scope_has(&self, below_root: &[u8]) -> bool {
        let recent = self.recent.as_ref().map(|recent| recent.namespace().as_str().as_bytes());
        let left = recent.and_then(|recent| below_root.strip_prefix(recent));
        left.is_some_and(|left| left.starts_with(b"/")) || may_belong(&self.scope, below_root)
    }
}
