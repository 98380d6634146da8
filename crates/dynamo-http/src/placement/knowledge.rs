//! What is known of one model's servers in one scope, and the memory that all models share.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::frontends::Frontends;
use super::index::{Before, Index, Known, Slot, Turn};
use super::path::{BLOCK, Path, hash};
use super::rule::{self, Costs, IN_FLIGHT, Reason, Standing};
use super::server::{Debt, Server};
use super::sessions::Sessions;

/// With more candidates, some are looked at.
const MANY: usize = 64;
/// How many of those with the least load, and of those that know most, are looked at then.
const SOME: usize = 16;
/// The rate of prefill before one was seen, in tokens a second.
const RATE: f32 = 10_000.0;
/// Bytes of text in a token before the first usage.
const BYTES_PER_TOKEN: f32 = 4.0;
/// The weight of one more observation in a moving average.
const WEIGHT: f32 = 0.05;
/// A prefill of fewer tokens says nothing about the rate.
const TELLING: u32 = 256;

/// An engine's count of cached tokens contradicts an expectation that differs by more than this share of
/// the prompt and a block: tokens are not spread evenly over bytes.
const DOUBT: f32 = 0.125;

/// How much is remembered, and for how many frontends.
#[derive(Clone, Debug)]
#[must_use]
pub struct Limits {
    blocks: usize,
    frontends: Frontends,
}

impl Limits {
    /// A million blocks, and one frontend.
    pub fn new() -> Self {
        Self { blocks: 1_000_000, frontends: Frontends::default() }
    }

    /// How many blocks are remembered in all, each at each server. A block takes about 65 bytes.
    pub fn with_blocks(self, blocks: usize) -> Self {
        Self { blocks, ..self }
    }

    /// How many frontends send requests to the same servers. With more than one, a prompt that is
    /// unknown here is presumed at one server, which is the same for all of them.
    pub fn with_frontends(self, frontends: impl Into<Frontends>) -> Self {
        Self { frontends: frontends.into(), ..self }
    }

    /// How many blocks are remembered in all.
    pub const fn blocks(&self) -> usize {
        self.blocks
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

/// The placement of one front door: the memory that its models share. A clone is the same placement.
#[derive(Clone, Debug)]
pub struct Placement(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    used: AtomicUsize,
    sessions: Sessions,
    /// All there are. Locked when a model comes or goes, and when the memory is full and a model has
    /// less than its share.
    all: Mutex<Vec<Weak<Knowledge>>>,
    /// How many models use memory.
    users: AtomicUsize,
}

/// What is known of the servers of one model in one scope.
///
/// Two scopes never have the same `Knowledge`, so neither one's prompts change the other's choices.
#[derive(Debug)]
pub struct Knowledge {
    shared: Arc<Shared>,
    state: Mutex<State>,
    used: AtomicUsize,
    /// Bit patterns of `f32`.
    bytes_per_token: AtomicU32,
    rate: AtomicU32,
    repeated: AtomicU32,
    /// Whether an engine told of cached tokens. One that always tells of none may not count them.
    tells: AtomicBool,
    turn: AtomicUsize,
    this: Weak<Self>,
}

#[derive(Debug)]
struct State {
    index: Index,
    members: HashMap<usize, Member>,
}

/// A server in an index.
#[derive(Debug)]
struct Member {
    slot: Slot,
    starts: u32,
    /// When the engine started whose cache this is, in unix seconds, as far as that is known.
    engine_started: Option<u64>,
    /// Keeps the address from being used again.
    server: Weak<Server>,
}

/// A server that a request may be sent to.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The server.
    pub server: &'a Arc<Server>,
    /// How many requests this frontend has there.
    pub in_flight: usize,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The path of the prompt.
    pub path: &'a Path,
    /// The session's name, if the client gave one.
    pub session: Option<&'a [u8]>,
}

/// A choice, and what it was based on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Choice {
    /// The place of the server among the candidates.
    pub server: usize,
    /// How many tokens of the prompt the server is expected to have in its cache.
    pub known_tokens: u32,
    /// The estimated tokens of the prompt.
    pub tokens: u32,
    /// What the server costs, in tokens of prefill.
    pub cost: f32,
    /// Why it was chosen.
    pub reason: Reason,
    /// How many blocks of the path some candidate knows.
    reach: u32,
}

impl fmt::Display for Choice {
    /// The reason and the estimates, as parameters of a header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, cost, known_tokens, tokens, .. } = self;
        let reason = reason.name();
        write!(
            f,
            "reason={reason}; cost={cost:.0}; expected-cached-tokens={known_tokens}; \
             prompt-tokens={tokens}"
        )
    }
}

impl Placement {
    /// A placement that knows nothing.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared {
            limits,
            used: AtomicUsize::new(0),
            sessions: Sessions::default(),
            all: Mutex::default(),
            users: AtomicUsize::new(0),
        }))
    }

    /// The knowledge of one more model in one scope. What it remembers goes with it.
    pub fn knowledge(&self) -> Arc<Knowledge> {
        let knowledge = Arc::new_cyclic(|this| Knowledge {
            shared: self.0.clone(),
            state: Mutex::new(State { index: Index::new(), members: HashMap::new() }),
            used: AtomicUsize::new(0),
            bytes_per_token: AtomicU32::new(BYTES_PER_TOKEN.to_bits()),
            rate: AtomicU32::new(RATE.to_bits()),
            repeated: AtomicU32::new(1_f32.to_bits()),
            tells: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            this: this.clone(),
        });
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        // Each time that as many came as there were.
        if all.len() == all.capacity() {
            all.retain(|one| one.strong_count() > 0);
            let as_many = all.len();
            all.reserve(as_many);
        }
        all.push(Arc::downgrade(&knowledge));
        knowledge
    }

    /// How many blocks are remembered, each at each server.
    pub fn blocks(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    /// How many frontends send requests to the same servers.
    pub fn frontends(&self) -> &Frontends {
        &self.0.limits.frontends
    }
}

impl Drop for Knowledge {
    fn drop(&mut self) {
        self.uses(0);
    }
}

impl Knowledge {
    /// Chooses a server; `None` without a candidate. The caller gives no server that must not be used.
    #[must_use]
    pub fn choose(
        &self,
        request: Request<'_>,
        candidates: &[Candidate<'_>],
        now: Instant,
    ) -> Option<Choice> {
        let path = request.path;
        let (rate, bytes_per_token) = (self.rate(), self.bytes_per_token());
        let standing = |candidate: &Candidate<'_>| Standing {
            name: candidate.server.name,
            outstanding: candidate.server.outstanding(rate, now),
            in_flight: candidate.in_flight as f32,
        };
        let mut known = Known::default();
        if path.blocks() == 0 {
            known.blocks.resize(candidates.len(), 0);
        } else {
            let state = self.lock();
            let slots: Vec<_> = candidates.iter().map(|one| state.slot(one.server)).collect();
            state.index.known(path.steps(), &slots, &mut known);
        }
        let mut standings: Vec<_> = candidates.iter().map(standing).collect();
        let places = (candidates.len() > MANY).then(|| some(path, &mut known, &mut standings));
        let place = |at: usize| places.as_ref().map_or(at, |places| places[at]);
        let repeated = f32::from_bits(self.repeated.load(Relaxed));
        let presumption = rule::presumption(self.shared.limits.frontends.count(), repeated);
        let costs = Costs::new(path, &known, &standings, bytes_per_token, presumption);
        let last = request.session.and_then(|session| {
            let last = self.shared.sessions.last(self.session(session), now)?;
            (0..standings.len()).find(|at| Arc::ptr_eq(candidates[place(*at)].server, &last))
        });
        let turn = || self.turn.fetch_add(1, Relaxed);
        let (chosen, reason) = costs.choose(&standings, last, turn)?;
        let known_blocks = known.blocks[chosen] as usize;
        Some(Choice {
            server: place(chosen),
            known_tokens: path.tokens_of(known_blocks, bytes_per_token) as u32,
            tokens: path.tokens(bytes_per_token) as u32,
            cost: costs.of[chosen],
            reason,
            reach: known.ways.len() as u32,
        })
    }

    /// Notes that a request was sent to the server of a choice. `is_streamed` says whether the first
    /// content will be seen when it is there; else the server's prefill is done after an estimated time.
    #[must_use]
    pub fn begun(
        &self,
        request: Request<'_>,
        choice: &Choice,
        server: &Arc<Server>,
        is_streamed: bool,
        now: Instant,
    ) -> Sent {
        let path = request.path;
        let mut earlier = None;
        if path.blocks() > 0 {
            let (turn, open) = server.turns(now);
            let mut state = self.lock();
            let slot = state.join(server);
            let State { index, .. } = &mut *state;
            index.reap();
            let before = index.touch(path.steps(), choice.reach as usize, slot, turn, |index| {
                self.makes_room(index, slot)
            });
            earlier = before.map(|before| {
                Earlier::of(&before, slot, open, |blocks| {
                    path.tokens_of(blocks, self.bytes_per_token())
                })
            });
            self.count(index);
            drop(state);
            let reached = path.tokens_of(choice.reach as usize, self.bytes_per_token());
            Self::learn(&self.repeated, reached / choice.tokens.max(1) as f32, 0.0, 1.0);
        }
        if let Some(session) = request.session {
            self.shared.sessions.note(self.session(session), server, now);
        }
        let text = if path.parts() > 0 { 0 } else { path.text() };
        let tokens = choice.tokens.saturating_sub(choice.known_tokens);
        let debt = self.debt(tokens, server, is_streamed, now);
        let mut sent = self.sent(tokens, text, server, debt, now);
        sent.choice = Some(*choice);
        sent.earlier = earlier;
        sent
    }

    /// Notes that a request was sent whose prompt was not looked at: all of it is to be computed.
    #[must_use]
    pub fn begun_blindly(
        &self,
        text: usize,
        server: &Arc<Server>,
        is_streamed: bool,
        now: Instant,
    ) -> Sent {
        let tokens = (text as f32 / self.bytes_per_token()) as u32;
        let debt = self.debt(tokens, server, is_streamed, now);
        self.sent(tokens, 0, server, debt, now)
    }

    fn debt(&self, tokens: u32, server: &Server, is_streamed: bool, now: Instant) -> Debt {
        if is_streamed {
            server.owe_until_content(tokens, now)
        } else {
            server.owe_for_a_time(tokens, self.rate(), now)
        }
    }

    fn sent(
        &self,
        tokens: u32,
        text: usize,
        server: &Arc<Server>,
        debt: Debt,
        now: Instant,
    ) -> Sent {
        Sent {
            knowledge: self.this.clone(),
            server: server.clone(),
            debt: Some(debt),
            tokens,
            choice: None,
            earlier: None,
            text,
            now,
        }
    }

    /// Learns from an answer how much an engine keeps. All but the turns are tokens of the prompt.
    fn told(&self, server: &Arc<Server>, earlier: &Earlier, known: f32, told: f32, doubt: f32) {
        let is_less = told + doubt < known && self.tells.load(Relaxed);
        let is_more = earlier.tokens > known + doubt && told + doubt > earlier.tokens;
        if !is_less && !is_more {
            return;
        }
        let mut state = self.lock();
        // The server may have begun anew since.
        if state.slot(server) != Some(earlier.slot) {
            return;
        }
        match earlier.kept {
            Some(kept) if is_less => {
                let blocks = (known - told) * self.bytes_per_token() / BLOCK as f32;
                state.index.gave_up(earlier.slot, kept, blocks as u32);
            }
            _ if is_more => state.index.still_had(earlier.slot, earlier.turn),
            _ => {}
        }
    }

    /// Gives up what is known of a server of this model, because it no longer serves the model.
    pub fn forget(&self, server: &Arc<Server>) {
        self.lock().leave(server);
    }

    /// Notes when the engine behind a server started, in unix seconds. What was known of an engine that
    /// started earlier is given up. An earlier time changes nothing.
    pub fn engine_started(&self, server: &Arc<Server>, started: u64) {
        let mut state = self.lock();
        let Some(member) = state.members.get_mut(&Arc::as_ptr(server).addr()) else { return };
        if *member.engine_started.get_or_insert(started) < started {
            state.leave(server);
        }
    }

    /// The load of a server in tokens of prefill, as the rule sees it.
    pub fn load(&self, candidate: Candidate<'_>, now: Instant) -> f32 {
        candidate.server.outstanding(self.rate(), now) + IN_FLIGHT * candidate.in_flight as f32
    }

    /// The model's bytes of text in a token, as learned from usage.
    pub fn bytes_per_token(&self) -> f32 {
        f32::from_bits(self.bytes_per_token.load(Relaxed))
    }

    /// The model's rate of prefill in tokens a second, as learned from streams.
    pub fn rate(&self) -> f32 {
        f32::from_bits(self.rate.load(Relaxed))
    }

    /// How many blocks are remembered for this model.
    pub fn blocks(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// A session's name within this model and scope.
    fn session(&self, name: &[u8]) -> u64 {
        hash(self.this.as_ptr().addr() as u64, name)
    }

    /// Whether one more block may be remembered, after forgetting another one if the memory is full.
    fn makes_room(&self, index: &mut Index, slot: Slot) -> bool {
        let most = self.shared.limits.blocks;
        self.count(index);
        if self.shared.used.load(Relaxed) < most {
            return true;
        }
        // A model that uses nothing yet is about to.
        let users = self.shared.users.load(Relaxed) + usize::from(index.len() == 0);
        let share = most / users.max(1);
        if index.len() < share && self.shared.take_from_others(self, share) {
            return true;
        }
        let shrinks = index.to_shrink(slot);
        index.evict(shrinks)
    }

    /// Brings the counters to what the index holds.
    fn count(&self, index: &Index) {
        self.uses(index.len());
    }

    /// Only one thread calls this at a time: the one that holds the lock, or the last one.
    fn uses(&self, now: usize) {
        let before = self.used.swap(now, Relaxed);
        match (before > 0, now > 0) {
            (false, true) => {
                self.shared.users.fetch_add(1, Relaxed);
            }
            (true, false) => {
                self.shared.users.fetch_sub(1, Relaxed);
            }
            _ => {}
        }
        if now >= before {
            self.shared.used.fetch_add(now - before, Relaxed);
        } else {
            self.shared.used.fetch_sub(before - now, Relaxed);
        }
    }

    fn learn(average: &AtomicU32, seen: f32, least: f32, most: f32) {
        let before = f32::from_bits(average.load(Relaxed));
        let after = before + (seen.clamp(least, most) - before) * WEIGHT;
        average.store(after.to_bits(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Has another model that uses more than its share forget some blocks. A model that is in use at
    /// this moment is passed over, so nobody waits.
    fn take_from_others(&self, asks: &Knowledge, share: usize) -> bool {
        let Ok(all) = self.all.try_lock() else { return false };
        let others = all.iter().filter_map(Weak::upgrade);
        let others = others.filter(|one| !std::ptr::eq(&raw const **one, asks));
        let Some(largest) = others.max_by_key(|one| one.used.load(Relaxed)) else { return false };
        if largest.used.load(Relaxed) <= share {
            return false;
        }
        let Ok(mut state) = largest.state.try_lock() else { return false };
        let index = &mut state.index;
        // Many at once, so that this is rare.
        let mut is_evicted = false;
        for _ in 0..SOME {
            let Some(slot) = index.largest() else { break };
            is_evicted |= index.evict(slot);
        }
        largest.count(index);
        is_evicted
    }
}

impl State {
    /// The slot of a server that has not begun anew since it was last used.
    fn slot(&self, server: &Arc<Server>) -> Option<Slot> {
        let member = self.members.get(&Arc::as_ptr(server).addr())?;
        (member.starts == server.starts()).then_some(member.slot)
    }

    /// Drops what is known of a server.
    fn leave(&mut self, server: &Arc<Server>) {
        if let Some(member) = self.members.remove(&Arc::as_ptr(server).addr()) {
            self.index.drop_slot(member.slot);
        }
    }

    /// The slot of a server, a new one if it has none or has begun anew.
    fn join(&mut self, server: &Arc<Server>) -> Slot {
        if let Some(slot) = self.slot(server) {
            return slot;
        }
        let Self { index, members } = self;
        members.retain(|address, member| {
            let stays = member.server.strong_count() > 0 && *address != Arc::as_ptr(server).addr();
            if !stays {
                index.drop_slot(member.slot);
            }
            stays
        });
        let slot = index.join();
        let member = Member {
            slot,
            starts: server.starts(),
            engine_started: None,
            server: Arc::downgrade(server),
        };
        members.insert(Arc::as_ptr(server).addr(), member);
        slot
    }
}

/// Keeps those of many candidates that know most, those with the least load, and the one that
/// rendezvous hashing gives. Returns their places.
fn some(path: &Path, known: &mut Known, standings: &mut Vec<Standing>) -> Vec<usize> {
    let mut places: Vec<usize> = (0..standings.len()).collect();
    let load = |at: &usize| standings[*at].outstanding + IN_FLIGHT * standings[*at].in_flight;
    let mut kept = Vec::with_capacity(2 * SOME + 1);
    let by_load = |one: &usize, other: &usize| load(one).total_cmp(&load(other));
    places.select_nth_unstable_by(SOME, by_load);
    kept.extend_from_slice(&places[..SOME]);
    let by_knowledge = |one: &usize, other: &usize| {
        known.blocks[*other].cmp(&known.blocks[*one]).then(by_load(one, other))
    };
    places.select_nth_unstable_by(SOME, by_knowledge);
    kept.extend_from_slice(&places[..SOME]);
    let decider = path.steps().get(known.ways.len()).or(path.steps().last());
    let home = decider.and_then(|step| {
        (0..standings.len()).max_by_key(|at| hash(step.hash, &standings[*at].name.to_le_bytes()))
    });
    kept.extend(home);
    kept.sort_unstable();
    kept.dedup();
    known.blocks = kept.iter().map(|at| known.blocks[*at]).collect();
    *standings = kept.iter().map(|at| standings[*at]).collect();
    kept
}

/// What a server had been sent of a prompt before.
#[derive(Clone, Copy, Debug)]
struct Earlier {
    slot: Slot,
    /// The tokens of it, and with which request the last of them came.
    tokens: f32,
    turn: Turn,
    /// With which request the last tokens came that the engine was expected to have in its cache, if it
    /// had computed them by then.
    kept: Option<Turn>,
}

impl Earlier {
    /// `open` is the number of the first request whose prefill may not be done.
    fn of(
        before: &Before,
        slot: Slot,
        open: Option<Turn>,
        tokens_of: impl Fn(usize) -> f32,
    ) -> Self {
        let is_computed = |turn: &Turn| open.is_some_and(|open| turn.is_before(open));
        Self {
            slot,
            tokens: tokens_of(before.blocks as usize),
            turn: before.turn,
            kept: before.kept.filter(is_computed),
        }
    }
}

/// A request that was sent, until it is dropped at its end.
#[derive(Debug)]
pub struct Sent {
    knowledge: Weak<Knowledge>,
    server: Arc<Server>,
    debt: Option<Debt>,
    tokens: u32,
    choice: Option<Choice>,
    earlier: Option<Earlier>,
    /// The bytes that the engine's count of tokens tells about; 0 if it tells nothing.
    text: usize,
    now: Instant,
}

impl Sent {
    /// The choice behind it; `None` if the prompt was not looked at.
    pub fn choice(&self) -> Option<&Choice> {
        self.choice.as_ref()
    }

    /// Notes that the first content came; further calls change nothing.
    pub fn first_content(&mut self, now: Instant) {
        self.now = now;
        let Some(debt) = self.debt.take() else { return };
        let rate = self.server.settle(&debt, true, now);
        if let (Some(rate), Some(knowledge)) = (rate, self.knowledge.upgrade())
            && self.tokens >= TELLING
        {
            Knowledge::learn(&knowledge.rate, rate, 100.0, 1e6);
        }
    }

    /// Notes that the answer is an error, which comes out of turn. Later calls change nothing.
    pub fn failed(&mut self, now: Instant) {
        self.now = now;
        if let Some(debt) = self.debt.take() {
            self.server.settle(&debt, false, now);
        }
    }

    /// Notes how many tokens the engine counted in the prompt, and how many of these it had in its cache,
    /// if it tells.
    pub fn usage(&self, prompt_tokens: u32, cached_tokens: Option<u32>) {
        if let Some(knowledge) = self.knowledge.upgrade()
            && self.text >= BLOCK
            && prompt_tokens > 0
        {
            let seen = self.text as f32 / prompt_tokens as f32;
            Knowledge::learn(&knowledge.bytes_per_token, seen, 1.0, 16.0);
            if let (Some(cached), Some(choice), Some(earlier)) =
                (cached_tokens, &self.choice, &self.earlier)
            {
                if cached > 0 {
                    knowledge.tells.store(true, Relaxed);
                }
                // A share, since only the engine knows the number of tokens.
                let share = cached as f32 / prompt_tokens as f32;
                let doubt =
                    choice.tokens as f32 * DOUBT + BLOCK as f32 / knowledge.bytes_per_token();
                let told = share * choice.tokens as f32;
                knowledge.told(&self.server, earlier, choice.known_tokens as f32, told, doubt);
            }
        }
    }

    /// Notes that the request ended at this time. Without this call, dropping it counts as an end at
    /// the time of the last call.
    pub fn ended(mut self, now: Instant) {
        self.now = now;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(debt) = self.debt.take() {
            self.server.settle(&debt, false, self.now);
        }
    }
}
