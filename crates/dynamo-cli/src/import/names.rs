//! The workers and the names of a file: which servers need a namespace of their own, so that shares
//! and keys reach those that they are for.

use std::collections::BTreeMap;

use super::deployment::{Deployment, Server, Url};
use super::yaml;

/// A server, and its share of each name.
struct Worker {
    server: Server,
    shares: BTreeMap<String, f64>,
    namespace: Option<String>,
}

/// The workers, in the order of the file.
pub(super) struct Workers(Vec<Worker>);

/// A model that answers for a name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) model: String,
    pub(super) namespace: Option<String>,
    pub(super) weight: u64,
}

impl Target {
    /// Whether both are the same models of the same workers.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.model, &self.namespace) == (&other.model, &other.namespace)
    }
}

impl Workers {
    /// Servers that differ in their shares, or in the names that they answer for, get different
    /// namespaces, and so do those that differ in their keys.
    pub(super) fn new(deployments: &[Deployment]) -> Self {
        let mut workers: Vec<Worker> = Vec::new();
        for deployment in deployments {
            let share = share(deployment, deployments);
            let known = workers.iter().position(|worker| worker.server == deployment.server);
            let at = known.unwrap_or_else(|| {
                let server = deployment.server.clone();
                workers.push(Worker { server, shares: BTreeMap::new(), namespace: None });
                workers.len() - 1
            });
            *workers[at].shares.entry(deployment.group.clone()).or_default() += share;
        }
        let keys_differ = workers.windows(2).any(|two| two[0].server.key != two[1].server.key);
        let mut named = 0;
        for at in 0..workers.len() {
            let of_model = |worker: &&Worker| worker.server.model == workers[at].server.model;
            let alike = |worker: &&Worker| {
                worker.shares == workers[at].shares && worker.server.key == workers[at].server.key
            };
            if !keys_differ && workers.iter().filter(of_model).all(|worker| alike(&worker)) {
                continue;
            }
            let before = workers[..at].iter().filter(of_model).find(alike);
            let namespace = before.and_then(|worker| worker.namespace.clone());
            workers[at].namespace = Some(namespace.unwrap_or_else(|| {
                named += 1;
                format!("litellm-{named}")
            }));
        }
        Self(workers)
    }

    /// The namespace of a server.
    pub(super) fn namespace(&self, server: &Server) -> Option<&str> {
        let worker = self.0.iter().find(|worker| worker.server == *server)?;
        worker.namespace.as_deref()
    }

    /// Whether any worker is in a namespace of its own.
    pub(super) fn have_namespaces(&self) -> bool {
        self.0.iter().any(|worker| worker.namespace.is_some())
    }

    /// What answers for a name, without those whose share is 0.
    pub(super) fn targets(&self, group: &str) -> Vec<Target> {
        let mut targets: Vec<(Target, f64)> = Vec::new();
        for worker in &self.0 {
            let (Some(share), Some(model)) = (worker.shares.get(group), &worker.server.model)
            else {
                continue;
            };
            let (model, namespace) = (model.clone(), worker.namespace.clone());
            let target = Target { model, namespace, weight: 0 };
            match targets.iter_mut().find(|(known, _)| known.is_like(&target)) {
                Some((_, sum)) => *sum += share,
                None => targets.push((target, *share)),
            }
        }
        targets.retain(|(_, share)| *share > 0.0);
        let weights = whole(&targets.iter().map(|(_, share)| *share).collect::<Vec<_>>());
        let with = |((target, _), weight)| Target { weight, ..target };
        targets.into_iter().zip(weights).map(with).collect()
    }

    /// The values of `worker_url`.
    pub(super) fn urls(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|Worker { server, namespace, .. }| {
            let mut text = String::new();
            if let Some(model) = &server.model {
                text += &format!("{}=", model.replace('$', "$$"));
            }
            match &server.url {
                Url::Plain(url) => text += &url.replace('$', "$$"),
                Url::Variable(name) => text += &format!("${{{name}}}"),
            }
            if let Some(kinds) = server.kinds {
                text += &format!(";kinds={kinds}");
            }
            if let Some(namespace) = namespace {
                text += &format!(";namespace={namespace}");
            }
            yaml::verbatim(&text)
        })
    }

    /// The variables that stand for URLs.
    pub(super) fn variables(&self) -> Vec<String> {
        let variable = |worker: &Worker| match &worker.server.url {
            Url::Variable(name) => Some(name.clone()),
            Url::Plain(_) => None,
        };
        self.0.iter().filter_map(variable).collect()
    }
}

/// The share of an entry among those of its name: the first of `weight`, `rpm` and `tpm` that any of
/// them has, as LiteLLM's `simple-shuffle` takes them.
fn share(deployment: &Deployment, all: &[Deployment]) -> f64 {
    let of_group = || all.iter().filter(|other| other.group == deployment.group);
    let told = (0..3).find(|at| of_group().any(|other| other.shares[*at] > 0.0));
    told.map_or(1.0, |at| deployment.shares[at])
}

/// Shares as whole numbers, as small as they can be.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers are whole, positive and below a billion"
)]
fn whole(shares: &[f64]) -> Vec<u64> {
    let largest = shares.iter().copied().fold(0.0, f64::max);
    let is_whole = |share: f64| share > 0.5 && (share - share.round()).abs() < 1e-6;
    // Shares such as 0.9 and 0.1, else parts of a million.
    let factor = [1.0, 10.0, 100.0, 1000.0].into_iter().find(|factor| {
        largest * factor < 1e9 && shares.iter().all(|share| is_whole(share * factor))
    });
    let factor = factor.unwrap_or(1e6 / largest);
    let weights: Vec<u64> =
        shares.iter().map(|share| (share * factor).round().max(1.0) as u64).collect();
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    weights.into_iter().map(|weight| weight / divisor).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
