//! Which frontend sees which worker: every kind of scope beside the namespaces of five workers.
//!
//! ```text
//! cargo run -p dynamo-namespace --example scopes
//! ```

#![expect(clippy::print_stdout, reason = "it is a program")]

use std::error::Error;

use dynamo_namespace::{EndpointId, Namespace, NamespaceScope};

fn main() -> Result<(), Box<dyn Error>> {
    // The namespace of a worker is the first part of its endpoint id. Every spelling is the same id.
    let workers: Vec<EndpointId> = [
        "global.backend.generate",
        "team-a/backend/generate",
        "team-a-0f3c9a1b.backend.generate",
        "dyn://team-a-canary.backend.generate",
        "dyn://team-b/backend/generate",
    ]
    .into_iter()
    .map(str::parse)
    .collect::<Result<_, _>>()?;

    let team_a = Namespace::new("team-a")?;
    let team_b = Namespace::new("team-b")?;
    let scopes = [
        NamespaceScope::from_target(None)?,
        NamespaceScope::from_target(Some("team-a"))?,
        NamespaceScope::AnyOf([team_a.clone(), team_b].into()),
        NamespaceScope::Generations(team_a.clone()),
        NamespaceScope::Prefix("team-a".to_owned()),
    ];

    for scope in &scopes {
        println!("a frontend with the scope {scope}");
        for worker in &workers {
            let sees = if scope.contains(worker.namespace()) { "sees" } else { "does not see" };
            println!("    {sees} {worker}");
        }
    }

    // A key for clients may be narrower than the frontend that checks it, and never wider.
    let frontend = NamespaceScope::Generations(team_a.clone());
    for key in [NamespaceScope::Only(team_a), NamespaceScope::All] {
        let fits = if key.is_within(&frontend) { "fits" } else { "does not fit" };
        println!("a key for {key} {fits} a frontend with the scope {frontend}");
    }

    // An error quotes the text escaped, so that it is safe to print.
    if let Err(error) = Namespace::new("team\u{1b}[31m/a") {
        println!("{error}");
    }
    Ok(())
}
