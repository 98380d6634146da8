//! The entries to publish, made from the models that an engine lists and the user's settings.

use dynamo_discovery::{Accepts, ControlUrl, Kinds, ModelEntry, WorkerUrl};
use dynamo_namespace::EndpointId;

use crate::engine::ListedModel;

/// The user's settings about the models.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// The worker's endpoint, in Dynamo's terms.
    pub(crate) endpoint: EndpointId,
    /// The URL under which frontends reach the engine.
    pub(crate) url: WorkerUrl,
    /// Where frontends reach the control port, if there is one.
    pub(crate) control: Option<ControlUrl>,
    pub(crate) kinds: Kinds,
    /// The names of the models; if empty, those that the engine lists.
    pub(crate) names: Vec<String>,
    /// The context length; `None` for the one that the engine lists.
    pub(crate) context_length: Option<u64>,
    /// The optional fields of requests that the engine accepts; `None` for what is known of the engine
    /// that lists the models.
    pub(crate) accepts: Option<Accepts>,
    /// The time of the worker's start, in unix seconds. The value stays the same, so that an
    /// unchanged model gives an equal entry.
    pub(crate) created: u64,
}

impl Offer {
    /// The entries, if the engine lists these models.
    pub(crate) fn entries(&self, listed: &[ListedModel]) -> Vec<ModelEntry> {
        if self.names.is_empty() {
            let entry =
                |model: &ListedModel| self.entry(&model.name, model.context_length, model.accepts);
            return listed.iter().filter_map(entry).collect();
        }
        let entry = |name: &String| {
            let model = listed.iter().find(|model| model.name == *name);
            // All models are of one engine, which may list other names than the user has given.
            let accepts = model.or(listed.first()).map_or(Accepts::NONE, |model| model.accepts);
            self.entry(name, model.and_then(|model| model.context_length), accepts)
        };
        self.names.iter().filter_map(entry).collect()
    }

    /// The entries if the engine's list cannot be read; `None` unless the user named models.
    pub(crate) fn entries_unlisted(&self) -> Option<Vec<ModelEntry>> {
        (!self.names.is_empty()).then(|| self.entries(&[]))
    }

    fn entry(&self, name: &str, listed_context: Option<u64>, known: Accepts) -> Option<ModelEntry> {
        // The engine's client and the settings have checked names and kinds.
        let entry = ModelEntry::new(name, self.endpoint.clone(), self.kinds).ok()?;
        let entry = entry
            .with_url(self.url.clone())
            .with_created(self.created)
            .with_accepts(self.accepts.unwrap_or(known));
        let entry = match &self.control {
            Some(control) => entry.with_control(control.clone()),
            None => entry,
        };
        Some(match self.context_length.or(listed_context) {
            Some(context_length) => entry.with_context_length(context_length),
            None => entry,
        })
    }
}

#[cfg(test)]
mod tests {
    use dynamo_discovery::RequestField;

    use super::*;
    use crate::settings::static_worker::default_kinds;

    fn offer(names: &[&str], context_length: Option<u64>) -> Offer {
        Offer {
            endpoint: "team-a.backend.generate".parse().unwrap(),
            url: "http://h:1".parse().unwrap(),
            control: Some("http://h:2".parse().unwrap()),
            kinds: default_kinds(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            context_length,
            accepts: None,
            created: 7,
        }
    }

    fn listed_model(name: &str, context_length: Option<u64>) -> ListedModel {
        let accepts = Accepts::from_iter([RequestField::IncludeUsage]);
        ListedModel { name: name.into(), context_length, is_adapter: false, accepts }
    }

    fn shown(entries: Vec<ModelEntry>) -> Vec<(String, Option<u64>)> {
        let pair = |entry: ModelEntry| (entry.name().to_owned(), entry.context_length());
        entries.into_iter().map(pair).collect()
    }

    #[test]
    fn names_of_the_user_replace_the_list_and_keep_its_context_lengths() {
        let listed = [listed_model("default", None), listed_model("a", Some(4096))];
        for (names, context, expected) in [
            (&[][..], None, vec![("default", None), ("a", Some(4096))]),
            (&["a", "b"], None, vec![("a", Some(4096)), ("b", None)]),
            (&["a"], Some(8), vec![("a", Some(8))]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(name, context)| (name.to_owned(), context)).collect();
            assert_eq!(shown(offer(names, context).entries(&listed)), expected);
        }
    }

    #[test]
    fn what_the_user_says_of_the_accepted_fields_replaces_what_is_known_of_the_engine() {
        let accepts = |offer: &Offer, listed: &[ListedModel]| {
            offer
                .entries(listed)
                .iter()
                .map(|entry| entry.accepts().to_string())
                .collect::<Vec<_>>()
        };
        let listed = [listed_model("a", None)];
        let known = offer(&["a", "alias"], None);
        assert_eq!(accepts(&known, &listed), ["include_usage", "include_usage"]);
        assert_eq!(accepts(&known, &[]), ["", ""]);
        for said in ["", "priority"] {
            let offer = Offer { accepts: Some(said.parse().unwrap()), ..offer(&[], None) };
            assert_eq!(accepts(&offer, &listed), [said]);
        }
    }

    #[test]
    fn every_entry_names_the_control_port() {
        let entries = offer(&["a", "b"], None).entries(&[]);
        let control = |entry: &ModelEntry| entry.control().unwrap().to_string();
        assert_eq!(entries.iter().map(control).collect::<Vec<_>>(), ["http://h:2", "http://h:2"]);
    }

    #[test]
    fn without_a_list_only_named_models_can_be_published() {
        assert_eq!(offer(&[], None).entries_unlisted(), None);
        let entries = offer(&["a"], None).entries_unlisted().unwrap();
        assert_eq!(shown(entries), [("a".to_owned(), None)]);
    }
}
