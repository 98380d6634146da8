//! Which blocks each server of one model knows: an exact LRU for each server, over one table.
//!
//! The newest part of an LRU is what the server is presumed to *keep*: all of it, until the engine
//! tells that it computed what it had been sent before. The rest is remembered, so that the part can
//! grow again.

use hashbrown::HashTable;

use super::path::Step;
use crate::random;

/// No place in a list.
const NONE: u32 = u32::MAX;
/// How many holdings of a dropped set are given back with each change.
const REAPED: usize = 64;
/// How many holdings one answer may put on the other side of the border, since others wait meanwhile.
const MOVED: u32 = 4096;

/// A server's number in an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot(u32);

/// The blocks that the servers of one model know.
///
/// A block that several servers know is in the table once, and each pair of a block and a server is a
/// *holding*. A server's holdings are in the order of their last use.
#[derive(Debug)]
pub(super) struct Index {
    /// Where a hash is found in the tables. The key is random, so that nobody can choose prompts whose
    /// hashes lie in one place.
    key: u64,
    by_hash: HashTable<u32>,
    by_pair: HashTable<u32>,
    blocks: Slab<Block>,
    holdings: Slab<Holding>,
    slots: Vec<Held>,
    /// Slots whose set was dropped and is not given back yet.
    dropped: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    hash: u64,
    /// For each server that is presumed to keep the block, the bit of its slot modulo 64.
    filter: u64,
    /// How often the known part of a path ended here although the path went on.
    ways: u32,
    /// How many servers know the block.
    holders: u32,
}

#[derive(Clone, Copy, Debug)]
struct Holding {
    block: u32,
    slot: Slot,
    newer: u32,
    older: u32,
    mark: Mark,
}

/// The number of a request at a server. The numbers wrap after 2^31 requests, so a comparison holds for
/// two numbers that are less than 2^30 requests apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn(u32);

impl Turn {
    pub(super) const fn new(number: u64) -> Self {
        Self(number as u32 & Mark::TURN)
    }

    /// Whether this is the number of an earlier request.
    pub(super) const fn is_before(self, other: Self) -> bool {
        let ahead = other.0.wrapping_sub(self.0) & Mark::TURN;
        0 < ahead && ahead <= Mark::TURN / 2
    }
}

/// When a block was last sent, and whether it is presumed to be kept, in one word.
#[derive(Clone, Copy, Debug)]
struct Mark(u32);

impl Mark {
    const TURN: u32 = u32::MAX >> 1;

    const fn new(turn: Turn, is_kept: bool) -> Self {
        Self(if is_kept { turn.0 | !Self::TURN } else { turn.0 })
    }

    const fn turn(self) -> Turn {
        Turn(self.0 & Self::TURN)
    }

    const fn is_kept(self) -> bool {
        self.0 & !Self::TURN != 0
    }
}

/// What a server had been sent of a path before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// How many blocks from the front.
    pub(super) blocks: u32,
    /// When the last one of them was sent.
    pub(super) turn: Turn,
    /// When the last one was sent that the server is presumed to keep.
    pub(super) kept: Option<Turn>,
}

/// The holdings of one server.
#[derive(Clone, Copy, Debug)]
struct Held {
    newest: u32,
    oldest: u32,
    len: u32,
    /// How many of the newest are presumed to be kept, and the oldest of these.
    kept: u32,
    border: u32,
    /// How many the engine keeps, as far as it told.
    most: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Used,
    Dropped,
}

/// What an index knows of a path.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// For each candidate, how many blocks from the front it is presumed to keep.
    pub(super) blocks: Vec<u32>,
    /// The ways at the end of each block that some candidate keeps.
    pub(super) ways: Vec<u32>,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            key: random::seed(),
            by_hash: HashTable::new(),
            by_pair: HashTable::new(),
            blocks: Slab::new(),
            holdings: Slab::new(),
            slots: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// How many holdings there are.
    pub(super) fn len(&self) -> usize {
        self.holdings.len()
    }

    /// How many values there is room for in all lists and tables.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.by_hash.capacity()
            + self.by_pair.capacity()
            + self.blocks.capacity()
            + self.holdings.capacity()
            + self.slots.capacity()
            + self.dropped.capacity()
    }

    /// A slot for a server of which nothing is known.
    pub(super) fn join(&mut self) -> Slot {
        let joined = Held {
            newest: NONE,
            oldest: NONE,
            len: 0,
            kept: 0,
            border: NONE,
            most: u32::MAX,
            state: State::Used,
        };
        match self.slots.iter().position(|slot| slot.state == State::Free) {
            Some(free) => {
                self.slots[free] = joined;
                Slot(free as u32)
            }
            None => {
                self.slots.push(joined);
                Slot(self.slots.len() as u32 - 1)
            }
        }
    }

    /// Gives up what a server knows. The memory comes back little by little, since a large set takes
    /// longer than others may wait for.
    pub(super) fn drop_slot(&mut self, slot: Slot) {
        self.slots[slot.0 as usize].state = State::Dropped;
        self.dropped.push(slot);
    }

    /// Gives back some of what was dropped.
    pub(super) fn reap(&mut self) {
        for _ in 0..REAPED {
            let Some(slot) = self.dropped.last().copied() else { return };
            if !self.evict(slot) {
                self.slots[slot.0 as usize].state = State::Free;
                self.dropped.pop();
            }
        }
    }

    /// How much of a path each of these servers is presumed to keep.
    pub(super) fn known(&self, steps: &[Step], candidates: &[Option<Slot>], known: &mut Known) {
        known.blocks.clear();
        known.blocks.resize(candidates.len(), 0);
        known.ways.clear();
        let wanted = candidates.iter().flatten().fold(0, |bits, slot| bits | bit(*slot));
        // With at most 64 slots a bit of the filter is one server. With more it is several, and then a
        // look at the pairs decides.
        let is_exact = self.slots.len() <= 64;
        // The path up to where each bit of the filter is set.
        let mut reach = [0_u32; 64];
        let mut ids = Vec::new();
        let mut left = wanted;
        for (at, step) in steps.iter().enumerate() {
            let Some(id) = self.find(step.hash) else { break };
            let block = self.blocks.get(id);
            let mut gone = left & !block.filter;
            left &= block.filter;
            while gone != 0 {
                reach[gone.trailing_zeros() as usize] = at as u32;
                gone &= gone - 1;
            }
            if left == 0 {
                break;
            }
            known.ways.push(block.ways);
            if !is_exact {
                ids.push(id);
            }
        }
        while left != 0 {
            reach[left.trailing_zeros() as usize] = known.ways.len() as u32;
            left &= left - 1;
        }
        for (blocks, slot) in known.blocks.iter_mut().zip(candidates) {
            let Some(slot) = slot else { continue };
            let most = reach[slot.0 as usize % 64];
            *blocks = if is_exact {
                most
            } else {
                // No block is younger than one before it, so the kept part is found by halving.
                ids[..most as usize].partition_point(|id| self.is_kept(*id, *slot)) as u32
            };
        }
        let longest = known.blocks.iter().copied().max().unwrap_or(0);
        known.ways.truncate(longest as usize);
    }

    /// Notes that a server was sent a path, of which `known` blocks were known somewhere, with its request
    /// of this number. `room` says for each further holding whether it may be added; if not, `self` must
    /// evict one first. Returns what the server had been sent of the path before.
    pub(super) fn touch(
        &mut self,
        steps: &[Step],
        known: usize,
        slot: Slot,
        turn: Turn,
        mut room: impl FnMut(&mut Self) -> bool,
    ) -> Option<Before> {
        if known > 0
            && known < steps.len()
            && let Some(id) = self.find(steps[known - 1].hash)
        {
            let ways = &mut self.blocks.get_mut(id).ways;
            *ways = ways.saturating_add(1);
        }
        let mut before: Option<Before> = None;
        // The last block first, so that what is forgotten is always a tail.
        for (at, step) in steps.iter().enumerate().rev() {
            let held = self.find(step.hash).and_then(|id| self.holding(id, slot));
            match held {
                Some(holding) => {
                    let mark = self.holdings.get(holding).mark;
                    let last = Before { blocks: at as u32 + 1, turn: mark.turn(), kept: None };
                    let before = before.get_or_insert(last);
                    if before.kept.is_none() && mark.is_kept() {
                        before.kept = Some(mark.turn());
                    }
                    self.unlink(holding);
                    self.link(holding, slot, turn);
                }
                None if room(self) => self.hold(step.hash, slot, turn),
                None => {}
            }
        }
        self.draw_border(slot);
        before
    }

    /// Notes that an engine has evicted so many blocks, which this request was the last to send. The engine
    /// has evicted all blocks that are as old, too.
    ///
    /// The frontend gives up a quarter of these blocks only. An engine evicts more while many requests run,
    /// and a block that the frontend gave up by mistake is hard to win back: later requests for the block
    /// go to another engine, so no answer of this engine shows that the block is there.
    pub(super) fn gave_up(&mut self, slot: Slot, turn: Turn, blocks: u32) {
        let Held { border, kept, .. } = self.slots[slot.0 as usize];
        let (mut at, mut gone) = (border, blocks.min(kept));
        while at != NONE && gone < 4 * MOVED && !turn.is_before(self.turn(at)) {
            at = self.holdings.get(at).newer;
            gone += 1;
        }
        self.slots[slot.0 as usize].most = kept - gone.min(kept) / 4;
        self.draw_border(slot);
    }

    /// Notes that an engine still had the blocks which this request was the last to send, although they
    /// were presumed to be evicted. All blocks that were sent later are presumed to be there as well.
    pub(super) fn still_had(&mut self, slot: Slot, turn: Turn) {
        for _ in 0..MOVED {
            let Held { border, newest, .. } = self.slots[slot.0 as usize];
            let next = if border == NONE { newest } else { self.holdings.get(border).older };
            if next == NONE || self.turn(next).is_before(turn) {
                break;
            }
            self.set_kept(next, true);
            let held = &mut self.slots[slot.0 as usize];
            held.kept += 1;
            held.border = next;
        }
        let held = &mut self.slots[slot.0 as usize];
        held.most = held.most.max(held.kept);
    }

    /// Gives up what a server is presumed to keep beyond what its engine keeps.
    fn draw_border(&mut self, slot: Slot) {
        loop {
            let Held { border, kept, most, .. } = self.slots[slot.0 as usize];
            if kept <= most {
                return;
            }
            self.set_kept(border, false);
            let newer = self.holdings.get(border).newer;
            let held = &mut self.slots[slot.0 as usize];
            held.kept -= 1;
            held.border = newer;
        }
    }

    fn set_kept(&mut self, holding: u32, is_kept: bool) {
        let one = self.holdings.get_mut(holding);
        one.mark = Mark::new(one.mark.turn(), is_kept);
        let Holding { block, slot, .. } = *one;
        if is_kept {
            self.blocks.get_mut(block).filter |= bit(slot);
        } else {
            self.unmark(block, slot);
        }
    }

    /// Takes a server's bit from a block that it does not keep, unless a server with the same bit does.
    fn unmark(&mut self, block: u32, slot: Slot) {
        let mut alike = (slot.0 % 64..self.slots.len() as u32).step_by(64).map(Slot);
        if !alike.any(|other| other != slot && self.is_kept(block, other)) {
            self.blocks.get_mut(block).filter &= !bit(slot);
        }
    }

    fn is_kept(&self, block: u32, slot: Slot) -> bool {
        self.holding(block, slot).is_some_and(|at| self.holdings.get(at).mark.is_kept())
    }

    fn turn(&self, holding: u32) -> Turn {
        self.holdings.get(holding).mark.turn()
    }

    /// Forgets the block that a server has used least recently; `false` if it knows none.
    pub(super) fn evict(&mut self, slot: Slot) -> bool {
        let oldest = self.slots[slot.0 as usize].oldest;
        if oldest == NONE {
            return false;
        }
        self.unlink(oldest);
        let id = self.holdings.get(oldest).block;
        let pair = self.place_of_pair(id, slot);
        if let Ok(found) = self.by_pair.find_entry(pair, |other| *other == oldest) {
            found.remove();
        }
        self.holdings.free(oldest);
        let block = self.blocks.get_mut(id);
        block.holders -= 1;
        let hash = block.hash;
        if block.holders == 0 {
            let place = self.place_of_hash(hash);
            if let Ok(found) = self.by_hash.find_entry(place, |other| *other == id) {
                found.remove();
            }
            self.blocks.free(id);
        } else {
            self.unmark(id, slot);
        }
        true
    }

    /// The server whose set is to shrink before this server's set grows: one whose set was dropped, this
    /// one if its set is of at least average size, else the one with the largest set.
    pub(super) fn to_shrink(&self, slot: Slot) -> Slot {
        if let Some(dropped) = self.dropped.iter().find(|one| self.slots[one.0 as usize].len > 0) {
            return *dropped;
        }
        let used = self.slots.iter().filter(|one| one.state == State::Used).count();
        if self.slots[slot.0 as usize].len as usize * used >= self.len() {
            return slot;
        }
        self.largest().unwrap_or(slot)
    }

    /// The server that knows most.
    pub(super) fn largest(&self) -> Option<Slot> {
        let largest = self.slots.iter().enumerate().max_by_key(|(_, one)| one.len)?;
        Some(Slot(largest.0 as u32))
    }

    fn hold(&mut self, hash: u64, slot: Slot, turn: Turn) {
        let id = self.find(hash).unwrap_or_else(|| {
            let id = self.blocks.add(Block { hash, filter: 0, ways: 0, holders: 0 });
            let (key, blocks) = (self.key, &self.blocks);
            let place_of = |id: &u32| place(key, blocks.get(*id).hash);
            self.by_hash.insert_unique(place(key, hash), id, place_of);
            id
        });
        self.blocks.get_mut(id).holders += 1;
        let mark = Mark::new(turn, false);
        let holding =
            self.holdings.add(Holding { block: id, slot, newer: NONE, older: NONE, mark });
        let (key, holdings) = (self.key, &self.holdings);
        let place_of = |holding: &u32| {
            let holding = holdings.get(*holding);
            place(key, pair(holding.block, holding.slot))
        };
        self.by_pair.insert_unique(place(key, pair(id, slot)), holding, place_of);
        self.link(holding, slot, turn);
    }

    fn find(&self, hash: u64) -> Option<u32> {
        let is_it = |id: &u32| self.blocks.get(*id).hash == hash;
        self.by_hash.find(self.place_of_hash(hash), is_it).copied()
    }

    fn holding(&self, block: u32, slot: Slot) -> Option<u32> {
        let is_it = |at: &u32| {
            let holding = self.holdings.get(*at);
            holding.block == block && holding.slot == slot
        };
        self.by_pair.find(self.place_of_pair(block, slot), is_it).copied()
    }

    fn place_of_hash(&self, hash: u64) -> u64 {
        place(self.key, hash)
    }

    fn place_of_pair(&self, block: u32, slot: Slot) -> u64 {
        place(self.key, pair(block, slot))
    }

    /// Makes a holding the newest one of its server.
    fn link(&mut self, holding: u32, slot: Slot, turn: Turn) {
        let held = &mut self.slots[slot.0 as usize];
        let next = held.newest;
        held.newest = holding;
        held.len += 1;
        held.kept += 1;
        if held.border == NONE {
            held.border = holding;
        }
        if next == NONE {
            held.oldest = holding;
        } else {
            self.holdings.get_mut(next).newer = holding;
        }
        let one = self.holdings.get_mut(holding);
        (one.newer, one.older) = (NONE, next);
        one.mark = Mark::new(turn, true);
        let block = one.block;
        self.blocks.get_mut(block).filter |= bit(slot);
    }

    fn unlink(&mut self, holding: u32) {
        let Holding { slot, newer, older, mark, .. } = *self.holdings.get(holding);
        let held = &mut self.slots[slot.0 as usize];
        held.len -= 1;
        if mark.is_kept() {
            held.kept -= 1;
            if held.border == holding {
                held.border = newer;
            }
        }
        if newer == NONE {
            held.newest = older;
        }
        if older == NONE {
            held.oldest = newer;
        }
        if newer != NONE {
            self.holdings.get_mut(newer).older = older;
        }
        if older != NONE {
            self.holdings.get_mut(older).newer = newer;
        }
    }
}

fn bit(slot: Slot) -> u64 {
    1 << (slot.0 % 64)
}

fn pair(block: u32, slot: Slot) -> u64 {
    u64::from(block) << 32 | u64::from(slot.0)
}

/// Where a value lies in a table with this key: a folded product.
fn place(key: u64, value: u64) -> u64 {
    let product = u128::from(value ^ key) * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

/// Values at fixed places, which are used again.
#[derive(Debug)]
struct Slab<T> {
    values: Vec<T>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    const fn new() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }

    fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.values.capacity() + self.free.capacity()
    }

    fn get(&self, at: u32) -> &T {
        &self.values[at as usize]
    }

    fn get_mut(&mut self, at: u32) -> &mut T {
        &mut self.values[at as usize]
    }

    fn add(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.values[at as usize] = value;
                at
            }
            None => {
                self.values.push(value);
                self.values.len() as u32 - 1
            }
        }
    }

    fn free(&mut self, at: u32) {
        self.free.push(at);
    }
}
