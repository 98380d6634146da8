//! A view to come: what is staged for one scope and not published yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dynamo_discovery::{ByKey, Instance, Key, Kinds, ModelUpdate};
use dynamo_namespace::{Namespace, NamespaceScope};

use super::change::RouteChange;
use super::live::LiveView;
use super::model::Model;
use super::view::{View, index};
use crate::route::Route;

/// A view to come. It equals the published one but for what is staged.
pub(super) struct Draft {
    live: LiveView,
    view: View,
    /// The models that are to be built anew, with their instances ordered by key. Each is built once
    /// for each publication, however many batches touch it. A model that is new is built when it
    /// comes, so that little of a long first list is left to do at its end.
    touched: BTreeMap<Arc<str>, Vec<Arc<Instance>>>,
    changed: bool,
}

impl Draft {
    pub(super) fn empty(scope: NamespaceScope) -> Self {
        Self {
            view: View::empty(scope.clone()),
            live: LiveView::empty(scope),
            touched: BTreeMap::new(),
            changed: false,
        }
    }

    /// Where it is published.
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

    /// Takes in the updates that are in scope.
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
                            let (name, instances) = (new.model().into(), vec![new.clone()]);
                            self.put(Model::new(name, instances, None, now));
                        }
                    }
                }
            }
        }
    }

    /// Says that the store has lost an instance, which serves nevertheless.
    pub(super) fn stage_held(&mut self, key: &Key) {
        if self.has(key) {
            self.view.held.insert(key.clone());
            self.changed = true;
        }
    }

    /// Says whether every source has told once what there is.
    pub(super) fn stage_ready(&mut self, ready: bool) {
        self.view.ready = ready;
        self.changed = true;
    }

    /// The instances of a namespace that serve a model, with what is staged.
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

    /// Publishes what is staged, and says which routes that opens and closes.
    pub(super) fn publish(&mut self, changes: &mut Vec<RouteChange>) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.build();
        self.view.generation += 1;
        let before = self.live.publish(Arc::new(self.view.clone())).open_kinds();
        changes.extend(RouteChange::between(&self.view.scope, before, self.view.open_kinds()));
    }

    /// The instances of a model that is there and is to be built anew, ordered by key.
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

    /// Puts a model in its place.
    fn put(&mut self, model: Model) {
        let kinds = model.kinds();
        let before = self.view.models.insert(model.shared_name().clone(), Arc::new(model));
        self.count(before.map_or(Kinds::NONE, |model| model.kinds()), kinds);
    }

    /// Notes that a model of these kinds has others now.
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
    // Lists come in this order, so nearly every one of many comes last.
    match instances.last() {
        Some(last) if last.key() < instance.key() => Err(instances.len()),
        _ => instances.binary_search_by(|other| other.key().cmp(instance.key())),
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
