//! The status as JSON.

use std::time::Duration;

use dynamo_discovery::InstanceId;
use serde_json::{Map, Value, json};

use super::problems::problems;
use super::query::Query;
use super::snapshot::{Row, Snapshot};
use crate::door::state::State;
use crate::meter::Totals;
use crate::route::Route;

/// The part of a status that is asked for.
pub(super) fn report(state: &State, snapshot: &Snapshot, query: &Query) -> Value {
    let rows: Vec<&Row> = snapshot.rows.iter().filter(|row| query.admits(row)).collect();
    let view = &snapshot.view;
    let sources = sources(state);
    let routes = routes(snapshot);
    json!({
        "time": snapshot.at,
        "version": env!("CARGO_PKG_VERSION"),
        "state": if state.is_draining() { "draining" } else if view.is_ready() { "ready" } else { "starting" },
        "scope": view.scope().to_string(),
        "window_seconds": snapshot.recent.window.as_secs(),
        "problems": problems(state, snapshot),
        "totals": totals(state, snapshot),
        "routes": routes,
        "sources": sources,
        "groups": groups(snapshot, &rows, query),
        "instances": instances(snapshot, &rows, query),
        "leaving": snapshot.leaving.iter().map(|(url, in_flight)| json!({ "url": url, "in_flight": in_flight })).collect::<Value>(),
        "keys": keys(state),
    })
}

fn totals(state: &State, snapshot: &Snapshot) -> Value {
    let memory = &state.proxy.limits.memory;
    let all = snapshot.recent.models.values();
    let mut value = json!({
        "instances": states(snapshot.rows.iter()),
        "models": snapshot.view.models().count(),
        "queued": state.proxy.forwarder.metrics.queued().get(),
        "body_memory_bytes": memory.used(),
        "body_memory_limit_bytes": memory.limit(),
        "requests_per_second": rate(all.clone().map(|one| one.requests).sum(), snapshot.recent.window),
        "errors_per_second": rate(all.clone().map(|one| one.errors).sum(), snapshot.recent.window),
        "input_tokens_per_second": rate(all.clone().map(|one| one.input).sum(), snapshot.recent.window),
        "output_tokens_per_second": rate(all.map(|one| one.output).sum(), snapshot.recent.window),
        "in_flight": state.proxy.forwarder.fleet.all_servers().map(|server| server.load.in_flight()).sum::<usize>(),
    });
    if let Some(connections) = &state.connections {
        value["connections"] = connections.open().into();
        value["connections_limit"] = connections.limit().map(|limit| limit.get()).into();
        value["connections_refused"] = connections.refused().into();
    }
    value
}

/// How many instances there are, and how many of each state.
fn states<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Value {
    let mut counts = [0_usize; Row::STATES.len()];
    for row in rows {
        if let Some(at) = Row::STATES.iter().position(|state| *state == row.state()) {
            counts[at] += 1;
        }
    }
    let mut value = Map::new();
    value.insert("all".into(), counts.iter().sum::<usize>().into());
    value.extend(
        Row::STATES.iter().zip(counts).map(|(state, count)| ((*state).into(), count.into())),
    );
    value.into()
}

fn routes(snapshot: &Snapshot) -> Value {
    let view = &snapshot.view;
    let route = |route: &Route| {
        let kind = route.kind();
        json!({
            "endpoint": route.name(),
            "path": route.path(),
            "open": view.is_open(kind),
            "since": view.since(kind),
            "models": view.models_of(kind),
        })
    };
    Route::ALL.iter().map(route).collect()
}

fn sources(state: &State) -> Value {
    let sources = state.discovery.sources().iter();
    let source = sources.map(|source| {
        json!({
            "source": source.name(),
            "connected": source.connected(),
            "denied": source.denied(),
            "synced": source.synced(),
            "stale_seconds": source.stale_seconds(),
            "revision": source.revision().0,
            "resyncs": source.resyncs(),
            "refused": source.refused(),
            "ignored": source.ignored(),
            "out_of_scope": source.out_of_scope(),
            "remembered": source.remembered(),
        })
    });
    source.collect()
}

/// The instances of one namespace and model, as one row.
fn groups(snapshot: &Snapshot, rows: &[&Row], query: &Query) -> Value {
    let is_same = |one: &&Row, other: &&Row| {
        one.namespace() == other.namespace() && one.model() == other.model()
    };
    let all: Vec<_> = rows.chunk_by(is_same).collect();
    let group = |group: &&[&Row]| {
        let first = group[0];
        let totals = snapshot.recent.models.get(first.model());
        json!({
            "namespace": first.namespace(),
            "model": first.model(),
            "instances": states(group.iter().copied()),
            "in_flight": group.iter().map(|row| row.in_flight).sum::<usize>(),
            "of_model": totals.map(|totals| rates(totals, snapshot.recent.window)),
        })
    };
    let shown = all.iter().skip(query.groups).take(query.limit);
    json!({
        "all": all.len(),
        "first": query.groups,
        "rows": shown.map(group).collect::<Value>(),
    })
}

fn instances(snapshot: &Snapshot, rows: &[&Row], query: &Query) -> Value {
    let instance = |row: &&Row| {
        let instance = row.instance();
        let kinds = Route::of(instance.kinds()).map(Route::name).collect::<Value>();
        json!({
            "key": row.key(),
            "namespace": row.namespace(),
            "model": row.model(),
            // As text, since an id is larger than the integers that a double holds.
            "instance_id": instance.id().as_ref().map(InstanceId::to_string),
            "url": row.url(),
            "endpoints": kinds,
            "state": row.state(),
            "reason": row.reason(),
            "since": row.since(snapshot.at),
            "in_flight": row.in_flight,
            "of_worker": row.recent(&snapshot.recent).map(|totals| rates(totals, snapshot.recent.window)),
        })
    };
    let shown = rows.iter().skip(query.instances).take(query.limit);
    json!({
        "all": rows.len(),
        "first": query.instances,
        "rows": shown.map(instance).collect::<Value>(),
    })
}

fn keys(state: &State) -> Value {
    let Some(keys) = &state.keys else { return Value::Null };
    let mut tenants = keys.tenants();
    tenants.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    let key = tenants.iter().map(|tenant| {
        let counts = tenant.usage.counts();
        let limits = tenant.remaining().into_iter();
        let limits = limits.map(|(limit, left)| json!({ "limit": limit, "left": rounded(left) }));
        json!({
            "key": tenant.name.as_str(),
            "in_flight": counts.in_flight,
            "succeeded": counts.succeeded,
            "failed": counts.failed,
            "refused_rate": counts.too_fast,
            "refused_concurrency": counts.too_many,
            "refused_tokens": counts.denied.iter().sum::<u64>(),
            "input_tokens": counts.tokens[0],
            "output_tokens": counts.tokens[1],
            "limits": limits.collect::<Value>(),
        })
    });
    key.collect()
}

/// What was counted within `window`, for each second of it.
fn rates(totals: &Totals, window: Duration) -> Value {
    let (input, cached) = (totals.input as f64, totals.cached as f64);
    json!({
        "requests_per_second": rate(totals.requests, window),
        "errors_per_second": rate(totals.errors, window),
        "ttft_p50_seconds": totals.first_token.quantile(0.5).map(rounded),
        "ttft_p99_seconds": totals.first_token.quantile(0.99).map(rounded),
        "input_tokens_per_second": rate(totals.input, window),
        "output_tokens_per_second": rate(totals.output, window),
        "cached_share": (input > 0.0).then(|| rounded((cached / input).min(1.0))),
    })
}

/// `None` where there is only one moment.
fn rate(count: u64, window: Duration) -> Option<f64> {
    let seconds = window.as_secs_f64();
    (seconds > 0.0).then(|| rounded(count as f64 / seconds))
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
