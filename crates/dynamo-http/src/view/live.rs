//! The view of one scope as it is now, wherever it is held.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use dynamo_discovery::Kinds;
use dynamo_namespace::NamespaceScope;
use futures_util::stream::{self, Stream};
use tokio::sync::Notify;

use super::change::RouteChange;
use super::view::View;

/// One scope's view, kept up to date for as long as someone holds it. A clone is the same view.
///
/// Whoever asks often keeps one of these: [`load`](Self::load) takes no lock and searches nothing.
#[derive(Clone)]
pub struct LiveView(Arc<Published>);

/// A view that is looked at and not kept open.
#[derive(Clone, Debug)]
pub(crate) struct WeakLiveView(Weak<Published>);

struct Published {
    scope: NamespaceScope,
    view: ArcSwap<View>,
    /// Told at each publication, and when there will be no further one.
    changed: Notify,
    /// Whether nothing will be published any more.
    ended: AtomicBool,
}

/// The writer of a view has gone, so the view stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the writer of the view is gone")]
pub struct WriterGone;

impl LiveView {
    /// A view in which nothing is, until something is published.
    pub(super) fn empty(scope: NamespaceScope) -> Self {
        Self(Arc::new(Published {
            view: ArcSwap::from_pointee(View::empty(scope.clone())),
            scope,
            changed: Notify::new(),
            ended: AtomicBool::new(false),
        }))
    }

    /// A view in which nothing is and nothing will be.
    pub(crate) fn of_nothing(scope: NamespaceScope) -> Self {
        let live = Self::empty(scope);
        live.end();
        live
    }

    /// The scope whose view this is.
    #[must_use]
    pub fn scope(&self) -> &NamespaceScope {
        &self.0.scope
    }

    /// What the scope sees now. A request that holds it sees no change until it loads again.
    #[must_use]
    pub fn load(&self) -> Arc<View> {
        self.0.view.load_full()
    }

    /// Waits until the scope sees something else than `seen`, a view that was loaded from here, and
    /// returns that. Publications in between are skipped.
    ///
    /// # Errors
    ///
    /// When the writer is gone and `seen` is the last view.
    pub async fn changed(&self, seen: &View) -> Result<Arc<View>, WriterGone> {
        self.when(|view| view.generation != seen.generation).await
    }

    /// Waits until every source has told once what there is, and returns what the scope sees then.
    ///
    /// # Errors
    ///
    /// When the writer is gone before that.
    pub async fn ready(&self) -> Result<Arc<View>, WriterGone> {
        self.when(View::is_ready).await
    }

    async fn when(&self, is_met: impl Fn(&View) -> bool) -> Result<Arc<View>, WriterGone> {
        let mut changed = pin!(self.0.changed.notified());
        loop {
            // Enabled before the look, so that no publication falls between the two.
            changed.as_mut().enable();
            let ended = self.0.ended.load(Ordering::Acquire);
            let view = self.load();
            if is_met(&view) {
                return Ok(view);
            }
            if ended {
                return Err(WriterGone);
            }
            changed.as_mut().await;
            changed.set(self.0.changed.notified());
        }
    }

    /// The routes that open and close from now on, after one change for each route that is open
    /// already. A route that closes and opens again between two polls is left out. The stream ends
    /// with the writer.
    pub fn changes(&self) -> impl Stream<Item = RouteChange> + Send + use<> {
        struct Following {
            live: LiveView,
            seen: Option<Arc<View>>,
            untold: VecDeque<RouteChange>,
        }

        let following = Following { live: self.clone(), seen: None, untold: VecDeque::new() };
        stream::unfold(following, async |mut following| {
            loop {
                if let Some(change) = following.untold.pop_front() {
                    return Some((change, following));
                }
                let (before, now) = match following.seen.take() {
                    None => (Kinds::NONE, following.live.load()),
                    Some(seen) => (seen.open_kinds(), following.live.changed(&seen).await.ok()?),
                };
                let scope = following.live.scope();
                following.untold.extend(RouteChange::between(scope, before, now.open_kinds()));
                following.seen = Some(now);
            }
        })
    }

    /// Looks at what the scope sees now. Unlike `load`, it counts no reference: threads that look at
    /// the same time have nothing to share.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.0.view.load())
    }

    /// Makes this what the scope sees, and returns what it saw before.
    pub(super) fn publish(&self, view: Arc<View>) -> Arc<View> {
        let before = self.0.view.swap(view);
        self.0.changed.notify_waiters();
        before
    }

    /// Nothing will be published any more.
    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// Whether it has a reader beside the one that asks.
    pub(super) fn has_readers(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// A reference that does not keep the view open.
    pub(crate) fn downgrade(&self) -> WeakLiveView {
        WeakLiveView(Arc::downgrade(&self.0))
    }
}

impl WeakLiveView {
    /// The view, if it is open.
    pub(crate) fn upgrade(&self) -> Option<LiveView> {
        self.0.upgrade().map(LiveView)
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.load().fmt(f)
    }
}

impl fmt::Debug for LiveView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
