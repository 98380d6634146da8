//! What an operator should look at first.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::snapshot::{Row, Snapshot};
use crate::access::ApiKeys;
use crate::alias::{AliasTable, AliasTarget};
use crate::door::state::State;
use crate::view::View;

/// From so small a part on that is left, a limit of a key is worth a look.
const CLOSE: f64 = 0.1;

/// How much a problem matters.
#[derive(Clone, Copy)]
enum Weight {
    /// Requests fail, or soon will.
    Bad,
    /// Requests are served, and something needs a look.
    Note,
}

impl Weight {
    const fn name(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Note => "note",
        }
    }
}

/// What an operator should look at first, worst first. Each has a text, where it helps the filter that
/// shows its instances, and where it is known the time at which it began, in unix seconds.
pub(super) fn problems(state: &State, snapshot: &Snapshot) -> Value {
    let mut found = Vec::new();
    // The frontend serves with what it has, so a request fails by none of these yet.
    for problem in state.program_problems.all() {
        found.push(json!({
            "weight": Weight::Note.name(), "text": problem.text, "state": null, "since": problem.since,
        }));
    }
    let mut tell = |weight: Weight, text: String, filter: Option<&str>| {
        found.push(json!({
            "weight": weight.name(), "text": text, "state": filter, "since": null,
        }));
    };
    let view = &snapshot.view;
    for tenant in state.keys.iter().flat_map(ApiKeys::tenants) {
        // A bucket of a minute, and what is in flight, come and go.
        let lasts = |limit: &str| limit.ends_with("_day") || limit.ends_with("_month");
        for (limit, left) in tenant.remaining() {
            if lasts(&limit) && left < CLOSE {
                let percent = (left * 100.0).floor();
                let text = format!("The key {} has {percent} % of {limit} left.", tenant.name);
                tell(if left > 0.0 { Weight::Note } else { Weight::Bad }, text, None);
            }
        }
    }
    if state.is_draining() {
        tell(Weight::Note, "This frontend drains: /ready answers 503.".into(), None);
    }
    for source in state.discovery.sources() {
        let name = source.name();
        if source.denied() {
            let text = format!(
                "The source {name} denies the read: the role of the frontend is too narrow."
            );
            tell(Weight::Bad, text, None);
        } else if !source.connected() {
            let seconds = source.stale_seconds().round();
            let text = format!(
                "The source {name} has been away for {seconds} s; the last known instances serve."
            );
            tell(Weight::Bad, text, None);
        }
        if source.refused() > 0 {
            let text = format!(
                "The source {name} had {} invalid entries, which the log names.",
                source.refused()
            );
            tell(Weight::Note, text, None);
        }
        if source.remembered() > 0 {
            let text = format!(
                "{} instances of an earlier run serve until the source {name} answers.",
                source.remembered()
            );
            tell(Weight::Note, text, None);
        }
    }
    if view.is_ready() && view.open_kinds().is_empty() {
        tell(Weight::Bad, "No route is open: no model is registered in this scope.".into(), None);
    }
    let groups = by_group(&snapshot.rows);
    let dead =
        groups.filter(|group| group.iter().all(|row| matches!(row.state(), "out" | "unroutable")));
    let dead: Vec<_> =
        dead.map(|group| format!("{} of {}", group[0].model(), group[0].namespace())).collect();
    if !dead.is_empty() {
        let text = format!("No instance is in rotation for {}.", first_of(&dead));
        tell(Weight::Bad, text, Some("ailing"));
    }
    let aliases = state.proxy.aliases.load();
    let unserved: Vec<_> = unserved_targets(aliases.as_deref(), view).collect();
    if !unserved.is_empty() {
        let text = format!("No instance serves a target of an alias: {}.", first_of(&unserved));
        tell(Weight::Note, text, None);
    }
    let mut outs = BTreeMap::<&str, usize>::new();
    let (mut held, mut unroutable) = (0_usize, 0_usize);
    for row in &snapshot.rows {
        match row.state() {
            "out" => *outs.entry(row.reason().unwrap_or_default()).or_default() += 1,
            "held" => held += 1,
            "unroutable" => unroutable += 1,
            _ => {}
        }
    }
    for (reason, count) in outs {
        tell(
            Weight::Note,
            format!("Out of rotation, {reason}: {}.", instances(count)),
            Some("out"),
        );
    }
    if held > 0 {
        let text = format!("Held, since the store has lost them: {}.", instances(held));
        tell(Weight::Note, text, Some("held"));
    }
    if unroutable > 0 {
        let text =
            format!("Without a URL, so that no request can reach them: {}.", instances(unroutable));
        tell(Weight::Note, text, Some("unroutable"));
    }
    let queued = state.proxy.forwarder.metrics.queued().get();
    if queued > 0 {
        tell(Weight::Note, format!("{queued} requests wait for a place at a worker."), None);
    }
    let disagreeing = view.models().filter(|model| model.disagrees()).count();
    if disagreeing > 0 {
        let text =
            format!("The instances of {disagreeing} models differ in kinds or context lengths.");
        tell(Weight::Note, text, None);
    }
    // A stable sort: the order within a weight stays.
    found.sort_by_key(|problem| problem["weight"] != "bad");
    found.into()
}

/// How many models or targets one problem names at most.
const NAMED: usize = 5;

/// The first of these by name, and how many more there are.
fn first_of(names: &[String]) -> String {
    let named = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// The targets of aliases, fallbacks included, that should get requests and have no instance. A target
/// out of the frontend's scope is for another frontend.
fn unserved_targets(table: Option<&AliasTable>, view: &View) -> impl Iterator<Item = String> {
    let aliases = table.into_iter().flat_map(AliasTable::iter);
    let targets = aliases.flat_map(|alias| alias.all().map(move |target| (alias, target)));
    let is_unserved = |target: &AliasTarget| {
        let in_scope = target.namespace().is_none_or(|one| view.scope().contains(one));
        let is_served = view.model(target.model()).is_some_and(|model| target.is_served_by(model));
        in_scope && target.weight() > 0 && !is_served
    };
    targets.filter(move |(_, target)| is_unserved(target)).map(|(alias, target)| {
        let namespace = target.namespace().map(|namespace| format!(" of {namespace}"));
        let namespace = namespace.unwrap_or_default();
        format!("{}{namespace} for {}", target.model(), alias.name())
    })
}

fn by_group(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    let is_same = |one: &Row, other: &Row| {
        one.namespace() == other.namespace() && one.model() == other.model()
    };
    rows.chunk_by(is_same)
}

fn instances(count: usize) -> String {
    match count {
        1 => "1 instance".into(),
        count => format!("{count} instances"),
    }
}
