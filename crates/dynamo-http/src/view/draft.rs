//! The next view of one scope: the published view with the staged updates.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use dynamo_discovery::{ByKey, Instance, Key, Kinds, ModelUpdate};
use dynamo_namespace::{Namespace, NamespaceScope};

use super::change::RouteChange;
use super::live::LiveView;
use super::model::Model;
use super::view::{View, index, unix_now};
use crate::route::Route;

/// The next view of one scope. It equals the published view until updates are staged.
pub(super) struct Draft {
    live: LiveView,
    view: View,
    /// The instances of the models that the next publication builds anew, ordered by key. A
    /// publication builds such a model once, however many batches have touched it. A new model is
    /// built when its first instance is staged, so that a long first list leaves little to do at
    /// its end.
    touched: BTreeMap<Arc<str>, Vec<Arc<Instance>>>,
    /// The models that have lost an instance since the last publication, with its namespace.
    left: BTreeSet<(Arc<str>, Namespace)>,
    changed: bool,
}

impl Draft {
    pub(super) fn empty(scope: NamespaceScope) -> Self {
        Self {
            view: View::empty(scope.clone()),
            live: LiveView::empty(scope),
            touched: BTreeMap::new(),
            left: BTreeSet::new(),
            changed: false,
        }
    }

    /// The live view to which this draft is published.
    pub(super) fn live(&self) -> &LiveView {
        &self.live
    }

    pub(super) fn scope(&self) -> &NamespaceScope {
        &self.view.scope
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = &ByKey> {
        self.view.instances.iter()
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.view.instances.contains(key)
    }

    /// Stages the updates whose instances are in scope.
    pub(super) fn stage(&mut self, updates: &[ModelUpdate]) {
        let now = unix_now();
        for update in updates {
            let (old, new) = match update {
                ModelUpdate::Added(new) => (None, Some(new)),
                ModelUpdate::Changed { old, new } => (Some(old), Some(new)),
                ModelUpdate::Removed(old, _) => (Some(old), None),
            };
            if let Some(either) = old.or(new).filter(|_| !self.view.held.is_empty()) {
                self.view.held.remove(either.key());
            }
            let scope = &self.view.scope;
            let of_scope =
                |instance: &&Arc<Instance>| scope.contains(instance.endpoint().namespace());
            let (old, new) = (old.filter(of_scope), new.filter(of_scope));
            self.changed |= old.or(new).is_some();
            if let Some(old) = old {
                self.view.instances.remove(old.key());
                if let Some(instances) = self.touch(old.model())
                    && let Ok(position) = position(instances, old)
                {
                    instances.remove(position);
                    // An instance that another one replaces nearly always stays in its namespace.
                    let namespace = old.endpoint().namespace();
                    let takes_its_place = |new: &Arc<Instance>| {
                        new.endpoint().namespace() == namespace && new.model() == old.model()
                    };
                    if !new.is_some_and(takes_its_place)
                        && let Some((name, _)) = self.view.models.get_key_value(old.model())
                    {
                        self.left.insert((name.clone(), namespace.clone()));
                    }
                }
            }
            if let Some(new) = new {
                self.view.instances.insert(ByKey(new.clone()));
                if !opened(new).is_empty() {
                    match self.touch(new.model()) {
                        Some(instances) => match position(instances, new) {
                            Ok(position) => instances[position] = new.clone(),
                            Err(position) => instances.insert(position, new.clone()),
                        },
                        None => {
                            if self.view.departed.has(new.model()) {
                                let namespace = new.endpoint().namespace();
                                self.view.departed.is_back(new.model(), namespace);
                            }
                            let (name, instances) = (new.model().into(), vec![new.clone()]);
                            self.put(Model::new(name, instances, None, now));
                        }
                    }
                }
            }
        }
    }

    /// Marks an instance as held since a time in unix seconds: the store has lost it, and it serves
    /// nevertheless.
    pub(super) fn stage_held(&mut self, key: &Key, since: u64) {
        if self.has(key) {
            self.view.held.insert(key.clone(), since);
            self.changed = true;
        }
    }

    /// Sets whether every source has delivered its first list.
    pub(super) fn stage_ready(&mut self, ready: bool) {
        self.view.ready = ready;
        self.changed = true;
    }

    /// The instances of a namespace that serve a model, with the staged updates applied.
    pub(super) fn instances_of<'a>(
        &'a self,
        namespace: &'a Namespace,
        model: &str,
    ) -> impl Iterator<Item = &'a Arc<Instance>> {
        let published = || self.view.models.get(model).map(|model| model.instances());
        let instances = self.touched.get(model).map(Vec::as_slice).or_else(published);
        let of_namespace = move |one: &&Arc<Instance>| one.endpoint().namespace() == namespace;
        instances.unwrap_or_default().iter().filter(of_namespace)
    }

    /// Publishes the staged updates, and adds the routes that this opens and closes to `changes`.
    pub(super) fn publish(&mut self, changes: &mut Vec<RouteChange>) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.build();
        self.view.generation += 1;
        let (before, after) = (self.live.load().open_kinds(), self.view.open_kinds());
        for kind in before.difference(after).iter().chain(after.difference(before).iter()) {
            self.view.since[index(kind)] = unix_now();
        }
        self.live.publish(Arc::new(self.view.clone()));
        changes.extend(RouteChange::between(&self.view.scope, before, after));
    }

    /// The instances of a model, ordered by key. The next publication builds the model anew from
    /// them. None: the view has no such model.
    fn touch(&mut self, model: &str) -> Option<&mut Vec<Arc<Instance>>> {
        if !self.touched.contains_key(model) {
            let (name, model) = self.view.models.get_key_value(model)?;
            self.touched.insert(name.clone(), model.instances().to_vec());
        }
        self.touched.get_mut(model)
    }

    /// Builds the models that the staged updates touch.
    fn build(&mut self) {
        let now = unix_now();
        self.note_departures();
        let published = self.live.load();
        for (name, instances) in std::mem::take(&mut self.touched) {
            if instances.is_empty() {
                let gone = self.view.models.remove(&name);
                self.count(gone.map_or(Kinds::NONE, |model| model.kinds()), Kinds::NONE);
            } else {
                let before = published.models.get(&name).map(Arc::as_ref);
                self.put(Model::new(name, instances, before, now));
            }
        }
    }

    /// Notes which models have no instance left in a namespace, and which are back.
    fn note_departures(&mut self) {
        let mut left = std::mem::take(&mut self.left);
        left.retain(|(name, namespace)| self.instances_of(namespace, name).next().is_none());
        if !left.is_empty() {
            self.view.departed.note(left, Instant::now());
        }
        for (name, instances) in &self.touched {
            if self.view.departed.has(name) {
                for instance in instances {
                    self.view.departed.is_back(name, instance.endpoint().namespace());
                }
            }
        }
    }

    /// Puts a model into the view, in the place of the version before.
    fn put(&mut self, model: Model) {
        let kinds = model.kinds();
        let before = self.view.models.insert(model.shared_name().clone(), Arc::new(model));
        self.count(before.map_or(Kinds::NONE, |model| model.kinds()), kinds);
    }

    /// Adjusts the number of models of each kind for a model whose kinds change.
    fn count(&mut self, before: Kinds, now: Kinds) {
        for kind in before.difference(now).iter() {
            self.view.of_kind[index(kind)] -= 1;
        }
        for kind in now.difference(before).iter() {
            self.view.of_kind[index(kind)] += 1;
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.live.end();
    }
}

/// The kinds of an instance for which there is a route.
fn opened(instance: &Instance) -> Kinds {
    let kinds = instance.kinds();
    kinds.difference(kinds.difference(Route::all_kinds()))
}

fn position(instances: &[Arc<Instance>], instance: &Instance) -> Result<usize, usize> {
    // Lists come in the order of keys, so nearly every instance of a long list comes last.
    match instances.last() {
        Some(last) if last.key() < instance.key() => Err(instances.len()),
        _ => instances.binary_search_by(|other| other.key().cmp(instance.key())),
    }
}
