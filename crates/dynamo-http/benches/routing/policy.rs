//! The policies: today's, the new one with the product's code, random as the floor, an oracle.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynamo_http::placement::{
    Candidate, Knowledge, Limits, Placement, Request as Asked, Sent, Server,
};
use fastrand::Rng;

use crate::engine::Engine;
use crate::workload::Request;

/// Chooses an engine for each request, as one or several frontends do.
pub(crate) trait Policy {
    fn choose(&mut self, number: usize, request: &Request, engines: &[Engine], now: f64) -> usize;
    fn first(&mut self, _number: usize, _cached: usize, _now: f64) {}
    fn ended(&mut self, _number: usize, _request: &Request, _now: f64) {}
}

/// The policies by name.
pub(crate) const NAMES: [&str; 7] = [
    "random",
    "round-robin",
    "power-of-two",
    "least-loaded",
    "prompt-affinity",
    "cache-aware",
    "oracle",
];

/// A policy by its name.
pub(crate) fn of(
    name: &str,
    engines: usize,
    frontends: usize,
    seed: u64,
) -> Option<Box<dyn Policy>> {
    let rng = Rng::with_seed(seed);
    Some(match name {
        "random" => Box::new(Random(rng)),
        "round-robin" => Box::new(RoundRobin(0)),
        "power-of-two" => Box::new(PowerOfTwo { rng, in_flight: InFlight::new(engines) }),
        "prompt-affinity" => {
            Box::new(Affinity { rng, in_flight: InFlight::new(engines), bound: 1.25 })
        }
        "oracle" => Box::new(Oracle),
        "least-loaded" => Box::new(LeastLoaded(Product::new(engines, 1, rng))),
        "cache-aware" => Box::new(CacheAware(Product::new(engines, frontends, rng))),
        _ => return None,
    })
}

struct Random(Rng);

impl Policy for Random {
    fn choose(&mut self, _: usize, _: &Request, engines: &[Engine], _: f64) -> usize {
        self.0.usize(..engines.len())
    }
}

struct RoundRobin(usize);

impl Policy for RoundRobin {
    fn choose(&mut self, _: usize, _: &Request, engines: &[Engine], _: f64) -> usize {
        self.0 += 1;
        self.0 % engines.len()
    }
}

/// Which engine each request is at, and how many are at each.
struct InFlight {
    at: Vec<usize>,
    count: Vec<usize>,
}

impl InFlight {
    fn new(engines: usize) -> Self {
        Self { at: Vec::new(), count: vec![0; engines] }
    }

    fn begin(&mut self, number: usize, engine: usize) -> usize {
        if self.at.len() <= number {
            self.at.resize(number + 1, 0);
        }
        self.at[number] = engine;
        self.count[engine] += 1;
        engine
    }

    fn end(&mut self, number: usize) {
        self.count[self.at[number]] -= 1;
    }
}

struct PowerOfTwo {
    rng: Rng,
    in_flight: InFlight,
}

impl Policy for PowerOfTwo {
    fn choose(&mut self, number: usize, _: &Request, engines: &[Engine], _: f64) -> usize {
        let one = self.rng.usize(..engines.len());
        let other = (one + self.rng.usize(1..engines.len())) % engines.len();
        let count = &self.in_flight.count;
        let chosen = if count[other] < count[one] { other } else { one };
        self.in_flight.begin(number, chosen)
    }

    fn ended(&mut self, number: usize, _: &Request, _: f64) {
        self.in_flight.end(number);
    }
}

/// Rendezvous hashing over the first KiB of the messages, bounded by 1.25 times the share of requests:
/// the rule of the mode `affinity` in release 0.1 for requests without a session.
struct Affinity {
    rng: Rng,
    in_flight: InFlight,
    bound: f64,
}

impl Policy for Affinity {
    fn choose(&mut self, number: usize, request: &Request, engines: &[Engine], _: f64) -> usize {
        let count = &self.in_flight.count;
        let all: usize = count.iter().sum();
        let most = ((all + 1) as f64 * self.bound / engines.len() as f64).ceil().max(4.0) as usize;
        let weight = |at: &usize| Rng::with_seed(request.beginning ^ (*at as u64) << 32).u64(..);
        let chosen = (0..engines.len()).filter(|at| count[*at] < most).max_by_key(weight);
        let chosen = chosen.unwrap_or_else(|| self.rng.usize(..engines.len()));
        self.in_flight.begin(number, chosen)
    }

    fn ended(&mut self, number: usize, _: &Request, _: f64) {
        self.in_flight.end(number);
    }
}

/// Sees the engines: takes the one with the earliest first token by its truth of cache and queue.
struct Oracle;

impl Policy for Oracle {
    fn choose(&mut self, number: usize, request: &Request, engines: &[Engine], _: f64) -> usize {
        let cost = |engine: &Engine| {
            let own = request.prompt - engine.cached(request);
            2 * own + engine.outstanding() + 100 * engine.in_flight() + 1000 * engine.waiting()
        };
        // Equal ones take turns.
        let all = (0..engines.len()).map(|at| (number + at) % engines.len());
        all.min_by_key(|at| cost(&engines[*at])).unwrap_or(0)
    }
}

/// The product's placement: one for each frontend.
struct Product {
    began: Instant,
    rng: Rng,
    frontends: Vec<Frontend>,
    sent: Vec<Option<AtServer>>,
}

/// A request that was sent.
struct AtServer {
    frontend: usize,
    server: usize,
    sent: Sent,
    /// The cached tokens that the engine tells.
    cached: usize,
}

struct Frontend {
    knowledge: Arc<Knowledge>,
    servers: Vec<Arc<Server>>,
    in_flight: Vec<usize>,
}

impl Product {
    fn new(engines: usize, frontends: usize, rng: Rng) -> Self {
        let began = Instant::now();
        let limits =
            Limits::new().with_frontends(NonZeroUsize::new(frontends).unwrap_or(NonZeroUsize::MIN));
        let frontend = || Frontend {
            knowledge: Placement::new(limits.clone()).knowledge(),
            servers: (0..engines)
                .map(|n| Arc::new(Server::new(&format!("http://192.0.2.{n}:8000"), began)))
                .collect(),
            in_flight: vec![0; engines],
        };
        Self {
            began,
            rng,
            frontends: (0..frontends).map(|_| frontend()).collect(),
            sent: Vec::new(),
        }
    }

    fn time(&self, now: f64) -> Instant {
        self.began + Duration::from_secs_f64(now)
    }

    fn choose(&mut self, number: usize, request: &Request, now: f64) -> usize {
        let at = self.time(now);
        let from = self.rng.usize(..self.frontends.len());
        let frontend = &mut self.frontends[from];
        let candidates: Vec<_> = frontend
            .servers
            .iter()
            .zip(&frontend.in_flight)
            .map(|(server, in_flight)| Candidate { server, in_flight: *in_flight })
            .collect();
        let asked = Asked { path: &request.path, session: None };
        let Some(choice) = frontend.knowledge.choose(asked, &candidates, at) else { return 0 };
        let server = choice.server;
        let sent = frontend.knowledge.begun(asked, &choice, &frontend.servers[server], true, at);
        frontend.in_flight[server] += 1;
        if self.sent.len() <= number {
            self.sent.resize_with(number + 1, || None);
        }
        self.sent[number] = Some(AtServer { frontend: from, server, sent, cached: 0 });
        server
    }

    fn first(&mut self, number: usize, cached: usize, now: f64) {
        let at = self.time(now);
        if let Some(one) = &mut self.sent[number] {
            one.cached = cached;
            one.sent.first_content(at);
        }
    }

    fn ended(&mut self, number: usize, request: &Request, now: f64) {
        let at = self.time(now);
        if let Some(one) = self.sent[number].take() {
            self.frontends[one.frontend].in_flight[one.server] -= 1;
            one.sent.usage(request.prompt as u32, Some(one.cached as u32));
            one.sent.ended(at);
        }
    }
}

struct CacheAware(Product);

impl Policy for CacheAware {
    fn choose(&mut self, number: usize, request: &Request, _: &[Engine], now: f64) -> usize {
        self.0.choose(number, request, now)
    }

    fn first(&mut self, number: usize, cached: usize, now: f64) {
        self.0.first(number, cached, now);
    }

    fn ended(&mut self, number: usize, request: &Request, now: f64) {
        self.0.ended(number, request, now);
    }
}

/// The least outstanding work, without a look at the prompt.
struct LeastLoaded(Product);

impl Policy for LeastLoaded {
    fn choose(&mut self, number: usize, request: &Request, _: &[Engine], now: f64) -> usize {
        let at = self.0.time(now);
        let frontend = &mut self.0.frontends[0];
        let load = |one: &usize| {
            let candidate =
                Candidate { server: &frontend.servers[*one], in_flight: frontend.in_flight[*one] };
            frontend.knowledge.load(candidate, at)
        };
        let all = 0..frontend.servers.len();
        let server = all.min_by(|one, other| load(one).total_cmp(&load(other))).unwrap_or(0);
        let sent = frontend.knowledge.begun_blindly(
            request.path.text(),
            &frontend.servers[server],
            true,
            at,
        );
        frontend.in_flight[server] += 1;
        if self.0.sent.len() <= number {
            self.0.sent.resize_with(number + 1, || None);
        }
        self.0.sent[number] = Some(AtServer { frontend: 0, server, sent, cached: 0 });
        server
    }

    fn first(&mut self, number: usize, cached: usize, now: f64) {
        self.0.first(number, cached, now);
    }

    fn ended(&mut self, number: usize, request: &Request, now: f64) {
        self.0.ended(number, request, now);
    }
}
