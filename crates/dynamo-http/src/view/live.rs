//! The view of one scope as it is now, and the wait for its changes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use dynamo_discovery::Kinds;
use dynamo_namespace::NamespaceScope;
use futures_util::stream::{self, Stream};
use tokio::sync::Notify;

use super::change::RouteChange;
use super::view::View;

#[cfg(test)]
mod tests;

/// One scope's view, which stays current for as long as a reader holds it. A clone is the same
/// view.
///
/// Code that reads a view often keeps a live view: [`load`](Self::load) takes no lock and searches
/// nothing. The futures and the stream of a live view need no particular runtime.
#[derive(Clone, derive_more::Debug)]
#[debug("{_0:?}")]
pub struct LiveView(Arc<Published>);

/// A reference to a live view that does not keep the view open.
#[derive(Clone, Debug)]
pub(crate) struct WeakLiveView(Weak<Published>);

#[derive(derive_more::Debug)]
#[debug("{:?}", view.load())]
struct Published {
    scope: NamespaceScope,
    view: ArcSwap<View>,
    /// Wakes the waiting readers at each publication, and when the writer has gone.
    changed: Notify,
    /// Whether the writer has gone, so that there is no further publication.
    ended: AtomicBool,
}

/// The writer of a view has gone, so the view stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the writer of the view is gone")]
pub struct WriterGone;

impl LiveView {
    /// A view without models, until the first publication.
    pub(super) fn empty(scope: NamespaceScope) -> Self {
        Self(Arc::new(Published {
            view: ArcSwap::from_pointee(View::empty(scope.clone())),
            scope,
            changed: Notify::new(),
            ended: AtomicBool::new(false),
        }))
    }

    /// A view that never has a model.
    pub(crate) fn of_nothing(scope: NamespaceScope) -> Self {
        let live = Self::empty(scope);
        live.end();
        live
    }

    /// The scope whose view this is.
    pub fn scope(&self) -> &NamespaceScope {
        &self.0.scope
    }

    /// The scope's view of this moment. A request that holds the view sees no change until it loads
    /// again.
    pub fn load(&self) -> Arc<View> {
        self.0.view.load_full()
    }

    /// Waits for a newer view than `seen`, which was loaded from this live view, and returns the
    /// newest. Views in between are skipped.
    ///
    /// # Errors
    ///
    /// When the writer has gone and `seen` is the last view.
    pub async fn changed(&self, seen: &View) -> Result<Arc<View>, WriterGone> {
        self.when(|view| view.generation != seen.generation).await
    }

    /// Waits until every source has delivered its first list, and returns the view of that moment.
    ///
    /// # Errors
    ///
    /// When the writer has gone before.
    pub async fn ready(&self) -> Result<Arc<View>, WriterGone> {
        self.when(View::is_ready).await
    }

    async fn when(&self, is_met: impl Fn(&View) -> bool) -> Result<Arc<View>, WriterGone> {
        loop {
            // A wake-up counts from its creation on, so no publication falls between this line and
            // the wait.
            let changed = self.0.changed.notified();
            let ended = self.0.ended.load(Ordering::Acquire);
            let view = self.load();
            if is_met(&view) {
                return Ok(view);
            }
            if ended {
                return Err(WriterGone);
            }
            changed.await;
        }
    }

    /// A stream of the routes that open and close. It begins with one change for each route that is
    /// open already. A route that closes and opens again between two polls is left out. The stream
    /// ends when the writer has gone.
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

    /// Lends the scope's view of this moment. Unlike `load`, it counts no reference, so threads
    /// that look at the same time share nothing.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.0.view.load())
    }

    /// Publishes a view, and returns the view before.
    pub(super) fn publish(&self, view: Arc<View>) {
        self.0.view.store(view);
        self.0.changed.notify_waiters();
    }

    /// Tells the readers that there is no further publication.
    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// Whether a reader holds the view beside its draft.
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
