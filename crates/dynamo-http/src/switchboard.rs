//! The switchboard: model updates in, views out.
//!
//! One writer, any number of readers that load views without a lock. A batch is published at once,
//! at a cost that follows the change and not the size: views are persistent maps behind an atomic
//! swap.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dynamo_discovery::{ByKey, Instance, Key, Kinds, ModelUpdate, WorkerUrl};
#[cfg(feature = "proxy")]
use dynamo_namespace::Namespace;
use dynamo_namespace::NamespaceScope;

use crate::live::LiveView;
use crate::route::Route;
#[cfg(feature = "proxy")]
use crate::upstream::Upstream;
use crate::upstream::Upstreams;
use crate::view::{Model, View, index};

/// The readers' side: cheap to clone, never blocks.
#[derive(Clone)]
pub struct Switchboard {
    views: Arc<[LiveView]>,
}

impl Switchboard {
    /// A switchboard with a view for each scope, and the one writer to it.
    ///
    /// Views of further scopes are opened by [`SwitchboardWriter::open`].
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
        let staged: Vec<_> = scopes.into_iter().map(Staged::empty).collect();
        let switchboard = Self { views: staged.iter().map(|staged| staged.live.clone()).collect() };
        let writer = SwitchboardWriter {
            switchboard: switchboard.clone(),
            staged,
            unseen: HashSet::new(),
            held: BTreeSet::new(),
            ready: false,
            upstreams: Upstreams::default(),
        };
        (switchboard, writer)
    }

    /// What this scope sees now.
    ///
    /// A scope that the switchboard was not made with sees nothing.
    #[must_use]
    pub fn view(&self, scope: &NamespaceScope) -> Arc<View> {
        match self.find(scope) {
            Some(live) => live.load(),
            None => Arc::new(View::empty(scope.clone())),
        }
    }

    /// The view of this scope, for those who ask for it again and again.
    ///
    /// A scope that the switchboard was not made with sees nothing.
    #[must_use]
    pub fn live_view(&self, scope: &NamespaceScope) -> LiveView {
        self.find(scope).cloned().unwrap_or_else(|| LiveView::empty(scope.clone()))
    }

    fn find(&self, scope: &NamespaceScope) -> Option<&LiveView> {
        self.views.iter().find(|live| live.scope() == scope)
    }
}

impl fmt::Debug for Switchboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.views).finish()
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
    /// Holds the views that the switchboard was made with, so that they stay.
    switchboard: Switchboard,
    /// Those views in the same order, then the others.
    staged: Vec<Staged>,
    /// What was told and none of the views that stay shows: a new view begins with that and theirs.
    unseen: HashSet<ByKey>,
    /// The keys, of all that was told, that the store has lost.
    held: BTreeSet<Key>,
    ready: bool,
    upstreams: Upstreams,
}

/// A view to come; equal to the published one but for what is staged.
struct Staged {
    live: LiveView,
    view: View,
    /// The models that are to be built anew, with their instances ordered by key: each once for
    /// each publication, however many batches touch it. One that is new is built when it comes, so
    /// that of a long first list little is left to do at its end.
    touched: BTreeMap<Arc<str>, Vec<Arc<Instance>>>,
    changed: bool,
}

impl Staged {
    fn empty(scope: NamespaceScope) -> Self {
        Self {
            view: View::empty(scope.clone()),
            live: LiveView::empty(scope),
            touched: BTreeMap::new(),
            changed: false,
        }
    }

    /// Takes in updates, as far as they are in scope.
    fn stage(&mut self, updates: &[ModelUpdate], upstreams: &Upstreams) {
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
                |instance: &&Arc<Instance>| scope.contains(instance.entry().endpoint().namespace());
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
                            self.put(Model::new(name, instances, None, now, upstreams.clone()));
                        }
                    }
                }
            }
        }
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
    fn build(&mut self, upstreams: &Upstreams) {
        let now = unix_now();
        let published = self.live.load();
        for (name, instances) in std::mem::take(&mut self.touched) {
            if instances.is_empty() {
                let gone = self.view.models.remove(&name);
                self.count(gone.map_or(Kinds::NONE, |model| model.kinds()), Kinds::NONE);
            } else {
                let before = published.models.get(&name).map(Arc::as_ref);
                self.put(Model::new(name, instances, before, now, upstreams.clone()));
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
    /// Opens the view of a scope, with all that is known of it; published with the next batch.
    ///
    /// A scope that has a view already shares it. The view stays for as long as someone holds it.
    pub fn open(&mut self, scope: &NamespaceScope) -> LiveView {
        if let Some(staged) = self.staged.iter().find(|staged| staged.live.scope() == scope) {
            return staged.live.clone();
        }
        let mut staged = Staged::empty(scope.clone());
        staged.view.ready = self.ready;
        staged.changed = true;
        let shown = self.fixed().iter().flat_map(|staged| &staged.view.instances);
        let added = |one: &ByKey| ModelUpdate::Added(one.0.clone());
        let known: Vec<_> = shown.chain(&self.unseen).map(added).collect();
        staged.stage(&known, &self.upstreams);
        for key in self.held.iter().filter(|key| staged.view.instances.contains(*key)) {
            staged.view.held.insert(key.clone());
        }
        let live = staged.live.clone();
        self.staged.push(staged);
        live
    }

    /// The views that stay.
    fn fixed(&self) -> &[Staged] {
        &self.staged[..self.switchboard.views.len()]
    }

    /// Takes in updates without publishing them.
    pub fn stage(&mut self, updates: &[ModelUpdate]) {
        for update in updates {
            let (ModelUpdate::Added(one)
            | ModelUpdate::Changed { new: one, .. }
            | ModelUpdate::Removed(one, _)) = update;
            self.held.remove(one.key());
            if !self.unseen.is_empty() {
                self.unseen.remove(one.key());
            }
            let namespace = one.entry().endpoint().namespace();
            let is_shown = |staged: &Staged| staged.view.scope.contains(namespace);
            let is_gone = matches!(update, ModelUpdate::Removed(..));
            if !is_gone && !self.fixed().iter().any(is_shown) {
                self.unseen.insert(ByKey(one.clone()));
            }
        }
        for staged in &mut self.staged {
            staged.stage(updates, &self.upstreams);
        }
    }

    /// Says that an instance serves though the store has lost it, until the next update of its key.
    #[cfg(feature = "proxy")]
    pub(crate) fn stage_held(&mut self, instance: &Instance) {
        let key = instance.key();
        let is_shown = |staged: &Staged| staged.view.instances.contains(key);
        if !self.unseen.contains(key) && !self.fixed().iter().any(is_shown) {
            return;
        }
        self.held.insert(key.clone());
        for Staged { view, changed, .. } in &mut self.staged {
            if view.instances.contains(key) {
                view.held.insert(key.clone());
                *changed = true;
            }
        }
    }

    /// The server at a URL: the one that published models use, where there is one.
    #[cfg(feature = "proxy")]
    pub(crate) fn server(&mut self, url: &WorkerUrl) -> Arc<Upstream> {
        self.upstreams.get(url)
    }

    /// The instances of a namespace that serve a model to anyone, with what is staged.
    #[cfg(feature = "proxy")]
    pub(crate) fn instances_of(
        &self,
        namespace: &Namespace,
        model: &str,
    ) -> impl Iterator<Item = &Arc<Instance>> {
        let staged = self.staged.iter().find(|staged| staged.view.scope.contains(namespace));
        let instances = staged.map_or([].as_slice(), |Staged { view, touched, .. }| {
            let published = || view.models.get(model).map(|model| model.instances());
            touched.get(model).map(Vec::as_slice).or_else(published).unwrap_or_default()
        });
        instances.iter().filter(move |one| one.entry().endpoint().namespace() == namespace)
    }

    /// Says that every source has told once what there is; published with the next batch.
    pub fn stage_ready(&mut self) {
        self.ready = true;
        for staged in &mut self.staged {
            staged.view.ready = true;
            staged.changed = true;
        }
    }

    /// Publishes what was staged and says which routes changed.
    pub fn publish(&mut self) -> Vec<RouteChange> {
        self.staged.retain(|staged| staged.live.is_held());
        let mut changes = Vec::new();
        for staged in &mut self.staged {
            if !std::mem::take(&mut staged.changed) {
                continue;
            }
            staged.build(&self.upstreams);
            let Staged { live, view, .. } = staged;
            let before = live.publish(Arc::new(view.clone())).open_kinds();
            let now = view.open_kinds();
            for (kinds, open) in [(now.difference(before), true), (before.difference(now), false)] {
                changes.extend(Route::of(kinds).map(|route| RouteChange {
                    scope: view.scope.clone(),
                    route,
                    open,
                }));
            }
        }
        changes
    }
}

impl fmt::Debug for SwitchboardWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwitchboardWriter")
            .field("switchboard", &self.switchboard)
            .field("views", &self.staged.len())
            .finish_non_exhaustive()
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

#[cfg(test)]
mod tests {
    use dynamo_discovery::{Gone, Kind, ModelEntry};
    use proptest::prelude::*;

    use super::*;
    #[cfg(feature = "proxy")]
    use crate::proxy::rotation::Out;

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

    #[cfg(feature = "proxy")]
    #[test]
    fn servers_are_made_for_the_first_request_and_stay_for_as_long_as_a_model_points_at_them() {
        let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All]);
        let one = instance("a", 1, "m", "Chat");
        let used =
            |writer: &SwitchboardWriter| writer.upstreams.know(one.entry().url().into_iter());
        let server = |model: &str| {
            let view = switchboard.view(&NamespaceScope::All);
            Arc::downgrade(view.model(model).unwrap().upstreams(Kind::Chat).next().unwrap())
        };
        update_http_endpoints(&mut writer, &[added(&one)]);
        assert!(!used(&writer), "no request has asked for it");
        let first = server("m");
        assert!(used(&writer));
        // Another instance, then another model in the place of this one.
        update_http_endpoints(&mut writer, &[added(&instance("a", 2, "m", "Chat"))]);
        assert!(first.ptr_eq(&server("m")));
        let renamed = instance("a", 1, "n", "Chat");
        update_http_endpoints(
            &mut writer,
            &[removed(&one), removed(&instance("a", 2, "m", "Chat")), added(&renamed)],
        );
        assert!(first.ptr_eq(&server("n")) && first.upgrade().is_some());
        update_http_endpoints(&mut writer, &[removed(&renamed)]);
        assert!(!used(&writer) && first.upgrade().is_none());
    }

    #[cfg(feature = "proxy")]
    #[test]
    fn a_server_that_one_view_finds_out_of_rotation_is_shown_so_in_all() {
        let a = NamespaceScope::Only("a".parse().unwrap());
        let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All, a.clone()]);
        let (used, other) = (instance("a", 1, "m", "Chat"), instance("a", 1, "n", "Chat"));
        update_http_endpoints(&mut writer, &[added(&used), added(&other)]);
        let model = switchboard.view(&a).model("m").unwrap().clone();
        model.upstreams(Kind::Chat).next().unwrap().rotation.refused();
        for scope in [a, NamespaceScope::All] {
            let view = switchboard.view(&scope);
            for one in [&used, &other] {
                assert_eq!(view.out_of_rotation(one), Some(Out::Unreachable), "{scope}");
            }
        }
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

    #[test]
    fn whatever_a_switchboard_was_made_with_a_later_view_begins_with_all_that_is_known() {
        let scope = |name: &str| NamespaceScope::Only(name.parse().unwrap());
        let all = NamespaceScope::All;
        for made_with in
            [vec![], vec![scope("a")], vec![scope("b")], vec![all.clone()], vec![scope("a"), all]]
        {
            let (_switchboard, mut writer) = Switchboard::new(made_with.clone());
            let [one, two, three] = [("a", 1), ("b", 2), ("b", 3)]
                .map(|(namespace, number)| instance(namespace, number, "m", "Chat"));
            update_http_endpoints(&mut writer, &[added(&one), added(&two), added(&three)]);
            let changed = Arc::new(Instance::new(
                two.key().clone(),
                None,
                two.entry().clone().with_context_length(7),
            ));
            let change = ModelUpdate::Changed { old: two, new: changed };
            update_http_endpoints(&mut writer, &[change, removed(&three)]);

            let later = [scope("a"), scope("b"), scope("c"), NamespaceScope::All];
            let views = later.map(|scope| writer.open(&scope));
            writer.publish();
            let seen = views.map(|view| {
                let lengths = view.load();
                lengths.instances().map(|one| one.entry().context_length()).collect::<Vec<_>>()
            });
            let expected = [vec![None], vec![Some(7)], vec![], vec![None, Some(7)]];
            assert_eq!(seen, expected, "{made_with:?}");
        }
    }

    #[test]
    fn a_view_that_is_opened_later_begins_with_all_that_is_known_of_its_scope() {
        let scope = |name: &str| NamespaceScope::Only(name.parse().unwrap());
        let (_switchboard, mut writer) = Switchboard::new([]);
        update_http_endpoints(
            &mut writer,
            &[added(&instance("a", 1, "m", "Chat")), added(&instance("b", 2, "n", "Chat"))],
        );
        writer.stage_ready();

        let a = writer.open(&scope("a"));
        assert!(!a.load().is_open(Kind::Chat), "not before it is published");
        assert_eq!(changes(&writer.publish()), CHAT.map(|route| (route, true)));
        let view = a.load();
        let names: Vec<_> = view.models().map(|model| model.name()).collect();
        assert_eq!((names, view.instances().count(), view.is_ready()), (vec!["m"], 1, true));

        // It follows from then on, and is one with all others of its scope.
        update_http_endpoints(&mut writer, &[removed(&instance("a", 1, "m", "Chat"))]);
        assert!(!a.load().is_open(Kind::Chat));
        let again = writer.open(&scope("a"));
        update_http_endpoints(&mut writer, &[added(&instance("a", 3, "o", "Chat"))]);
        assert!(Arc::ptr_eq(&a.load(), &again.load()));
    }

    #[test]
    fn a_view_that_nobody_holds_is_closed_and_those_of_the_switchboard_stay() {
        let scope = |name: &str| NamespaceScope::Only(name.parse().unwrap());
        let (switchboard, mut writer) = Switchboard::new([scope("a")]);
        let (b, c) = (writer.open(&scope("b")), writer.open(&scope("c")));
        drop(c);
        writer.publish();
        assert_eq!(writer.staged.len(), 2);
        drop(b);
        writer.publish();
        assert_eq!(writer.staged.len(), 1);
        update_http_endpoints(&mut writer, &[added(&instance("a", 1, "m", "Chat"))]);
        assert!(switchboard.live_view(&scope("a")).load().is_open(Kind::Chat));
        assert!(!switchboard.live_view(&scope("b")).load().is_open(Kind::Chat));
    }

    #[test]
    fn a_batch_publishes_only_the_views_that_it_changes() {
        let scope = |name: &str| NamespaceScope::Only(name.parse().unwrap());
        let (switchboard, mut writer) = Switchboard::new([scope("a"), scope("b")]);
        let [a, b] = ["a", "b"].map(|name| switchboard.live_view(&scope(name)));
        let (a_before, b_before) = (a.load(), b.load());
        update_http_endpoints(&mut writer, &[added(&instance("a", 1, "m", "Chat"))]);
        assert!(!Arc::ptr_eq(&a.load(), &a_before));
        assert!(Arc::ptr_eq(&b.load(), &b_before));
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
