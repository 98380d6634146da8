//! One entry as an operator sees it, of whichever layout.

use dynamo_discovery::{
    ControlUrl, Entry, Instance, InstanceId, Refusal, Refused, State, WorkerUrl,
};
use dynamo_namespace::Namespace;
use serde_json::{Value, json};

/// Who writes such an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `dynamo-worker`.
    Native,
    /// Dynamo up to 0.5.1, and scripts.
    Flat,
    /// Dynamo from 0.6 on. Our frontends do not read it, and nothing here changes it.
    Dynamo,
}

/// What the entry is to a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It can be asked.
    Serving,
    /// It withdraws.
    Draining,
    /// It names no server: it is listed, and never asked.
    Unroutable,
    /// It serves Dynamo's own frontends.
    Foreign,
    /// It breaks a rule.
    Refused {
        why: String,
        /// The key and the value name different places: somebody wrote into a neighbour's.
        disagrees: bool,
    },
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// As it lies.
    pub(super) entry: Entry,
    pub(super) layout: Layout,
    pub(super) standing: Standing,
    pub(super) place: Place,
    pub(super) offer: Offer,
}

/// Where the entry's worker belongs, as far as that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) namespace: Option<Namespace>,
    pub(super) component: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) instance: Option<InstanceId>,
}

/// What the entry offers, as far as that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer {
    pub(super) model: Option<String>,
    pub(super) kinds: Option<String>,
    pub(super) url: Option<WorkerUrl>,
    pub(super) control: Option<ControlUrl>,
    pub(super) context_length: Option<u64>,
    pub(super) accepts: Vec<&'static str>,
    pub(super) created: Option<u64>,
    /// Where Dynamo's own frontends reach the instance.
    pub(super) transport: Option<String>,
}

impl Standing {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Unroutable => "unroutable",
            Self::Foreign => "dynamo",
            Self::Refused { .. } => "refused",
        }
    }
}

impl Layout {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Flat => "flat",
            Self::Dynamo => "dynamo",
        }
    }
}

impl Item {
    /// A valid entry, native or flat.
    pub(super) fn valid(entry: Entry, instance: &Instance) -> Self {
        let value = instance.entry();
        let standing = match (value.state(), value.url()) {
            (State::Draining, _) => Standing::Draining,
            (State::Serving, Some(_)) => Standing::Serving,
            (State::Serving, None) => Standing::Unroutable,
        };
        let endpoint = value.endpoint();
        Self {
            entry,
            layout: if instance.id().is_some() { Layout::Native } else { Layout::Flat },
            standing,
            place: Place {
                namespace: Some(endpoint.namespace().clone()),
                component: Some(endpoint.component().to_owned()),
                endpoint: Some(endpoint.name().to_owned()),
                instance: instance.id(),
            },
            offer: Offer {
                model: Some(value.name().to_owned()),
                kinds: Some(value.kinds().to_string()),
                url: value.url().cloned(),
                control: value.control().cloned(),
                context_length: value.context_length(),
                accepts: value.accepts().iter().map(|field| field.name()).collect(),
                created: value.created(),
                transport: None,
            },
        }
    }

    /// An entry that breaks a rule.
    pub(super) fn refused(entry: Entry, layout: Layout, refused: &Refused) -> Self {
        let disagrees = dynamo_discovery::InvalidKey::Disagrees;
        let standing = Standing::Refused {
            why: dynamo_discovery::ErrorChain(&refused.error).to_string(),
            disagrees: refused.error == Refusal::Key(disagrees),
        };
        let namespace = refused.namespace.clone();
        let model = refused.model.clone();
        Self {
            entry,
            layout,
            standing,
            place: Place { namespace, ..Place::default() },
            offer: Offer { model, ..Offer::default() },
        }
    }

    /// Whether this is its key, as it is shown.
    pub(super) fn has_key(&self, wanted: &str) -> bool {
        self.entry.key.to_string() == wanted
    }

    pub(super) fn model(&self) -> Option<&str> {
        self.offer.model.as_deref()
    }

    /// The entry as one object, without its value.
    pub(super) fn json(&self) -> Value {
        let Self { entry, layout, standing, place, offer } = self;
        let why = match standing {
            Standing::Refused { why, .. } => Some(why),
            _ => None,
        };
        json!({
            "key": entry.key.to_string(),
            "layout": layout.name(),
            "namespace": place.namespace.as_ref().map(Namespace::as_str),
            "component": place.component,
            "endpoint": place.endpoint,
            "instance": place.instance.map(|id| id.to_string()),
            "model": offer.model,
            "model_type": offer.kinds,
            "state": standing.name(),
            "why": why,
            "url": offer.url.as_ref().map(WorkerUrl::as_str),
            "control": offer.control.as_ref().map(ControlUrl::as_str),
            "transport": offer.transport,
            "context_length": offer.context_length,
            "accepts": offer.accepts,
            "created": offer.created,
            "lease": entry.lease.map(|lease| lease.to_string()),
            "revision": entry.mod_revision.0,
        })
    }
}
