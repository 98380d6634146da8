//! Following a switchboard: waiting for a change, for readiness, and the stream of route changes.

#![allow(clippy::unwrap_used, missing_docs, reason = "test code")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use dynamo_discovery::{Gone, Instance, Key, Kind, Kinds, ModelEntry, ModelUpdate};
use dynamo_http::{
    LiveView, Route, RouteChange, Switchboard, SwitchboardWriter, View, WriterGone,
    update_http_endpoints,
};
use dynamo_namespace::NamespaceScope;
use futures_util::{FutureExt as _, Stream, StreamExt as _};

/// The deadline of one event.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it did not happen in time")
}

fn scope(namespace: &str) -> NamespaceScope {
    NamespaceScope::Only(namespace.parse().unwrap())
}

fn instance(namespace: &str, model: &str, kinds: impl Into<Kinds>) -> Arc<Instance> {
    let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
    let entry = ModelEntry::new(model, endpoint, kinds.into()).unwrap();
    Arc::new(Instance::new(Key::from(format!("models/{namespace}/{model}")), None, entry))
}

fn add(writer: &mut SwitchboardWriter, instance: &Arc<Instance>) {
    update_http_endpoints(writer, &[ModelUpdate::Added(instance.clone())]);
}

fn remove(writer: &mut SwitchboardWriter, instance: &Arc<Instance>) {
    update_http_endpoints(writer, &[ModelUpdate::Removed(instance.clone(), Gone::Withdrawn)]);
}

/// A switchboard of one scope, its view and its writer.
fn one_scope() -> (LiveView, SwitchboardWriter) {
    let (switchboard, writer) = Switchboard::new([scope("a")]);
    (switchboard.live_view(&scope("a")), writer)
}

/// What a stream has now, without waiting.
fn now(changes: &mut (impl Stream<Item = RouteChange> + Unpin)) -> Vec<(Route, bool)> {
    std::iter::from_fn(|| changes.next().now_or_never().flatten())
        .map(|change| (change.route, change.open))
        .collect()
}

fn names(view: &View) -> Vec<&str> {
    view.models().map(|model| model.name()).collect()
}

#[tokio::test]
async fn whoever_waits_for_a_change_is_woken_by_it_and_gets_the_new_view() {
    let (live, mut writer) = one_scope();
    let seen = live.load();
    let waiting = tokio::spawn({
        let (live, seen) = (live.clone(), seen.clone());
        async move { live.changed(&seen).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    add(&mut writer, &instance("a", "m", Kind::Chat));
    let changed = soon(waiting).await.unwrap().unwrap();
    assert_eq!(names(&changed), ["m"]);
    assert_eq!(names(&seen), [""; 0], "the view that was seen stays as it was");
}

#[tokio::test]
async fn a_publication_between_the_look_and_the_wait_is_seen_at_once() {
    let (live, mut writer) = one_scope();
    let seen = live.load();
    add(&mut writer, &instance("a", "m", Kind::Chat));
    add(&mut writer, &instance("a", "n", Kind::Chat));
    let changed = live.changed(&seen).now_or_never().expect("it waits").unwrap();
    assert_eq!(names(&changed), ["m", "n"], "publications in between are skipped");
    assert!(live.changed(&changed).now_or_never().is_none(), "there is nothing newer");
}

#[tokio::test]
async fn what_another_scope_sees_wakes_nobody() {
    let (switchboard, mut writer) = Switchboard::new([scope("a"), scope("b")]);
    let live = switchboard.live_view(&scope("a"));
    let seen = live.load();
    let mut changed = pin!(live.changed(&seen));
    let mut changes = switchboard.live_view(&scope("a")).changes().boxed();
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(changed.as_mut().poll(cx).is_pending());
    add(&mut writer, &instance("b", "m", Kind::Chat));
    assert!(changed.as_mut().poll(cx).is_pending());
    assert_eq!(now(&mut changes), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_publication_is_lost_however_it_falls_between_look_and_wait() {
    let (live, mut writer) = one_scope();
    let one = instance("a", "m", Kind::Chat);
    // Publishes once for each number that it gets, after as many turns of a loop.
    let (ask, asked) = std::sync::mpsc::channel();
    let publishing = std::thread::spawn(move || {
        for (round, turns) in asked.iter().enumerate() {
            (0..turns).for_each(|_| std::hint::spin_loop());
            if round % 2 == 0 { add(&mut writer, &one) } else { remove(&mut writer, &one) }
        }
    });
    let mut seen = live.load();
    for round in 0..5000 {
        ask.send(round % 64).unwrap();
        // Nothing else is published in this round, so a lost wake-up would be the end.
        let now = soon(live.changed(&seen)).await.unwrap();
        assert_eq!(names(&now).len(), 1 - round % 2);
        seen = now;
    }
    drop(ask);
    publishing.join().unwrap();
}

#[tokio::test]
async fn when_the_writer_is_gone_the_last_view_is_given_and_then_the_end_is_told() {
    let (live, mut writer) = one_scope();
    let first = live.load();
    add(&mut writer, &instance("a", "m", Kind::Chat));
    let waiting = tokio::spawn({
        let (live, last) = (live.clone(), live.load());
        async move { live.changed(&last).await }
    });
    tokio::task::yield_now().await;
    drop(writer);
    assert_eq!(soon(waiting).await.unwrap().unwrap_err(), WriterGone, "whoever waits is woken");
    let last = soon(live.changed(&first)).await.unwrap();
    assert_eq!(names(&last), ["m"]);
    assert_eq!(soon(live.changed(&last)).await.unwrap_err(), WriterGone);
}

#[tokio::test]
async fn a_view_is_ready_when_every_source_has_told_once_what_there_is() {
    let (switchboard, mut writer) = Switchboard::new([scope("a"), scope("b")]);
    let live = switchboard.live_view(&scope("a"));
    let waiting = tokio::spawn({
        let (live, switchboard) = (live.clone(), switchboard.clone());
        async move {
            switchboard.ready().await.unwrap();
            live.ready().await.unwrap()
        }
    });
    tokio::task::yield_now().await;
    add(&mut writer, &instance("a", "m", Kind::Chat));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "part of a list does not make it ready");
    writer.stage_ready();
    writer.publish();
    assert_eq!(names(&soon(waiting).await.unwrap()), ["m"]);
    drop(writer);
    assert!(soon(live.ready()).await.is_ok(), "a view that is ready stays ready");
    assert_eq!(soon(switchboard.ready()).await, Ok(()));
}

#[tokio::test]
async fn a_view_whose_writer_goes_before_the_first_list_is_never_ready() {
    let (switchboard, writer) = Switchboard::new([scope("a")]);
    let waiting = tokio::spawn({
        let switchboard = switchboard.clone();
        async move { switchboard.ready().await }
    });
    tokio::task::yield_now().await;
    drop(writer);
    assert_eq!(soon(waiting).await.unwrap(), Err(WriterGone));
    let unknown = switchboard.live_view(&scope("unknown"));
    assert_eq!(soon(unknown.ready()).await.unwrap_err(), WriterGone, "nobody writes such a view");
}

#[tokio::test]
async fn the_stream_of_changes_begins_with_the_open_routes_and_then_tells_each_change() {
    let (live, mut writer) = one_scope();
    let (vectors, more) =
        (instance("a", "vectors", Kind::Embedding), instance("a", "more", Kind::Embedding));
    add(&mut writer, &vectors);
    let mut changes = live.changes().boxed();
    assert_eq!(now(&mut changes), [(Route::Embeddings, true)]);
    assert_eq!(now(&mut changes), [], "nothing has changed since");

    add(&mut writer, &more);
    remove(&mut writer, &vectors);
    assert_eq!(now(&mut changes), [], "a second model opens nothing");
    remove(&mut writer, &more);
    assert_eq!(now(&mut changes), [(Route::Embeddings, false)]);
    add(&mut writer, &instance("a", "m", Kind::Completions | Kind::Classify));
    assert_eq!(now(&mut changes), [(Route::Completions, true), (Route::Classify, true)]);
}

#[tokio::test]
async fn a_route_that_closes_and_opens_between_two_polls_is_left_out() {
    let (live, mut writer) = one_scope();
    let (vectors, text) =
        (instance("a", "vectors", Kind::Embedding), instance("a", "text", Kind::Completions));
    add(&mut writer, &vectors);
    let mut changes = live.changes().boxed();
    assert_eq!(now(&mut changes).len(), 1);
    remove(&mut writer, &vectors);
    add(&mut writer, &text);
    add(&mut writer, &vectors);
    assert_eq!(now(&mut changes), [(Route::Completions, true)]);
    remove(&mut writer, &text);
    add(&mut writer, &text);
    assert_eq!(now(&mut changes), []);
}

#[tokio::test]
async fn a_stream_of_changes_wakes_its_reader_and_ends_with_the_writer() {
    let (live, mut writer) = one_scope();
    let reader = tokio::spawn(live.changes().collect::<Vec<_>>());
    tokio::task::yield_now().await;
    let vectors = instance("a", "vectors", Kind::Embedding);
    add(&mut writer, &vectors);
    tokio::task::yield_now().await;
    remove(&mut writer, &vectors);
    tokio::task::yield_now().await;
    drop(writer);
    let changes = soon(reader).await.unwrap();
    let told: Vec<_> = changes.iter().map(|change| (change.route, change.open)).collect();
    assert_eq!(told, [(Route::Embeddings, true), (Route::Embeddings, false)]);
    assert!(changes.iter().all(|change| change.scope == scope("a")));
}

#[tokio::test]
async fn the_last_changes_are_told_before_the_stream_ends() {
    let (live, mut writer) = one_scope();
    let mut changes = live.changes().boxed();
    assert_eq!(now(&mut changes), []);
    add(&mut writer, &instance("a", "vectors", Kind::Embedding));
    drop(writer);
    assert_eq!(soon(changes.collect::<Vec<_>>()).await.len(), 1);
}

#[tokio::test]
async fn a_switchboard_tells_the_changes_of_each_scope_that_it_was_made_with() {
    let (switchboard, mut writer) = Switchboard::new([scope("a"), scope("b"), NamespaceScope::All]);
    let (a, b) = (instance("a", "m", Kind::Embedding), instance("b", "n", Kind::Classify));
    let reader = tokio::spawn(switchboard.changes().collect::<Vec<_>>());
    add(&mut writer, &a);
    add(&mut writer, &b);
    tokio::task::yield_now().await;
    remove(&mut writer, &a);
    drop(writer);
    let changes = soon(reader).await.unwrap();
    for (reader, expected) in [
        (scope("a"), &[(Route::Embeddings, true), (Route::Embeddings, false)][..]),
        (scope("b"), &[(Route::Classify, true)]),
        (
            NamespaceScope::All,
            &[(Route::Embeddings, true), (Route::Classify, true), (Route::Embeddings, false)],
        ),
    ] {
        let told: Vec<_> = changes
            .iter()
            .filter(|change| change.scope == reader)
            .map(|change| (change.route, change.open))
            .collect();
        assert_eq!(told, expected, "{reader}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_changes_that_are_told_lead_to_the_routes_that_are_open() {
    let (live, mut writer) = one_scope();
    let pool = [
        instance("a", "m", Kind::Chat),
        instance("a", "n", Kind::Chat | Kind::Embedding),
        instance("a", "o", Kind::Classify),
    ];
    let publishing = std::thread::spawn({
        let live = live.clone();
        move || {
            let mut is_there = [false; 3];
            for round in 0_usize..3000 {
                // Every combination of models comes up.
                let at = (round + round / 5) % 3;
                if is_there[at] {
                    remove(&mut writer, &pool[at]);
                } else {
                    add(&mut writer, &pool[at]);
                }
                is_there[at] = !is_there[at];
            }
            add(&mut writer, &instance("a", "last", Kind::Images));
            live.load().open_kinds()
        }
    });
    let mut changes = live.changes().boxed();
    let mut open = std::collections::BTreeSet::new();
    while let Some(change) = soon(changes.next()).await {
        let is_news =
            if change.open { open.insert(change.route) } else { open.remove(&change.route) };
        assert!(is_news, "{change:?} is told twice");
    }
    let kinds = publishing.join().unwrap();
    assert_eq!(open, Route::of(kinds).collect());
}
