//! The switchboard: model updates in, views out.
//!
//! There is one writer, and any number of readers that load views without a lock. One atomic swap
//! publishes a batch. Its cost follows the size of the change and not the size of the view, since
//! views are persistent maps.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use dynamo_discovery::{ByKey, Instance, Key, ModelUpdate};
use dynamo_namespace::NamespaceScope;
use futures_util::stream::{Stream, StreamExt as _, select_all};

use super::change::RouteChange;
use super::draft::Draft;
use super::live::{LiveView, WriterGone};
use super::view::{View, unix_now};

#[cfg(test)]
mod tests;

/// The readers' side. A clone is cheap, and no call blocks.
#[derive(Clone, derive_more::Debug)]
#[debug("{views:?}")]
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
            held: BTreeMap::new(),
            ready: false,
        };
        (switchboard, writer)
    }

    /// The view of this scope at this moment. A scope that the switchboard was not made with has an
    /// empty view.
    pub fn view(&self, scope: &NamespaceScope) -> Arc<View> {
        match self.find(scope) {
            Some(live) => live.load(),
            None => Arc::new(View::empty(scope.clone())),
        }
    }

    /// The live view of this scope, for readers that ask again and again.
    ///
    /// A scope that the switchboard was not made with has an empty view, now and later.
    pub fn live_view(&self, scope: &NamespaceScope) -> LiveView {
        self.find(scope).cloned().unwrap_or_else(|| LiveView::of_nothing(scope.clone()))
    }

    /// A stream of the routes that open and close for any of the scopes that the switchboard was
    /// made with. It joins the streams of [`LiveView::changes`], and ends when the writer has gone.
    pub fn changes(&self) -> impl Stream<Item = RouteChange> + Send + use<> {
        select_all(self.views.iter().map(|live| live.changes().boxed()))
    }

    /// Waits until every source has delivered its first list.
    ///
    /// # Errors
    ///
    /// When the writer has gone before.
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

/// The writer's side. There is one.
#[derive(derive_more::Debug)]
#[debug("SwitchboardWriter({switchboard:?})")]
pub struct SwitchboardWriter {
    /// The permanent views: those that the switchboard was made with. This reference keeps them
    /// open.
    switchboard: Switchboard,
    /// The drafts of the permanent views in the same order, then the drafts of all other views.
    drafts: Vec<Draft>,
    /// Instances that no permanent view shows. A view that is opened later starts from these and
    /// from the permanent views' instances.
    unseen: HashSet<ByKey>,
    /// The keys of the instances that the store has lost and that serve nevertheless, and since when,
    /// in unix seconds.
    held: BTreeMap<Key, u64>,
    ready: bool,
}

/// The instances as the next publication will show them.
#[derive(Clone, Copy, derive_more::Debug)]
#[debug("Staged")]
pub struct Staged<'a>(&'a [Draft]);

impl Staged<'_> {
    /// Whether an instance other than `one` serves the same model at the same URL in the same
    /// namespace. Instances for which `but` holds do not count.
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

/// Stages a batch, publishes it, and returns the routes that opened and closed.
///
/// The view with the first instance of a route is published before the route is reported as open.
pub fn update_http_endpoints(
    writer: &mut SwitchboardWriter,
    updates: &[ModelUpdate],
) -> Vec<RouteChange> {
    writer.stage(updates);
    writer.publish()
}

impl SwitchboardWriter {
    /// Opens the view of a scope. The next publication fills the view with all instances of its
    /// scope.
    ///
    /// Equal scopes share one view. The view stays for as long as a reader holds it.
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
        for (key, since) in &self.held {
            draft.stage_held(key, *since);
        }
        let live = draft.live().clone();
        self.drafts.push(draft);
        live
    }

    fn permanent(&self) -> &[Draft] {
        &self.drafts[..self.switchboard.views.len()]
    }

    /// Stages updates without publishing them, and returns the instances as the next publication
    /// will show them.
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

    /// Marks an instance as held until the next update of its key: the store has lost the instance,
    /// and it serves nevertheless. The next publication shows the mark. An instance that is not
    /// staged or published gets no mark.
    pub fn stage_held(&mut self, instance: &Instance) {
        let key = instance.key();
        if !self.unseen.contains(key) && !self.permanent().iter().any(|draft| draft.has(key)) {
            return;
        }
        let since = unix_now();
        self.held.insert(key.clone(), since);
        for draft in &mut self.drafts {
            draft.stage_held(key, since);
        }
    }

    /// Marks all views as ready: every source has delivered its first list. The next publication
    /// shows the mark.
    pub fn stage_ready(&mut self) {
        self.ready = true;
        for draft in &mut self.drafts {
            draft.stage_ready(true);
        }
    }

    /// Publishes the staged updates, and returns the routes that opened and closed. Views without a
    /// reader are closed.
    pub fn publish(&mut self) -> Vec<RouteChange> {
        self.drafts.retain(|draft| draft.live().has_readers());
        let mut changes = Vec::new();
        for draft in &mut self.drafts {
            draft.publish(&mut changes);
        }
        changes
    }
}
