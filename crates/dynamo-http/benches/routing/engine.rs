//! A simulated engine in virtual time: a prefix cache, chunked prefill and continuous batching.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::workload::Request;

/// The tokens of a block of the cache.
pub(crate) const BLOCK: usize = 16;

/// How an engine is built, and how fast it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// Blocks of the cache.
    pub(crate) blocks: usize,
    /// Prompt tokens in a second.
    pub(crate) prefill: f64,
    /// Seconds of a step in which at least one request decodes.
    pub(crate) decode: f64,
    /// Requests that run at once; others wait.
    pub(crate) running: usize,
    /// Prompt tokens in a step.
    pub(crate) chunk: usize,
}

impl Default for Spec {
    fn default() -> Self {
        Self { blocks: 12_288, prefill: 10_000.0, decode: 0.010, running: 32, chunk: 512 }
    }
}

/// What happened to a request, for the policy and for the figures.
#[derive(Clone, Copy)]
pub(crate) enum Event {
    /// The first token came; so many tokens of the prompt were cached.
    First {
        request: usize,
        cached: usize,
    },
    Ended {
        request: usize,
    },
}

struct Sequence {
    number: usize,
    request: Arc<Request>,
    /// Prompt tokens whose cache is there.
    done: usize,
    cached: usize,
    generated: usize,
    /// Blocks of the cache that it uses, from the front, and blocks of its own beyond.
    pinned: Vec<u64>,
    own: usize,
}

/// An engine. Time is in seconds.
pub(crate) struct Engine {
    spec: Spec,
    cache: Cache,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// When the step that runs ends.
    pub(crate) step_ends: Option<f64>,
    /// What each running request does in this step: prompt tokens, or 0 for one token of the answer.
    plan: Vec<usize>,
}

impl Engine {
    pub(crate) fn new(spec: Spec) -> Self {
        let cache = Cache::new(spec.blocks);
        Self {
            spec,
            cache,
            waiting: VecDeque::new(),
            running: Vec::new(),
            step_ends: None,
            plan: Vec::new(),
        }
    }

    /// How many tokens of a prompt are cached now.
    pub(crate) fn cached(&self, request: &Request) -> usize {
        self.cache.known(&request.blocks, request.prompt)
    }

    /// Prompt tokens that are to be computed before a new request's.
    pub(crate) fn outstanding(&self) -> usize {
        let waiting = self.waiting.iter().map(|one| one.request.prompt - self.cached(&one.request));
        let running =
            self.running.iter().map(|one| one.request.prompt - one.done.min(one.request.prompt));
        waiting.sum::<usize>() + running.sum::<usize>()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    pub(crate) fn submit(&mut self, number: usize, request: Arc<Request>, now: f64) {
        let sequence = Sequence {
            number,
            request,
            done: 0,
            cached: 0,
            generated: 0,
            pinned: Vec::new(),
            own: 0,
        };
        self.waiting.push_back(sequence);
        if self.step_ends.is_none() {
            self.begin_step(now);
        }
    }

    /// Admits what waits, and plans the next step.
    fn begin_step(&mut self, now: f64) {
        while self.running.len() < self.spec.running
            && let Some(first) = self.waiting.front_mut()
        {
            let request = first.request.clone();
            let total = (request.prompt + request.output).div_ceil(BLOCK);
            let known = self.cache.known(&request.blocks, request.prompt) / BLOCK;
            let needed = total - known;
            if self.cache.free_without(&request.blocks[..known]) < needed
                && !self.running.is_empty()
            {
                break;
            }
            for block in &request.blocks[..known] {
                self.cache.pin(*block);
            }
            first.pinned = request.blocks[..known].to_vec();
            self.cache.reserve(needed);
            first.own = needed;
            first.cached = known * BLOCK;
            first.done = first.cached;
            self.running.extend(self.waiting.pop_front());
        }
        if self.running.is_empty() {
            self.step_ends = None;
            return;
        }
        let decodes = |one: &Sequence| one.done >= one.request.prompt;
        let mut budget = self.spec.chunk;
        self.plan.clear();
        for one in &self.running {
            let chunk = (one.request.prompt - one.done.min(one.request.prompt)).min(budget);
            budget -= chunk;
            self.plan.push(chunk);
        }
        let prompt: usize = self.plan.iter().sum();
        let decode = if self.running.iter().any(decodes) { self.spec.decode } else { 0.0 };
        self.step_ends = Some(now + decode + prompt as f64 / self.spec.prefill);
    }

    /// Ends the step that runs, and begins the next one.
    pub(crate) fn step(&mut self, now: f64, events: &mut Vec<Event>) {
        let plan = std::mem::take(&mut self.plan);
        let mut left = Vec::with_capacity(self.running.len());
        for (mut one, chunk) in std::mem::take(&mut self.running).into_iter().zip(plan) {
            let prompt = one.request.prompt;
            let was_prefilling = one.done < prompt;
            if was_prefilling {
                one.done += chunk;
                if one.done < prompt {
                    self.publish(&mut one);
                    left.push(one);
                    continue;
                }
                events.push(Event::First { request: one.number, cached: one.cached });
            }
            one.generated += 1;
            self.publish(&mut one);
            if one.generated >= one.request.output {
                events.push(Event::Ended { request: one.number });
                self.cache.release(one.own);
                // The last block first, so that it is the first to be evicted.
                for block in one.pinned.iter().rev() {
                    self.cache.unpin(*block);
                }
            } else {
                left.push(one);
            }
        }
        self.running = left;
        self.begin_step(now);
    }

    /// Puts the blocks that a request has filled into the cache.
    fn publish(&mut self, one: &mut Sequence) {
        let tokens = if one.done < one.request.prompt {
            one.done
        } else {
            one.request.prompt + one.generated
        };
        let full = (tokens / BLOCK).min(one.request.blocks.len());
        for at in one.pinned.len()..full {
            let block = one.request.blocks[at];
            if one.own > 0 {
                self.cache.release(1);
                one.own -= 1;
            }
            self.cache.add(block);
            one.pinned.push(block);
        }
    }
}

/// A prefix cache: blocks by hash, those that nobody uses in the order of their last use.
struct Cache {
    size: usize,
    blocks: HashMap<u64, Cached, BuildHasherDefault<Same>>,
    unused: BTreeMap<u64, u64>,
    reserved: usize,
    clock: u64,
}

struct Cached {
    users: usize,
    freed: u64,
}

impl Cache {
    fn new(size: usize) -> Self {
        Self { size, blocks: HashMap::default(), unused: BTreeMap::new(), reserved: 0, clock: 0 }
    }

    /// How many tokens of a prompt are cached. The last one is always computed.
    fn known(&self, blocks: &[u64], prompt: usize) -> usize {
        let most = prompt.saturating_sub(1) / BLOCK;
        let known = blocks[..most.min(blocks.len())].iter();
        known.take_while(|block| self.blocks.contains_key(block)).count() * BLOCK
    }

    /// How many blocks could be reserved if these were in use.
    fn free_without(&self, known: &[u64]) -> usize {
        let pinned = self.blocks.len() - self.unused.len();
        let wanted =
            known.iter().filter(|block| self.blocks.get(block).is_some_and(|one| one.users == 0));
        self.size.saturating_sub(pinned + self.reserved + wanted.count())
    }

    fn pin(&mut self, block: u64) {
        if let Some(one) = self.blocks.get_mut(&block) {
            if one.users == 0 {
                self.unused.remove(&one.freed);
            }
            one.users += 1;
        }
    }

    fn unpin(&mut self, block: u64) {
        if let Some(one) = self.blocks.get_mut(&block) {
            one.users -= 1;
            if one.users == 0 {
                self.clock += 1;
                one.freed = self.clock;
                self.unused.insert(self.clock, block);
            }
        }
    }

    fn reserve(&mut self, blocks: usize) {
        self.reserved += blocks;
        while self.blocks.len() + self.reserved > self.size
            && let Some((_, oldest)) = self.unused.pop_first()
        {
            self.blocks.remove(&oldest);
        }
    }

    fn release(&mut self, blocks: usize) {
        self.reserved -= blocks;
    }

    /// Adds a block that one request uses.
    fn add(&mut self, block: u64) {
        self.blocks.entry(block).or_insert(Cached { users: 0, freed: 0 });
        self.pin(block);
    }
}

/// The hash of a hash.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
