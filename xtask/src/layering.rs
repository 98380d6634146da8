//! The layering rules of the workspace, checked on the output of `cargo tree`.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};

use crate::{process::capture, workspace};

/// One dependency graph: its arguments of `cargo tree`, the forbidden crates, and the largest size.
struct Rule {
    tree: &'static [&'static str],
    without: &'static [&'static str],
    at_most: usize,
}

const NO_LIMIT: usize = usize::MAX;

const RULES: [Rule; 10] = [
    Rule { tree: &["-p", "dynamo-namespace"], without: &["dynamo-discovery", "serde"], at_most: 1 },
    Rule {
        tree: &["-p", "dynamo-discovery"],
        without: &["axum", "dynamo-http", "etcd-client", "mockall"],
        at_most: 40,
    },
    Rule {
        tree: &["-p", "dynamo-discovery", "--features", "etcd-tls"],
        without: &["dynamo-http", "mockall"],
        at_most: 100,
    },
    // Whoever runs the conformance suite needs no mocks.
    Rule {
        tree: &["-p", "dynamo-discovery", "--features", "test-util"],
        without: &["axum", "dynamo-http", "etcd-client", "mockall"],
        at_most: 40,
    },
    // tonic, under etcd-client, brings axum; the crate itself has no dependency on axum.
    Rule {
        tree: &["-p", "dynamo-discovery", "--all-features", "--depth", "1"],
        without: &["axum"],
        at_most: NO_LIMIT,
    },
    Rule {
        tree: &["-p", "dynamo-http"],
        without: &["dynamo-cli", "etcd-client", "mockall"],
        at_most: 103,
    },
    Rule {
        tree: &["-p", "dynamo-http", "--features", "decompress"],
        without: &["dynamo-cli", "etcd-client", "mockall", "zstd-sys"],
        at_most: 111,
    },
    Rule {
        tree: &["-p", "dynamo-http", "--features", "tls"],
        without: &["dynamo-cli", "etcd-client", "mockall"],
        at_most: 113,
    },
    Rule {
        tree: &["-p", "xtask", "--all-features"],
        without: &["dynamo-cli", "dynamo-discovery", "dynamo-http", "dynamo-namespace"],
        at_most: NO_LIMIT,
    },
    // The graph has one crypto provider: rustls panics at run time if two are linked.
    Rule {
        tree: &["--workspace", "--all-features"],
        without: &["aws-lc-rs", "openssl"],
        at_most: NO_LIMIT,
    },
];

/// Checks all rules and prints the size of each graph that has a limit.
pub(crate) fn check() -> Result<()> {
    for rule in RULES {
        let shown = rule.tree.join(" ");
        let crates = crates(rule.tree)?;
        let broken = rule.without.iter().find(|name| crates.iter().any(|c| c.0 == **name));
        if let Some(name) = broken {
            bail!("`cargo tree -e normal {shown}` has {name}, which the layering forbids");
        }
        if rule.at_most == NO_LIMIT {
            continue;
        }
        println!("  {shown}: {} crates, at most {}", crates.len(), rule.at_most);
        ensure!(
            crates.len() <= rule.at_most,
            "`cargo tree -e normal {shown}` has {} crates, more than {}",
            crates.len(),
            rule.at_most
        );
    }
    Ok(())
}

/// Name and version of each crate in a graph, the root included.
fn crates(tree: &[&str]) -> Result<BTreeSet<(String, String)>> {
    let mut command = workspace::cargo(["tree", "-e", "normal", "--prefix", "none"]);
    let lines = capture(command.args(tree))?;
    Ok(lines.lines().filter_map(name_and_version).collect())
}

/// `serde v1.0.228`, `dynamo-http v0.1.0 (/path)`, `async-trait v0.1.89 (proc-macro) (*)`.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.into(), words.next()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_crate_is_the_same_crate() {
        let first = name_and_version("async-trait v0.1.89 (proc-macro)");
        assert_eq!(first, Some(("async-trait".into(), "v0.1.89".into())));
        assert_eq!(name_and_version("async-trait v0.1.89 (proc-macro) (*)"), first);
        assert_eq!(name_and_version(""), None);
    }
}
