//! What readers of a switchboard see after each change.

use dynamo_discovery::{Gone, Kind, Kinds, ModelEntry};
use proptest::prelude::*;

use super::*;
use crate::route::Route;

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
    let (old, new) = (instance("a", 1, "m", "Chat"), instance("a", 1, "m", "Chat | Completions"));
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
    let (switchboard, mut writer) = Switchboard::new([scope("a"), scope("b"), NamespaceScope::All]);
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
fn urls_are_each_listed_once_in_the_order_of_the_keys() {
    let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All]);
    let (a, b) = (instance("a", 1, "m", "Chat"), instance("a", 2, "m", "Chat"));
    let again = instance("b", 1, "m", "Completions | Chat");
    update_http_endpoints(&mut writer, &[added(&b), added(&a), added(&again)]);
    let view = switchboard.view(&NamespaceScope::All);
    let urls = |kind| {
        let urls: Vec<_> = view.model("m").unwrap().urls(kind).map(ToString::to_string).collect();
        urls
    };
    assert_eq!(urls(Kind::Chat), ["http://h1", "http://h2"]);
    assert_eq!(urls(Kind::Completions), ["http://h1"]);
    assert_eq!(urls(Kind::Images), [""; 0]);
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
    assert_eq!(writer.drafts.len(), 2);
    drop(b);
    writer.publish();
    assert_eq!(writer.drafts.len(), 1);
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
                    *live && scope.contains(instance.endpoint().namespace())
                })
                .map(|(instance, _)| instance)
                .collect();
            let open = seen.iter().fold(Kinds::NONE, |kinds, one| kinds | one.kinds());
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

/// What a test does to a switchboard.
#[derive(Clone, Debug)]
enum Step {
    Add(&'static str, u8, &'static str),
    Remove(&'static str, u8, &'static str),
    Publish,
}

fn any_step() -> impl Strategy<Value = Step> {
    let part = || {
        let namespaces = proptest::sample::select(vec!["a", "a-0f3c9a1b", "b"]);
        (namespaces, 0..2_u8, proptest::sample::select(vec!["m", "n"]))
    };
    prop_oneof![
        part().prop_map(|(namespace, number, model)| Step::Add(namespace, number, model)),
        part().prop_map(|(namespace, number, model)| Step::Remove(namespace, number, model)),
        Just(Step::Publish),
    ]
}

/// A switchboard of one scope after these steps, without those in namespaces for which `but` holds.
fn after(scope: &NamespaceScope, steps: &[Step], but: impl Fn(&str) -> bool) -> Arc<View> {
    let (switchboard, mut writer) = Switchboard::new([scope.clone()]);
    let mut there = HashSet::new();
    for step in steps {
        let update = match step {
            Step::Publish => {
                writer.publish();
                continue;
            }
            Step::Add(namespace, ..) | Step::Remove(namespace, ..) if but(namespace) => continue,
            Step::Add(namespace, number, model) => {
                let one = instance(namespace, *number, model, "Chat");
                if !there.insert((namespace, number, model)) {
                    continue;
                }
                added(&one)
            }
            Step::Remove(namespace, number, model) => {
                if !there.remove(&(namespace, number, model)) {
                    continue;
                }
                removed(&instance(namespace, *number, model, "Chat"))
            }
        };
        writer.stage(&[update]);
    }
    writer.publish();
    switchboard.view(scope)
}

proptest! {
    #[test]
    fn a_scope_remembers_what_has_left_it_and_nothing_of_others(
        steps in proptest::collection::vec(any_step(), 0..30),
    ) {
        let scope = NamespaceScope::Generations("a".parse().unwrap());
        let view = after(&scope, &steps, |_| false);
        let alone = after(&scope, &steps, |namespace| namespace == "b");
        let now = std::time::Instant::now();
        let left = |view: &View, model: &str, namespace: Option<&str>| {
            let namespace = namespace.map(|name| name.parse().unwrap());
            view.departed.since(model, namespace.as_ref(), now).is_some()
        };
        for model in ["m", "n"] {
            for namespace in ["a", "a-0f3c9a1b", "b"] {
                let has_left = left(&view, model, Some(namespace));
                prop_assert_eq!(has_left, left(&alone, model, Some(namespace)));
                let is_there = view.instances().any(|one| {
                    one.model() == model && one.endpoint().namespace().as_str() == namespace
                });
                prop_assert!(!(has_left && is_there), "{} {}", model, namespace);
                prop_assert!(!has_left || namespace != "b");
                // Whoever was published and is not there has left.
                let was_there = steps.iter().any(|step| {
                    matches!(step, Step::Remove(name, _, of) if *name == namespace && *of == model)
                });
                prop_assert!(was_there || !has_left);
            }
            prop_assert_eq!(left(&view, model, None), left(&alone, model, None));
        }
    }
}

#[test]
fn a_model_that_moves_to_another_namespace_has_left_the_first_and_one_that_changes_has_not() {
    let (switchboard, mut writer) = Switchboard::new([NamespaceScope::All]);
    let (one, other) = (instance("a", 1, "m", "Chat"), instance("b", 1, "m", "Chat"));
    update_http_endpoints(&mut writer, &[added(&one)]);
    let left = |model: &str, namespace: Option<&str>| {
        let namespace = namespace.map(|name| name.parse().unwrap());
        let view = switchboard.view(&NamespaceScope::All);
        view.departed.since(model, namespace.as_ref(), std::time::Instant::now()).is_some()
    };
    let new = instance("a", 1, "m", "Chat | Embedding");
    update_http_endpoints(&mut writer, &[ModelUpdate::Changed { old: one, new: new.clone() }]);
    assert!(!left("m", None));
    update_http_endpoints(&mut writer, &[added(&other), removed(&new)]);
    assert!(left("m", Some("a")) && !left("m", Some("b")));
    update_http_endpoints(&mut writer, &[removed(&other)]);
    assert!(left("m", Some("b")) && left("m", None));
    update_http_endpoints(&mut writer, &[added(&other)]);
    assert!(!left("m", Some("b")) && left("m", Some("a")));
}
