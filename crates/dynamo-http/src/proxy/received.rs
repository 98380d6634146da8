//! A request that was read and checked, and how it asks for a model.

use bytes::Bytes;
use http::HeaderMap;

use super::edit::Edits;
use super::forward::Ask;
use super::headers::RequestId;
use super::isolation::Salt;
use super::lookup::Lookup;
use super::peek::{Peeked, Prompt};
use super::priority::Ranked;
use crate::access::Reservation;
use crate::alias::AliasTarget;
use crate::balance::{AffinityKey, Wish};
use crate::fleet::{Fleet, Need, Targets};
use crate::placement::{Path, Request, Seed};
use crate::route::Route;
use crate::view::Lens;

/// A request that was read and checked.
pub(super) struct Received<'a> {
    pub(super) lens: &'a Lens,
    pub(super) fleet: &'a Fleet,
    pub(super) route: Route,
    pub(super) asked: &'a Peeked<'a>,
    pub(super) query: Option<&'a str>,
    /// The headers for workers.
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) id: &'a RequestId,
    /// The edits that ask for the usage of a stream.
    pub(super) usage: Option<&'a Edits>,
    /// What keeps the request apart from those of others in an engine's cache.
    pub(super) salt: Option<&'a Salt>,
    /// The class of the request, where requests have classes.
    pub(super) ranked: Option<&'a Ranked>,
    pub(super) session: Option<&'a [u8]>,
    /// Whether the worker is chosen by the prompt.
    pub(super) by_prompt: bool,
    /// What the request has reserved, where its key has limits on tokens.
    pub(super) reservation: Option<&'a Reservation>,
}

impl<'a> Received<'a> {
    /// Looks for the model that was asked for, or for a target of the alias that was.
    pub(super) fn lookup<'b>(&'b self, target: Option<&'b AliasTarget>) -> Lookup<'b> {
        let (lens, fleet, asked) = (self.lens, self.fleet, &*self.asked.model);
        Lookup { lens, fleet, asked, target, route: self.route }
    }

    /// What the request needs of a server.
    pub(super) fn need(&self) -> Need {
        Need { kind: self.route.kind(), field: self.salt.and_then(Salt::needs) }
    }

    /// The path of the prompt at a model's servers, where the worker is chosen by it.
    pub(super) fn path(&self, targets: &Targets) -> Option<Path> {
        self.by_prompt.then(|| path(targets.seed(), &self.asked.prompt, self.salt))
    }

    /// The request as it asks for a model. The body and the answer are not edited for an alias.
    pub(super) fn ask<'b>(&'b self, lookup: Lookup<'b>, path: Option<&'b Path>) -> Ask<'b>
    where
        'a: 'b,
    {
        let session = self.session;
        Ask {
            lookup,
            query: self.query,
            wish: Wish {
                affinity: session.map(AffinityKey::of),
                prompt: path.map(|path| Request { path, session }),
                bytes: self.body.len(),
                stream: self.asked.stream,
            },
            headers: self.headers,
            body: self.body,
            id: self.id,
            usage: self.usage,
            salt: self.salt,
            ranked: self.ranked,
            rename: None,
            edits_answer: false,
            reservation: self.reservation,
        }
    }
}

/// The path of a prompt in its scope and model. The salt that an engine gets takes the place of the
/// client's own.
fn path(seed: Seed, prompt: &Prompt<'_>, salt: Option<&Salt>) -> Path {
    let seed = match salt.map_or(prompt.cache_salt.as_bytes(), Salt::text) {
        b"" => seed,
        salt => seed.and(salt),
    };
    let rest = [prompt.system, prompt.instructions, prompt.input];
    Path::of(seed, prompt.tools.as_bytes(), rest.map(str::as_bytes))
}
