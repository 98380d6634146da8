//! The switchboard: model updates in, views out.
//!
//! One writer, any number of readers that take no lock. A batch is published at once, at a cost
//! that follows the change and not the size: views are persistent maps behind an atomic swap.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use dynamo_discovery::{Instance, Kinds, ModelUpdate, WorkerUrl};
use dynamo_namespace::NamespaceScope;

use crate::route::Route;
use crate::upstream::Upstream;
use crate::view::{Model, View, index};

/// The readers' side: cheap to clone, never blocks.
#[derive(Clone)]
pub struct Switchboard {
    published: Arc<[Published]>,
}

struct Published {
    scope: NamespaceScope,
    view: ArcSwap<View>,
}

impl Switchboard {
    /// A switchboard with a view for each scope, and the one writer to it.
    ///
    /// ```
    /// use dynamo_discovery::Kind;
    /// use dynamo_http::Switchboard;
    /// use dynamo_namespace::NamespaceScope;
    ///
    /// let scope = NamespaceScope::from_target(Some("team-a"))?;
    /// let (switchboard, _writer) = Switchboard::new([scope.clone()]);
    /// assert!(!switchboard.view(&scope).is_open(Kind::Chat));
    /// # Ok::<(), dynamo_namespace::InvalidNamespace>(())
    /// ```
    pub fn new(scopes: impl IntoIterator<Item = NamespaceScope>) -> (Self, SwitchboardWriter) {
        let views: Vec<View> = scopes.into_iter().map(View::empty).collect();
        let published = views
            .iter()
            .map(|view| Published {
                scope: view.scope.clone(),
                view: ArcSwap::from_pointee(view.clone()),
            })
            .collect();
        let switchboard = Self { published };
        let writer = SwitchboardWriter {
            switchboard: switchboard.clone(),
            views,
            upstreams: HashMap::new(),
            sweep_at: 64,
        };
        (switchboard, writer)
    }

    /// What this scope sees now.
    ///
    /// A scope that the switchboard was not made with sees nothing.
    #[must_use]
    pub fn view(&self, scope: &NamespaceScope) -> Arc<View> {
        match self.published.iter().find(|published| published.scope == *scope) {
            Some(published) => published.view.load_full(),
            None => Arc::new(View::empty(scope.clone())),
        }
    }
}

impl fmt::Debug for Switchboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.published.iter().map(|published| published.view.load_full()))
            .finish()
    }
}

/// A route opened or closed for a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// For whom.
    pub scope: NamespaceScope,
    /// Which.
    pub route: Route,
    /// Whether it is open now.
    pub open: bool,
}

/// The writer's side. There is one.
pub struct SwitchboardWriter {
    switchboard: Switchboard,
    /// The views to come; equal to the published ones but for what is staged.
    views: Vec<View>,
    /// Every server that a published model points at, so that it keeps its connections.
    upstreams: HashMap<WorkerUrl, Weak<Upstream>>,
    /// How many of them are kept before the dead are swept out.
    sweep_at: usize,
}

/// Applies one batch, publishes it at once, and says which routes changed.
///
/// A route is told open only after the view with its first instance is published.
pub fn update_http_endpoints(
    writer: &mut SwitchboardWriter,
    updates: &[ModelUpdate],
) -> Vec<RouteChange> {
    writer.stage(updates);
    writer.publish()
}

impl SwitchboardWriter {
    /// Takes in updates without publishing them.
    pub fn stage(&mut self, updates: &[ModelUpdate]) {
        let Self { views, upstreams, .. } = self;
        for view in views {
            stage(view, upstreams, updates);
        }
    }

    /// Says that every source has told once what there is; published with the next batch.
    pub fn stage_ready(&mut self) {
        for view in &mut self.views {
            view.ready = true;
        }
    }

    /// Publishes what was staged and says which routes changed.
    pub fn publish(&mut self) -> Vec<RouteChange> {
        let mut changes = Vec::new();
        for (view, published) in self.views.iter().zip(&*self.switchboard.published) {
            let before = published.view.swap(Arc::new(view.clone())).open_kinds();
            let now = view.open_kinds();
            for (kinds, open) in [(now.difference(before), true), (before.difference(now), false)] {
                changes.extend(Route::of(kinds).map(|route| RouteChange {
                    scope: view.scope.clone(),
                    route,
                    open,
                }));
            }
        }
        if self.upstreams.len() >= self.sweep_at {
            self.upstreams.retain(|_, upstream| upstream.strong_count() > 0);
            self.sweep_at = (self.upstreams.len() * 2).max(64);
        }
        changes
    }
}

impl fmt::Debug for SwitchboardWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwitchboardWriter").field("views", &self.views).finish_non_exhaustive()
    }
}

/// Takes updates into one view. Each model that they touch is built anew, once.
fn stage(
    view: &mut View,
    upstreams: &mut HashMap<WorkerUrl, Weak<Upstream>>,
    updates: &[ModelUpdate],
) {
    let mut touched: BTreeMap<Arc<str>, Vec<Arc<Instance>>> = BTreeMap::new();
    for update in updates {
        let (old, new) = match update {
            ModelUpdate::Added(new) => (None, Some(new)),
            ModelUpdate::Changed { old, new } => (Some(old), Some(new)),
            ModelUpdate::Removed(old, _) => (Some(old), None),
        };
        let of_scope = |instance: &&Arc<Instance>| {
            view.scope.contains(instance.entry().endpoint().namespace())
        };
        let (old, new) = (old.filter(of_scope), new.filter(of_scope));
        if let Some(old) = old {
            view.instances.remove(old.key());
            let instances = instances_of(&view.models, &mut touched, old.model());
            if let Ok(position) = position(instances, old) {
                instances.remove(position);
            }
        }
        if let Some(new) = new {
            view.instances.insert(new.key().clone(), new.clone());
            if !opened(new).is_empty() {
                let instances = instances_of(&view.models, &mut touched, new.model());
                match position(instances, new) {
                    Ok(position) => instances[position] = new.clone(),
                    Err(position) => instances.insert(position, new.clone()),
                }
            }
        }
    }
    for (name, instances) in touched {
        let before = view.models.get(&name).cloned();
        let after = (!instances.is_empty()).then(|| {
            let upstream = |url: &WorkerUrl| upstream(upstreams, url);
            Arc::new(Model::new(name.clone(), &instances, before.as_deref(), unix_now(), upstream))
        });
        let kinds =
            |model: &Option<Arc<Model>>| model.as_ref().map_or(Kinds::NONE, |model| model.kinds());
        for kind in kinds(&before).difference(kinds(&after)).iter() {
            view.by_kind[index(kind)].remove(&name);
        }
        for kind in kinds(&after).difference(kinds(&before)).iter() {
            view.by_kind[index(kind)].insert(name.clone());
        }
        match after {
            Some(after) => view.models.insert(name, after),
            None => view.models.remove(&name),
        };
    }
}

/// The kinds of an instance for which there is a route.
fn opened(instance: &Instance) -> Kinds {
    let kinds = instance.kinds();
    kinds.difference(kinds.difference(Route::all_kinds()))
}

fn position(instances: &[Arc<Instance>], instance: &Instance) -> Result<usize, usize> {
    instances.binary_search_by(|other| other.key().cmp(instance.key()))
}

/// The instances of a model as this batch has them so far, ordered by key.
fn instances_of<'a>(
    models: &imbl::OrdMap<Arc<str>, Arc<Model>>,
    touched: &'a mut BTreeMap<Arc<str>, Vec<Arc<Instance>>>,
    name: &str,
) -> &'a mut Vec<Arc<Instance>> {
    let (name, known) = match models.get_key_value(name) {
        Some((name, model)) => (name.clone(), model.instances()),
        None => (name.into(), [].as_slice()),
    };
    touched.entry(name).or_insert_with(|| known.to_vec())
}

fn upstream(upstreams: &mut HashMap<WorkerUrl, Weak<Upstream>>, url: &WorkerUrl) -> Arc<Upstream> {
    if let Some(upstream) = upstreams.get(url).and_then(Weak::upgrade) {
        return upstream;
    }
    let upstream = Arc::new(Upstream::new(url.clone()));
    upstreams.insert(url.clone(), Arc::downgrade(&upstream));
    upstream
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use dynamo_discovery::{Gone, Key, Kind, ModelEntry};
    use proptest::prelude::*;

    use super::*;

    fn instance(namespace: &str, number: u8, model: &str, kinds: &str) -> Arc<Instance> {
        let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
        let entry = ModelEntry::new(model, endpoint, Kinds::parse(kinds).kinds)
            .unwrap()
            .with_url(format!("http://h{number}").parse().unwrap());
        let key = Key::from(format!("models/{namespace}/backend/generate/{number}/{model}"));
        Arc::new(Instance::new(key, None, entry))
    }

    fn added(instance: &Arc<Instance>) -> ModelUpdate {
        ModelUpdate::Added(instance.clone())
    }

    fn removed(instance: &Arc<Instance>) -> ModelUpdate {
        ModelUpdate::Removed(instance.clone(), Gone::Vanished)
    }

    fn changes(changes: &[RouteChange]) -> Vec<(Route, bool)> {
        changes.iter().map(|change| (change.route, change.open)).collect()
    }

    const CHAT: [Route; 3] = [Route::ChatCompletions, Route::Responses, Route::Messages];

    #[test]
    fn a_route_opens_with_its_first_model_and_closes_after_the_last() {
        let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All]);
        let (a, b) = (instance("a", 1, "m", "Chat"), instance("a", 2, "n", "Chat | Embedding"));

        let opened = update_http_endpoints(&mut writer, &[added(&a)]);
        assert_eq!(changes(&opened), CHAT.map(|route| (route, true)));
        let opened = update_http_endpoints(&mut writer, &[added(&b)]);
        assert_eq!(changes(&opened), [(Route::Embeddings, true)]);

        assert_eq!(update_http_endpoints(&mut writer, &[removed(&a)]), []);
        assert!(switchboard.view(&NamespaceScope::All).is_open(Kind::Chat));
        let closed = update_http_endpoints(&mut writer, &[removed(&b)]);
        assert_eq!(closed.len(), 4);
        assert_eq!(switchboard.view(&NamespaceScope::All).open_kinds(), Kinds::NONE);
    }

    #[test]
    fn a_change_of_the_only_instance_does_not_close_the_route() {
        let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All]);
        let (old, new) =
            (instance("a", 1, "m", "Chat"), instance("a", 1, "m", "Chat | Completions"));
        update_http_endpoints(&mut writer, &[added(&old)]);
        let held = switchboard.view(&NamespaceScope::All);
        let changed =
            update_http_endpoints(&mut writer, &[ModelUpdate::Changed { old, new: new.clone() }]);
        assert_eq!(changes(&changed), [(Route::Completions, true)]);
        // Gone and back in one batch: no one sees it closed.
        assert_eq!(update_http_endpoints(&mut writer, &[removed(&new), added(&new)]), []);
        // Who holds a view keeps what it had.
        assert!(held.is_open(Kind::Chat) && !held.is_open(Kind::Completions));
    }

    #[test]
    fn each_scope_sees_its_own_models_and_an_unknown_scope_nothing() {
        let scope = |name: &str| NamespaceScope::Only(name.parse().unwrap());
        let (switchboard, mut writer) =
            Switchboard::new([scope("a"), scope("b"), NamespaceScope::All]);
        update_http_endpoints(&mut writer, &[added(&instance("a", 1, "m", "Chat"))]);

        let models = |scope: &NamespaceScope| switchboard.view(scope).models().count();
        assert_eq!(models(&scope("a")), 1);
        assert_eq!(models(&scope("b")), 0);
        assert_eq!(models(&NamespaceScope::All), 1);
        assert_eq!(models(&scope("c")), 0);
        assert!(!switchboard.view(&scope("b")).is_open(Kind::Chat));
        assert_eq!(switchboard.view(&scope("b")).instances().count(), 0);
    }

    #[test]
    fn an_instance_that_prefills_is_listed_and_opens_nothing() {
        let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All]);
        let prefill = instance("a", 1, "m", "Chat | Prefill");
        assert_eq!(update_http_endpoints(&mut writer, &[added(&prefill)]), []);
        let view = switchboard.view(&NamespaceScope::All);
        assert_eq!((view.models().count(), view.instances().count()), (0, 1));
    }

    #[test]
    fn two_entries_with_one_url_are_one_server_that_takes_turns_once() {
        let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All]);
        let (a, b) = (instance("a", 1, "m", "Chat"), instance("a", 2, "m", "Chat"));
        let again = instance("b", 1, "m", "Completions");
        update_http_endpoints(&mut writer, &[added(&a), added(&b), added(&again)]);
        let view = switchboard.view(&NamespaceScope::All);
        let model = view.model("m").unwrap();
        let first = |kind| model.urls(kind).next().unwrap().to_string();
        let turns: Vec<_> = (0..4).map(|_| first(Kind::Chat)).collect();
        assert_eq!(turns, ["http://h1", "http://h2", "http://h1", "http://h2"]);
        assert_eq!(model.upstreams(Kind::Completions).count(), 1);
        assert_eq!(model.upstreams(Kind::Chat).count(), 2);
    }

    #[test]
    fn the_list_shows_the_smallest_context_and_disagreement_is_seen() {
        let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All]);
        let with = |number, length| {
            let instance = instance("a", number, "m", "Chat");
            let entry = instance.entry().clone().with_context_length(length).with_created(length);
            Arc::new(Instance::new(instance.key().clone(), None, entry))
        };
        update_http_endpoints(&mut writer, &[added(&with(1, 300)), added(&with(2, 200))]);
        let model = |switchboard: &Switchboard| {
            switchboard.view(&NamespaceScope::All).model("m").unwrap().clone()
        };
        assert_eq!(model(&switchboard).context_length(), Some(200));
        assert!(model(&switchboard).disagrees());
        // Whoever comes later does not change when the model was created.
        update_http_endpoints(&mut writer, &[added(&with(3, 100))]);
        assert_eq!(model(&switchboard).created(), 200);
    }

    proptest! {
        #[test]
        fn what_is_open_follows_from_what_is_live(
            steps in proptest::collection::vec((0_usize..8, any::<bool>(), any::<bool>()), 0..60),
        ) {
            let pool: Vec<_> = (0..8_u8)
                .map(|n| {
                    let namespace = if n % 2 == 0 { "a" } else { "b" };
                    let kinds = ["Chat", "Chat | Completions", "Embedding", "Prefill | Chat"];
                    instance(namespace, n, &format!("m{}", n % 3), kinds[usize::from(n) / 2])
                })
                .collect();
            let scopes = [NamespaceScope::All, NamespaceScope::Only("a".parse().unwrap())];
            let (switchboard, mut writer) = Switchboard::new(scopes.clone());
            let mut live = [false; 8];
            let mut batch = Vec::new();
            for (index, publish, _) in steps {
                let update = if live[index] { removed(&pool[index]) } else { added(&pool[index]) };
                live[index] = !live[index];
                batch.push(update);
                if publish {
                    update_http_endpoints(&mut writer, &std::mem::take(&mut batch));
                }
            }
            update_http_endpoints(&mut writer, &batch);
            for scope in scopes {
                let view = switchboard.view(&scope);
                let seen: Vec<_> = pool
                    .iter()
                    .zip(live)
                    .filter(|(instance, live)| {
                        *live && scope.contains(instance.entry().endpoint().namespace())
                    })
                    .map(|(instance, _)| instance)
                    .collect();
                let open = seen.iter().fold(Kinds::NONE, |kinds, i| kinds.union(i.kinds()));
                prop_assert_eq!(view.open_kinds(), open);
                prop_assert_eq!(view.instances().count(), seen.len());
                let serving = |name: &str| {
                    seen.iter().filter(|i| i.model() == name && !i.kinds().is_empty()).count()
                };
                for name in ["m0", "m1", "m2"] {
                    let instances = view.model(name).map_or(0, |model| model.instances().len());
                    prop_assert_eq!(instances, serving(name));
                }
            }
        }
    }
}
