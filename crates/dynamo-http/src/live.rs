//! The view of one scope as it is now, wherever it is held.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use dynamo_namespace::NamespaceScope;

use crate::view::View;

/// One scope's view, kept up to date for as long as someone holds it. A clone is the same view.
///
/// Whoever asks often keeps one of these: [`load`](Self::load) takes no lock and searches nothing.
#[derive(Clone)]
pub struct LiveView(Arc<Published>);

struct Published {
    scope: NamespaceScope,
    view: ArcSwap<View>,
}

impl LiveView {
    /// A view in which nothing is, until something is published.
    pub(crate) fn empty(scope: NamespaceScope) -> Self {
        let view = ArcSwap::from_pointee(View::empty(scope.clone()));
        Self(Arc::new(Published { scope, view }))
    }

    /// Whose view it is.
    #[must_use]
    pub fn scope(&self) -> &NamespaceScope {
        &self.0.scope
    }

    /// What the scope sees now. A request that holds it sees no change until it loads again.
    #[must_use]
    pub fn load(&self) -> Arc<View> {
        self.0.view.load_full()
    }

    /// Looks at what the scope sees now. Unlike `load`, it counts no reference: threads that look at
    /// the same time have nothing to share.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.0.view.load())
    }

    /// Makes this what the scope sees, and returns what it saw before.
    pub(crate) fn publish(&self, view: Arc<View>) -> Arc<View> {
        self.0.view.swap(view)
    }

    /// Whether anyone but the one who asks holds it.
    pub(crate) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl fmt::Debug for LiveView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}
