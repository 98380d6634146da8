//! The metrics of routes, scope by scope.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::IntGaugeVec;
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;

use super::state::State;
use crate::meter::{opts, valid};
use crate::route::Route;
use crate::view::View;

/// The most scopes that have series.
const MOST: usize = 1000;

/// Whether each route is open, and since when, for the frontend's scope and for the scope of each key.
/// They are for operators only, since they name every scope.
pub(super) fn families(state: &State) -> Vec<MetricFamily> {
    let labels = ["scope", "endpoint"];
    let open = valid(IntGaugeVec::new(
        opts("scope_endpoint_open", "Whether the route is open for callers of the scope"),
        &labels,
    ));
    let changed = valid(IntGaugeVec::new(
        opts(
            "scope_endpoint_changed_timestamp_seconds",
            "When the route opened or closed last for callers of the scope",
        ),
        &labels,
    ));
    for (scope, view) in views(state).into_iter().take(MOST) {
        for route in Route::ALL {
            let (kind, values) = (route.kind(), [scope.as_str(), route.name()]);
            open.with_label_values(&values).set(view.is_open(kind).into());
            let since = view.since(kind).try_into().unwrap_or(i64::MAX);
            changed.with_label_values(&values).set(since);
        }
    }
    open.collect().into_iter().chain(changed.collect()).collect()
}

/// The view of each scope, by the scope's name.
fn views(state: &State) -> BTreeMap<String, Arc<View>> {
    let tenants = state.keys.as_ref().map(|keys| keys.tenants()).unwrap_or_default();
    let of_keys = tenants.iter().map(|tenant| tenant.lens.live().load());
    let views = of_keys.chain([state.all.load()]);
    views.map(|view| (view.scope().to_string(), view)).collect()
}
