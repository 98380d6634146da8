//! `dynamo-models doctor`: what is wrong with etcd, the user's roles, the entries and their servers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dynamo_discovery::{
    ControlUrl, ErrorChain, EtcdStore, Grant, InstanceStatus, MemberState, StoreError, UsageGroup,
    WorkerUrl,
};
use dynamo_namespace::NamespaceScope;
use futures_util::stream::{self, StreamExt as _};
use http::StatusCode;

use super::asked::Asked;
use super::findings::{Findings, Severity};
use super::item::{Item, Layout, Standing};
use super::shelf::Shelf;
use super::workers::Workers;
use super::{card, show};
use crate::engine::{Engine as _, Probe};
use crate::failure::Failure;

/// How many servers are asked at one time.
const AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);
/// A history of so many revisions is not compacted by anybody.
const MANY_REVISIONS: u64 = 10_000;

/// Looks at everything.
///
/// # Errors
///
/// When a setting is invalid. What fails while it looks is a finding.
pub(super) async fn examine(asked: &Asked, shelf: &Shelf) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    let endpoints = &asked.etcd.endpoints;
    for endpoint in endpoints {
        let config = asked.etcd.config.clone().with_endpoints([endpoint.as_str()]);
        let member = EtcdStore::new(config).map_err(|error| Failure::Usage(error.into()))?;
        judge_member(&mut findings, endpoint, member.member_state().await);
    }
    let roles = shelf.grants().await;
    let beside = shelf.reads_beside_the_root().await;
    judge_roles(&mut findings, shelf, asked.usage.as_ref(), roles, beside);
    if let Some(revisions) = shelf.uncompacted(MANY_REVISIONS).await {
        findings.note(
            endpoints.join(","),
            format!(
                "its history was never compacted, in {revisions} revisions: start etcd with \
                 --auto-compaction-mode=periodic --auto-compaction-retention=1h, or its space runs out"
            ),
        );
    }
    let items = match shelf.items().await {
        Ok(items) => items,
        Err(failure) => {
            findings.fault(shelf.root.as_str(), failure.to_string());
            Vec::new()
        }
    };
    for item in &items {
        judge_entry(&mut findings, item);
    }
    let servers = ask_servers(&mut findings, &items, &asked.workers).await;
    findings.summary = format!(
        "looked at {} of etcd, {} and {}",
        count(endpoints.len(), "endpoint"),
        count(items.len(), "entry"),
        count(servers, "server"),
    );
    Ok(findings)
}

fn count(number: usize, one: &str) -> String {
    match (number, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {one}s"),
    }
}

fn judge_member(findings: &mut Findings, endpoint: &str, state: Result<MemberState, StoreError>) {
    let state = match state {
        Ok(state) => state,
        Err(error @ StoreError::Denied(_)) => {
            findings
                .note(endpoint, format!("its state is not for this user: {}", ErrorChain(&error)));
            return;
        }
        Err(error) => {
            findings.fault(endpoint, ErrorChain(&error).to_string());
            return;
        }
    };
    if !state.has_leader {
        findings.fault(endpoint, "it knows no leader: look at the other members");
    }
    for alarm in state.alarms {
        findings.fault(
            endpoint,
            match alarm {
                "NOSPACE" => {
                    "alarm NOSPACE: no worker can register; compact, defragment and disarm the alarm"
                }
                _ => "alarm CORRUPT: members disagree; replace the one that is wrong",
            },
        );
    }
    if leaks(&state.version) {
        findings.note(
            endpoint,
            format!(
                "etcd {} can hand watched keys to users whose roles do not cover them: where roles \
                 matter, use 3.5.33, 3.6.14 or later",
                state.version
            ),
        );
    }
}

/// Whether watches of this release of etcd may show keys past a role.
fn leaks(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0_u32));
    let mut next = || numbers.next().unwrap_or_default();
    match (next(), next(), next()) {
        (0..=2, ..) => true,
        (3, minor, patch) => match minor {
            0..=4 => true,
            5 => patch < 33,
            6 => patch < 14,
            _ => false,
        },
        _ => false,
    }
}

fn judge_roles(
    findings: &mut Findings,
    shelf: &Shelf,
    usage: Option<&UsageGroup>,
    roles: Result<Option<Vec<Grant>>, StoreError>,
    reads_beside: bool,
) {
    let root = shelf.root.as_str();
    let grants = match roles {
        Ok(Some(grants)) => grants,
        Ok(None) => {
            if reads_beside {
                findings.note(
                    root,
                    "etcd lets us read keys beside it without a user's name: authentication is off, or \
                     a certificate is of a user with a wide role. Then any team can write into any \
                     namespace",
                );
            }
            return;
        }
        Err(error) => {
            findings.note("roles", format!("they cannot be read: {}", ErrorChain(&error)));
            return;
        }
    };
    let range = shelf.range();
    let covers =
        |may: fn(&Grant) -> bool| grants.iter().any(|grant| may(grant) && grant.covers(&range));
    if !covers(|grant| grant.reads) {
        findings.fault(
            "roles",
            format!(
                "too narrow: no permission covers reading all keys from {} to {}; grant it, or use \
                 --namespace and --watch-scope key",
                range.start(),
                range.end()
            ),
        );
    }
    let meant = match shelf.scope.scope {
        NamespaceScope::All => shelf.root.range(),
        _ => shelf.root.narrow_range(&shelf.scope.scope).unwrap_or_else(|| shelf.root.range()),
    };
    // What a frontend needs that shares what keys have used.
    let usage = usage.map(UsageGroup::range);
    let is_meant = |grant: &&Grant| {
        grant.is_within(&meant) || usage.as_ref().is_some_and(|usage| grant.is_within(usage))
    };
    for grant in grants.iter().filter(|grant| !is_meant(grant)) {
        let end = grant.end.as_ref().map_or_else(|| "the last key".to_owned(), ToString::to_string);
        findings.note(
            "roles",
            format!(
                "too wide: this user may {} from {:?} to {end}, and {} to {} is enough for this scope",
                match (grant.reads, grant.writes) {
                    (true, true) => "read and write",
                    (false, true) => "write",
                    _ => "read",
                },
                grant.start.to_string(),
                meant.start(),
                meant.end(),
            ),
        );
    }
}

fn judge_entry(findings: &mut Findings, item: &Item) {
    let key = &item.entry.key.to_string();
    if item.entry.lease.is_none() {
        findings.fault(
            key,
            match item.layout {
                Layout::Dynamo => "it is under no lease, and stays when its worker has gone",
                _ => "it is under no lease, and stays when its worker has gone: `rm` deletes it",
            },
        );
    }
    match (&item.standing, show::why(item)) {
        (Standing::Refused { disagrees: true, .. }, _) => findings.fault(
            key,
            "the key and the value name different places, so it is refused: somebody has written into \
             a place that is not theirs",
        ),
        (_, Some(why)) => findings.fault(key, format!("frontends refuse it: {why}")),
        (Standing::Draining, _) => findings.note(key, "it is draining"),
        (Standing::Unroutable, _) => {
            findings.note(key, "it names no server: it is listed, and no request can be sent to it");
        }
        (Standing::Foreign, _) if item.offer.transport.is_none() => {
            let instance = card::instance_key(item).unwrap_or_default();
            findings.note(key, format!("its instance {instance} is not there"));
        }
        _ => {}
    }
}

/// What a server is asked for, and by which entries.
#[derive(Default)]
struct Questions<'a> {
    /// The models that an engine should list, with the keys that say so.
    engines: BTreeMap<&'a WorkerUrl, Vec<&'a Item>>,
    /// The control ports, with an entry for each instance.
    controls: BTreeMap<(&'a ControlUrl, u64), &'a Item>,
}

/// Asks every server and every control port once, and returns how many engines there were.
async fn ask_servers(findings: &mut Findings, items: &[Item], workers: &Workers) -> usize {
    let mut questions = Questions::default();
    for item in items {
        if let Some(url) = &item.offer.url {
            questions.engines.entry(url).or_default().push(item);
        }
        if let (Some(control), Some(id)) = (&item.offer.control, item.place.instance) {
            questions.controls.insert((control, id.0), item);
        }
    }
    let asked = questions.engines.len();
    let engines = stream::iter(questions.engines)
        .map(|(url, items)| ask_engine(workers, url, items))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>();
    let controls = stream::iter(questions.controls)
        .map(|((control, _), item)| ask_control(workers, control, item))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>();
    let (engines, controls) = tokio::join!(engines, controls);
    for (severity, key, what) in engines.into_iter().chain(controls).flatten() {
        findings.add(severity, key, what);
    }
    asked
}

type Told = Vec<(Severity, String, String)>;

async fn ask_engine(workers: &Workers, url: &WorkerUrl, items: Vec<&Item>) -> Told {
    let of_all = |severity, what: &str| {
        items.iter().map(|item| (severity, item.entry.key.to_string(), what.to_owned())).collect()
    };
    let engine = workers.engine(url);
    match engine.probe().await {
        Probe::Healthy | Probe::Busy => {}
        Probe::Loading => return of_all(Severity::Note, "its server is not ready yet (503)"),
        probe @ (Probe::Failed(_) | Probe::Refused(_) | Probe::Silent(_)) => {
            let what = format!("its server does not answer: {probe}");
            return of_all(Severity::Fault, &what);
        }
    }
    let listed: BTreeSet<_> = match engine.models().await {
        Ok(models) => models.into_iter().map(|model| model.name).collect(),
        Err(why) => {
            let what = format!(
                "whether its server has the model is unknown: {why}; --worker-api-key-file names a key"
            );
            return of_all(Severity::Note, &what);
        }
    };
    let lacking = |item: &&&Item| item.model().is_some_and(|model| !listed.contains(model));
    let lacks = |item: &&Item| {
        let what = format!(
            "its server {url} does not list the model: the address may have another owner, or the \
             worker was given --model"
        );
        (Severity::Fault, item.entry.key.to_string(), what)
    };
    items.iter().filter(lacking).map(lacks).collect()
}

async fn ask_control(workers: &Workers, control: &ControlUrl, item: &Item) -> Told {
    let Some(id) = item.place.instance else { return Told::new() };
    let key = item.entry.key.to_string();
    let answer = workers.control(control).get(&InstanceStatus::path(id), PATIENCE).await;
    let (severity, what) = match answer {
        Ok(answer) if answer.status == StatusCode::OK => return Told::new(),
        Ok(answer) if answer.status == StatusCode::NOT_FOUND => (
            Severity::Fault,
            format!("its control port {control} does not know it: the worker has gone"),
        ),
        Ok(answer) => (
            Severity::Fault,
            format!("its control port {control} answers {}", answer.status.as_u16()),
        ),
        Err(error) => (
            Severity::Note,
            format!(
                "its control port {control} gives no answer ({error}): frontends cannot tell the worker \
                 from a stranger"
            ),
        ),
    };
    vec![(severity, key, what)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_leak_are_known() {
        for (version, expected) in [
            ("3.4.23", true),
            ("3.4.42", true),
            ("3.5.32", true),
            ("3.5.33", false),
            ("3.6.13", true),
            ("3.6.14", false),
            ("3.6.14-rc.1", false),
            ("3.7.0", false),
            ("4.0.0", false),
            ("nonsense", true),
        ] {
            assert_eq!(leaks(version), expected, "{version}");
        }
    }

    #[test]
    fn what_was_looked_at_is_counted_in_words() {
        assert_eq!(count(1, "entry"), "1 entry");
        assert_eq!(count(0, "entry"), "0 entries");
        assert_eq!(count(3, "server"), "3 servers");
    }
}
