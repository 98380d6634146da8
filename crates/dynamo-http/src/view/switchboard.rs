//! The switchboard: model updates in, views out.
//!
//! There is one writer, and any number of readers that load views without a lock. A batch is
//! published at once, at a cost that follows the change and not the size: views are persistent maps
//! behind an atomic swap.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use dynamo_discovery::{ByKey, Instance, Key, ModelUpdate};
use dynamo_namespace::NamespaceScope;
use futures_util::stream::{Stream, StreamExt as _, select_all};

use super::change::RouteChange;
use super::draft::Draft;
use super::live::{LiveView, WriterGone};
use super::view::View;

#[cfg(test)]
mod tests;

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
        let drafts: Vec<_> = scopes.into_iter().map(Draft::empty).collect();
        let switchboard = Self { views: drafts.iter().map(|draft| draft.live().clone()).collect() };
        let writer = SwitchboardWriter {
            switchboard: switchboard.clone(),
            drafts,
            unseen: HashSet::new(),
            held: BTreeSet::new(),
            ready: false,
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
    /// A scope that the switchboard was not made with sees nothing, now and later.
    #[must_use]
    pub fn live_view(&self, scope: &NamespaceScope) -> LiveView {
        self.find(scope).cloned().unwrap_or_else(|| LiveView::of_nothing(scope.clone()))
    }

    /// The routes that open and close for any of the scopes that the switchboard was made with, as
    /// [`LiveView::changes`] tells them. The stream ends with the writer.
    pub fn changes(&self) -> impl Stream<Item = RouteChange> + Send + use<> {
        select_all(self.views.iter().map(|live| live.changes().boxed()))
    }

    /// Waits until every source has told once what there is.
    ///
    /// # Errors
    ///
    /// When the writer is gone before that.
    pub async fn ready(&self) -> Result<(), WriterGone> {
        // All views become ready in one publication, each a moment after the other.
        for live in &*self.views {
            live.ready().await?;
        }
        Ok(())
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

/// The writer's side. There is one.
pub struct SwitchboardWriter {
    /// It holds the views that the switchboard was made with, so that they stay: the permanent ones.
    switchboard: Switchboard,
    /// The permanent views' drafts in the same order, then the others.
    drafts: Vec<Draft>,
    /// Instances that no permanent view shows. A view that is opened later starts from these and
    /// from the permanent views' instances.
    unseen: HashSet<ByKey>,
    /// The keys of the instances that the store has lost and that serve nevertheless.
    held: BTreeSet<Key>,
    ready: bool,
}

/// What a batch has changed: who serves what, as it will be published.
#[derive(Clone, Copy)]
pub struct Staged<'a>(&'a [Draft]);

impl Staged<'_> {
    /// Whether another instance than `one` serves its model, at its URL and in its namespace, to
    /// anyone. `but` are instances that do not count.
    pub(crate) fn has_another(self, one: &Instance, but: impl Fn(&Instance) -> bool) -> bool {
        let namespace = one.endpoint().namespace();
        self.0.iter().find(|draft| draft.scope().contains(namespace)).is_some_and(|draft| {
            draft
                .instances_of(namespace, one.model())
                .any(|other| other.key() != one.key() && other.url() == one.url() && !but(other))
        })
    }
}

impl Staged<'_> {
    /// Whether another worker than that of `one` names its URL, in any namespace. `but` are
    /// instances that do not count.
    pub(crate) fn names(self, one: &Instance, but: impl Fn(&Instance) -> bool) -> bool {
        let names =
            |other: &Instance| other.id() != one.id() && other.url() == one.url() && !but(other);
        self.0.iter().any(|draft| draft.instances().any(|other| names(&other.0)))
    }
}

impl fmt::Debug for Staged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged").finish_non_exhaustive()
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
        if let Some(draft) = self.drafts.iter().find(|draft| draft.scope() == scope) {
            return draft.live().clone();
        }
        let mut draft = Draft::empty(scope.clone());
        draft.stage_ready(self.ready);
        let shown = self.permanent().iter().flat_map(Draft::instances);
        let added = |one: &ByKey| ModelUpdate::Added(one.0.clone());
        let known: Vec<_> = shown.chain(&self.unseen).map(added).collect();
        draft.stage(&known);
        for key in &self.held {
            draft.stage_held(key);
        }
        let live = draft.live().clone();
        self.drafts.push(draft);
        live
    }

    fn permanent(&self) -> &[Draft] {
        &self.drafts[..self.switchboard.views.len()]
    }

    /// Takes in updates without publishing them, and returns what they make of it.
    pub fn stage(&mut self, updates: &[ModelUpdate]) -> Staged<'_> {
        for update in updates {
            let (ModelUpdate::Added(one)
            | ModelUpdate::Changed { new: one, .. }
            | ModelUpdate::Removed(one, _)) = update;
            self.held.remove(one.key());
            if !self.unseen.is_empty() {
                self.unseen.remove(one.key());
            }
            let namespace = one.endpoint().namespace();
            let is_shown = |draft: &Draft| draft.scope().contains(namespace);
            let is_gone = matches!(update, ModelUpdate::Removed(..));
            if !is_gone && !self.permanent().iter().any(is_shown) {
                self.unseen.insert(ByKey(one.clone()));
            }
        }
        for draft in &mut self.drafts {
            draft.stage(updates);
        }
        Staged(&self.drafts)
    }

    /// Says that an instance serves though the store has lost it, until the next update of its key.
    pub fn stage_held(&mut self, instance: &Instance) {
        let key = instance.key();
        if !self.unseen.contains(key) && !self.permanent().iter().any(|draft| draft.has(key)) {
            return;
        }
        self.held.insert(key.clone());
        for draft in &mut self.drafts {
            draft.stage_held(key);
        }
    }

    /// Says that every source has told once what there is; published with the next batch.
    pub fn stage_ready(&mut self) {
        self.ready = true;
        for draft in &mut self.drafts {
            draft.stage_ready(true);
        }
    }

    /// Publishes what was staged and says which routes changed. Views that nobody reads are closed.
    pub fn publish(&mut self) -> Vec<RouteChange> {
        self.drafts.retain(|draft| draft.live().has_readers());
        let mut changes = Vec::new();
        for draft in &mut self.drafts {
            draft.publish(&mut changes);
        }
        changes
    }
}

impl fmt::Debug for SwitchboardWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwitchboardWriter")
            .field("switchboard", &self.switchboard)
            .field("views", &self.drafts.len())
            .finish_non_exhaustive()
    }
}
