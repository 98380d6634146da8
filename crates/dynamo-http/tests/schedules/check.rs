//! What must hold after every publication.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamo_discovery::{DiscoveryBatch, Instance, Key, Kinds, ModelUpdate};
use dynamo_http::{RouteChange, Switchboard, SwitchboardWriter, View, update_http_endpoints};

use crate::world::{At, Eye, KINDS, State, World};

/// The switchboard under test, and what a listener has heard of it.
pub struct Checked {
    eye: Eye,
    switchboard: Switchboard,
    writer: SwitchboardWriter,
    heard: BTreeMap<Key, Arc<Instance>>,
    /// What is published.
    pub at: Option<At>,
}

impl Checked {
    pub fn new(eye: Eye) -> Self {
        let (switchboard, writer) = Switchboard::new([eye.scope()]);
        Self { eye, switchboard, writer, heard: BTreeMap::new(), at: None }
    }

    /// Stages part of a list, as the feed does: not before all of it has come is anything served.
    pub fn stage(&mut self, part: &DiscoveryBatch) {
        assert!(!part.resync, "a part is not the end");
        for update in &part.updates {
            assert!(matches!(update, ModelUpdate::Added(_)), "only while nothing is known");
            self.hear(update);
        }
        self.writer.stage(&part.updates);
    }

    /// Publishes a batch, as the feed does, and holds it against what the store has handed over.
    pub fn publish(&mut self, batch: &DiscoveryBatch, handed: Option<At>, world: &World) {
        let at = handed.expect("something is published that the store did not say");
        assert_eq!(batch.revision.0, at.revision, "applied is what was handed over last");
        let before = self.at.map_or(State::default(), |at| *world.state(at));
        if let Some(last) = self.at {
            // M
            assert!(at >= last, "the applied revision went back: {last:?} to {at:?}");
            assert!(batch.resync || at > last, "a batch was applied twice: {at:?}");
        } else {
            assert!(batch.resync, "a change came before the first list");
        }
        for update in &batch.updates {
            self.hear(update);
        }
        let changes = update_http_endpoints(&mut self.writer, &batch.updates);
        self.at = Some(at);
        let state = world.state(at);
        self.agrees(&self.switchboard.view(&self.eye.scope()), state);
        // S
        self.flips_nothing(&changes, self.eye.open(&before), self.eye.open(state));
    }

    /// `Added` and `Removed` alternate for each key, and say what they mean.
    fn hear(&mut self, update: &ModelUpdate) {
        match update {
            ModelUpdate::Added(new) => {
                let known = self.heard.insert(new.key().clone(), new.clone());
                assert_eq!(known, None, "added twice");
            }
            ModelUpdate::Changed { old, new } => {
                assert_ne!(old, new, "changed to what it was");
                let known = self.heard.insert(new.key().clone(), new.clone());
                assert_eq!(known.as_ref(), Some(old), "changed from something else");
            }
            ModelUpdate::Removed(old, _) => {
                assert_eq!(self.heard.remove(old.key()).as_ref(), Some(old), "removed unknown");
            }
        }
    }

    /// L, G and N: the view has what the store had at the applied revision, and nothing else.
    fn agrees(&self, view: &View, state: &State) {
        let mut expected: Vec<_> = self.eye.sees(state).collect();
        expected.sort_unstable_by_key(|(key, _)| *key);
        let instances: Vec<_> = view.instances().collect();
        let keys = |keys: Vec<&Key>| format!("{keys:?}");
        assert!(
            instances.len() == expected.len()
                && instances.iter().zip(&expected).all(|(instance, (key, live))| {
                    let entry = instance.entry();
                    instance.key() == *key
                        && entry.endpoint().namespace().as_str() == live.namespace
                        && entry.name() == live.model
                        && entry.kinds() == live.kinds
                        && entry.created() == Some(live.created)
                }),
            "at {:?} the store has {} and the view {}",
            self.at,
            keys(expected.iter().map(|(key, _)| *key).collect()),
            keys(instances.iter().map(|instance| instance.key()).collect()),
        );
        assert_eq!(view.open_kinds(), self.eye.open(state), "open is what is served");
        let mut models: Vec<_> = expected.iter().map(|(_, live)| live.model).collect();
        models.sort_unstable();
        let listed = view.models().flat_map(|model| {
            model.instances().iter().map(|instance| {
                assert_eq!(instance.model(), model.name());
                model.name()
            })
        });
        assert!(listed.eq(models.iter().copied()), "{models:?} are not what is listed");
        for kind in KINDS {
            let urls: usize = view.models().map(|model| model.urls(kind).count()).sum();
            let serving = expected.iter().filter(|(_, live)| live.kinds.contains(kind)).count();
            assert_eq!(urls, serving, "{kind} is served by each of its instances once");
        }
    }

    /// A route is told open or closed once, and only where it is so.
    fn flips_nothing(&self, changes: &[RouteChange], before: Kinds, now: Kinds) {
        let mut told = [Kinds::NONE; 2];
        for change in changes {
            let told = &mut told[usize::from(change.open)];
            *told |= change.route.kind();
        }
        assert_eq!(told, [before.difference(now), now.difference(before)], "{changes:?}");
    }
}
