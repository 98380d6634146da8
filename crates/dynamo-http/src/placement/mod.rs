//! Placement: which of a model's servers has a prompt in its cache already, and what it costs to send
//! the request elsewhere.
//!
//! An engine keeps what it computed for a prompt. A request whose prompt begins like an earlier one *at
//! the same engine* skips that part. Nothing of this is asked from an engine: [`Knowledge`] remembers
//! what was sent where, and [`Server`] what is still to be computed there.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Instant;
//! use dynamo_http::placement::{Candidate, Limits, Path, Placement, Request, Seed, Server};
//!
//! let now = Instant::now();
//! let placement = Placement::new(Limits::default());
//! // One for each scope and model, so that no scope learns from another.
//! let knowledge = placement.knowledge();
//! let servers = ["http://192.0.2.1:8000", "http://192.0.2.2:8000"];
//! let servers = servers.map(|url| Arc::new(Server::new(url, now)));
//! let candidates: Vec<_> = servers.iter().map(|one| Candidate { server: one, in_flight: 0 }).collect();
//!
//! let prompt = "x".repeat(8192);
//! let path = Path::of(Seed::of([&b"team-a"[..], b"llama"]), b"", [prompt.as_bytes()]);
//! let request = Request { path: &path, session: None };
//! let choice = knowledge.choose(request, &candidates, now).unwrap();
//! let mut sent = knowledge.begun(request, &choice, &servers[choice.server], true, now);
//! sent.first_content(now);
//! drop(sent);
//! // The next request of the conversation goes there, too.
//! let next = knowledge.choose(request, &candidates, now).unwrap();
//! assert_eq!((next.server, next.known_tokens), (choice.server, 2048));
//! ```
//!
//! The parts have no clock of their own: each call gets the time. All calls may come from any thread.

mod frontends;
mod index;
mod knowledge;
mod path;
mod rule;
mod server;
mod sessions;
#[cfg(test)]
mod tests;

pub use self::frontends::Frontends;
pub use self::knowledge::{Candidate, Choice, Knowledge, Limits, Placement, Request, Sent};
pub(crate) use self::path::weigh;
pub use self::path::{BLOCK, Path, Seed};
pub use self::rule::Reason;
pub use self::server::Server;
