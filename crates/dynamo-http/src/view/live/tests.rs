//! Publications and the end of the writer, each between a reader's look and its wait.

use std::cell::Cell;

use futures_util::FutureExt as _;

use super::*;

fn view(generation: u64) -> Arc<View> {
    let mut view = View::empty(NamespaceScope::All);
    view.generation = generation;
    Arc::new(view)
}

/// Waits for a view after the first, and does something right after the first look.
fn wait(after_first_look: impl Fn(&LiveView)) -> Option<Result<u64, WriterGone>> {
    let live = LiveView::empty(NamespaceScope::All);
    let looks = Cell::new(0);
    let waiting = live.when(|view| {
        if looks.replace(looks.get() + 1) == 0 {
            after_first_look(&live);
        }
        view.generation > 0
    });
    waiting.now_or_never().map(|waited| waited.map(|view| view.generation))
}

#[test]
fn a_publication_between_look_and_wait_is_seen() {
    assert_eq!(wait(|_| {}), None, "it waits where nothing happens");
    assert_eq!(wait(|live| live.publish(view(1))), Some(Ok(1)));
}

#[test]
fn the_end_between_look_and_wait_is_seen_after_the_last_view() {
    assert_eq!(wait(LiveView::end), Some(Err(WriterGone)));
    let last = |live: &LiveView| {
        live.publish(view(7));
        live.end();
    };
    assert_eq!(wait(last), Some(Ok(7)));
}
