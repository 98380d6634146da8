//! The models that an engine lists, over several lists. Pure: it has no clock of its own.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use crate::engine::ListedModel;

/// What is known of an engine's models.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// As listed last, with those that are missing for the first time; none before the first list.
    pub(super) known: Option<Vec<ListedModel>>,
    /// Which of the known were missing in the last list.
    pub(super) missing: HashSet<String>,
    /// When the engine is asked for its models again; at once without it.
    pub(super) next: Option<Instant>,
}

impl Listing {
    pub(super) fn due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Takes in a list. A model that it lacks for the first time stays until a second list lacks it
    /// as well: engines list nothing for a moment while they exchange a model. Models keep their
    /// order, so that equal lists are equal.
    pub(super) fn take(&mut self, listed: &[ListedModel]) {
        let mut fresh: HashMap<_, _> =
            listed.iter().map(|model| (model.name.as_str(), model)).collect();
        let (mut known, mut missing) = (Vec::new(), HashSet::new());
        for old in self.known.take().unwrap_or_default() {
            if let Some(model) = fresh.remove(old.name.as_str()) {
                known.push(model.clone());
            } else if !self.missing.contains(&old.name) {
                missing.insert(old.name.clone());
                known.push(old);
            }
        }
        known
            .extend(listed.iter().filter(|model| fresh.contains_key(model.name.as_str())).cloned());
        (self.known, self.missing) = (Some(known), missing);
    }

    /// Those of the published models that are adapters.
    pub(super) fn adapters(&self, published: &[String]) -> Vec<String> {
        let known = self.known.iter().flatten().filter(|model| model.is_adapter);
        known.map(|model| model.name.clone()).filter(|name| published.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str) -> ListedModel {
        let accepts = Default::default();
        ListedModel { name: name.into(), context_length: None, is_adapter: false, accepts }
    }

    #[test]
    fn a_model_goes_when_two_lists_in_a_row_lack_it_and_a_new_one_comes_at_once() {
        let mut listing = Listing::default();
        let mut take = |names: &[&str]| {
            listing.take(&names.iter().map(|name| listed(name)).collect::<Vec<_>>());
            let mut known: Vec<_> =
                listing.known.iter().flatten().map(|model| model.name.clone()).collect();
            known.sort();
            known.join(" ")
        };
        for (listed, known) in [
            (&["a", "b"][..], "a b"),
            (&["a"], "a b"),
            (&["a"], "a"),
            (&["c"], "a c"),
            // Each is back before its second absence.
            (&["a"], "a c"),
            (&["c"], "a c"),
            (&[], "c"),
            (&[], ""),
            (&["a"], "a"),
        ] {
            assert_eq!(take(listed), known, "{listed:?}");
        }
    }
}
