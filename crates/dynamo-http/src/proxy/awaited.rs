//! The model of a request, which may have to be waited for.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::aliased::Way;
use super::lookup::{Lookup, MISSED};
use crate::alias::{Aliases, Offer};
use crate::error::ApiError;
use crate::fleet::{Fleet, Targets};
use crate::route::Route;
use crate::view::Lens;

/// Who asks for which name on which route.
pub(super) struct Wanted<'a, S> {
    pub(super) lens: &'a Lens,
    pub(super) fleet: &'a Fleet,
    pub(super) aliases: &'a Aliases,
    pub(super) name: &'a str,
    pub(super) route: Route,
    /// Finds the name of the session.
    pub(super) session: S,
}

/// What a name stands for.
pub(super) enum Found {
    Model(Arc<Targets>),
    Alias(Way),
}

/// Whether a name that stands for nothing may do so in a while.
enum Absent {
    /// Nobody has seen it.
    Unknown,
    /// It is an alias, or the caller's scope had a model for it in the last ten minutes.
    MayCome,
}

impl<S: Fn() -> Option<Vec<u8>>> Wanted<'_, S> {
    /// What the name stands for now.
    ///
    /// # Errors
    ///
    /// 404 if it stands for nothing, or for nothing that serves the route; 503 if a model has left a
    /// moment ago.
    pub(super) fn find(&self) -> Result<Found, ApiError> {
        let aliases = self.aliases.load();
        if let Some(table) = aliases.as_deref()
            && table.get(self.name).is_some()
        {
            if let Some(way) = Way::find(table, self.lens, self.name, self.route, &self.session)? {
                return Ok(Found::Alias(way));
            }
            let left = self.lens.read(|sight| {
                let is_model = sight.model(self.name).is_some();
                let offer = Offer::new(sight, Some(table));
                offer.left_since(self.name).filter(|ago| !is_model && *ago < MISSED)
            });
            if left.is_some() {
                return Err(ApiError::model_unavailable(self.name));
            }
        }
        let (lens, fleet, asked) = (self.lens, self.fleet, self.name);
        let lookup = Lookup { lens, fleet, asked, target: None, route: self.route };
        lookup.find().map(Found::Model)
    }

    /// What the name stands for now, or as soon as a model for it comes within `patience`. `closed` is the
    /// answer of the route, if it was closed when the request came.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find); `closed` if no model can be waited for; 503 if none has come.
    pub(super) async fn find_within(
        &self,
        patience: Duration,
        closed: Option<ApiError>,
    ) -> Result<Found, ApiError> {
        let until = Instant::now() + patience;
        let mut closed = closed;
        loop {
            // Before the look, so that no change is missed between the look and the wait.
            let seen = self.lens.live().load();
            let error = match self.find() {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            match self.absent() {
                Some(Absent::MayCome) => {}
                // From then on the route has had a model, so it is open or closed as any other.
                Some(Absent::Unknown) | None => return Err(closed.take().unwrap_or(error)),
            }
            closed = None;
            let changed = async {
                if self.lens.live().changed(&seen).await.is_err() {
                    // The writer is gone, so the view stays as it is.
                    pending().await
                }
            };
            if timeout_at(until, changed).await.is_err() {
                return Err(ApiError::model_unavailable(self.name));
            }
        }
    }

    /// What is to be expected of a name that stands for nothing; none if it stands for something.
    fn absent(&self) -> Option<Absent> {
        let aliases = self.aliases.load();
        self.lens.read(|sight| {
            let offer = Offer::new(sight, aliases.as_deref());
            match offer.get(self.name) {
                Some(_) => None,
                None if offer.may_come(self.name) || offer.left_since(self.name).is_some() => {
                    Some(Absent::MayCome)
                }
                None => Some(Absent::Unknown),
            }
        })
    }
}
