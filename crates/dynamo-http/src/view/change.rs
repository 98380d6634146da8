//! A route that opened or closed.

use dynamo_discovery::Kinds;
use dynamo_namespace::NamespaceScope;

use crate::route::Route;

/// A route opened or closed for a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The scope for which the route opened or closed.
    pub scope: NamespaceScope,
    /// The route.
    pub route: Route,
    /// Whether the route is open now.
    pub open: bool,
}

impl RouteChange {
    /// The changes of a scope between two sets of open kinds, with the routes that opened first.
    pub(super) fn between(
        scope: &NamespaceScope,
        before: Kinds,
        now: Kinds,
    ) -> impl Iterator<Item = Self> {
        [(now.difference(before), true), (before.difference(now), false)].into_iter().flat_map(
            move |(kinds, open)| {
                Route::of(kinds).map(move |route| Self { scope: scope.clone(), route, open })
            },
        )
    }
}
