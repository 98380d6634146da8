//! The order of the modules inside a crate, checked on what its files import.
//!
//! - A module may import the modules below it in [`CRATES`], and none above it. So no two modules
//!   import each other.
//! - No file imports the crate's root: the root may import every module, and re-exports what it does.
//! - No two files import each other, neither directly nor over others.
//! - Every module has a row, every row has a module, and every file belongs to a module.
//!
//! A `mod` under `#[cfg(test)]` may import everything, and so may the root.

mod rules;
mod source;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};

use self::source::Sources;
use crate::workspace;

/// A crate and its modules, from top to bottom.
struct Crate {
    root: &'static str,
    order: &'static [&'static str],
}

const CRATES: [Crate; 3] = [
    Crate {
        root: "crates/dynamo-http/src/lib.rs",
        order: &[
            "fuzzing",
            "door",
            "proxy",
            "balance",
            "hold",
            "feed",
            "fleet",
            "placement",
            "access",
            "meter",
            "alias",
            "view",
            "serve",
            "tls",
            "exchange",
            "config",
            "route",
            "live",
            "priority",
            "threads",
            "relay",
            "quiet",
            "random",
            "tcp",
            "client_name",
            "client_address",
            "error",
        ],
    },
    Crate {
        root: "xtask/src/main.rs",
        order: &[
            "ci",
            "dist",
            "chaos",
            "itest",
            "demo",
            "compat",
            "operators",
            "bench",
            "version",
            "layering",
            "docs",
            "pages",
            "contents",
            "downstream",
            "coverage",
            "row",
            "packages",
            "modules",
            "etcd",
            "pypi",
            "apt",
            "http",
            "process",
            "poll",
            "signals",
            "workspace",
        ],
    },
    Crate { root: "xtask/src/bin/load/main.rs", order: &["client", "server", "message", "kind"] },
];

/// Checks all crates of the table, and fails with every import that breaks a rule.
pub(crate) fn check() -> Result<()> {
    let mut broken = Vec::new();
    for Crate { root, order } in CRATES {
        let sources = Sources::read(workspace::root(), root)?;
        println!("  {root}: {} files in {} modules", sources.files.len(), order.len());
        broken.extend(rules::broken(&sources, order));
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("the order of modules in {} is broken:\n{}", file!(), broken.join("\n"));
}
