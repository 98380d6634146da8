//! Finds the model of a request among those that its caller sees.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{Kinds, check_model_name};
use dynamo_namespace::Namespace;
use http::StatusCode;
use tokio::time::timeout;

use crate::alias::AliasTarget;
use crate::error::ApiError;
use crate::fleet::{Fleet, Targets};
use crate::route::Route;
use crate::view::{Lens, Model, Sight, View};

/// How long a request waits at most for a worker to prove that it is still there. The question has
/// an answer within a second, or none.
const DOUBT: Duration = Duration::from_secs(2);

/// For so long a model that has left is said to be unavailable, and after that to be unknown. Clients try
/// again after a 503, and give up after a 404.
pub(super) const MISSED: Duration = Duration::from_secs(60);

/// The model, the route and the view of a request. The servers are looked up again after a wait,
/// since they may have changed.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'a> {
    pub(crate) lens: &'a Lens,
    pub(crate) fleet: &'a Fleet,
    /// The name that the client asked for.
    pub(crate) asked: &'a str,
    /// The target, if the name is that of an alias.
    pub(crate) target: Option<&'a AliasTarget>,
    pub(crate) route: Route,
}

impl Lookup<'_> {
    /// The servers of the model in the current view.
    ///
    /// # Errors
    ///
    /// 404 when the caller sees no such model, or the model does not serve the route.
    pub(crate) fn find(&self) -> Result<Arc<Targets>, ApiError> {
        self.lens.read(|sight| {
            let model = self.model(sight).ok_or_else(|| self.absent(sight))?;
            let kinds = model.part(self.namespace()).kinds;
            if !kinds.contains(self.route.kind()) {
                return Err(not_served(self.asked, kinds, self.route));
            }
            Ok(self.fleet.targets(self.lens.live(), model, self.namespace()))
        })
    }

    /// The servers of the model, after a wait if there is a doubt about them: while workers are asked
    /// whether they are still there, their servers may come back in a moment.
    ///
    /// # Errors
    ///
    /// 404 when the model is gone.
    pub(crate) async fn settled(&self, targets: &Arc<Targets>) -> Result<Arc<Targets>, ApiError> {
        if self.is_in_doubt() {
            // The request finds what there is then, also after the time.
            let _ = timeout(DOUBT, self.moved_on_from(targets)).await;
        }
        self.find()
    }

    /// Whether no instance that serves the route has a URL, and none is in doubt: there is no server
    /// to wait for.
    pub(crate) fn is_unroutable(&self, targets: &Targets) -> bool {
        targets.upstreams(self.route.kind()).next().is_none() && !self.is_in_doubt()
    }

    /// The answer for a model that the caller does not see: it may have left a moment ago.
    fn absent(&self, sight: &Sight<&View>) -> ApiError {
        let name = self.target.map_or(self.asked, AliasTarget::model);
        let since = sight.left_since(self.asked, name, self.namespace());
        match since.is_some_and(|ago| ago < MISSED) {
            true => ApiError::model_unavailable(self.asked),
            false => unknown(sight.is_ready(), self.asked),
        }
    }

    fn model<'v>(&self, sight: &'v Sight<&View>) -> Option<&'v Arc<Model>> {
        match self.target {
            None => sight.model(self.asked),
            Some(target) => sight.model_behind(self.asked, target.model()),
        }
    }

    /// The namespace whose instances count, where not all do.
    fn namespace(&self) -> Option<&Namespace> {
        self.target.and_then(AliasTarget::namespace)
    }

    fn is_in_doubt(&self) -> bool {
        self.lens.read(|sight| {
            self.model(sight).is_some_and(|model| sight.is_in_doubt(model, self.namespace()))
        })
    }

    /// Waits until the model has servers other than these, or is gone.
    pub(crate) async fn moved_on_from(&self, targets: &Arc<Targets>) {
        let mut seen = self.lens.live().load();
        while self.find().is_ok_and(|now| Arc::ptr_eq(&now, targets)) {
            match self.lens.live().changed(&seen).await {
                Ok(now) => seen = now,
                // The writer is gone, so the view stays as it is.
                Err(_) => pending().await,
            }
        }
    }
}

/// The answer for a model that the caller sees, and that serves other routes.
pub(crate) fn not_served(name: &str, kinds: Kinds, route: Route) -> ApiError {
    let routes: Vec<_> = Route::of(kinds).map(Route::path).collect();
    let message = format!(
        "The model '{name}' does not serve {}; it serves {}.",
        route.path(),
        routes.join(", ")
    );
    ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found").with_param("model")
}

/// The answer for a model that the caller does not see. A model of another namespace gets the same
/// answer as one that does not exist.
pub(crate) fn unknown(is_ready: bool, name: &str) -> ApiError {
    if !is_ready {
        return ApiError::not_ready();
    }
    // A name that nobody can register may hold any character, so it is not repeated.
    let message = match check_model_name(name) {
        Ok(()) => format!("The model '{name}' does not exist."),
        Err(_) => "There can be no model of this name.".to_owned(),
    };
    ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found").with_param("model")
}
