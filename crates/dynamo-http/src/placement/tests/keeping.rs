//! Tests of what an engine is presumed to keep, as its counts of cached tokens tell.

use super::*;

/// What a list says that the index must say, for one server.
#[derive(Default)]
struct List {
    /// The blocks with the requests that they last came with, the newest in front.
    blocks: VecDeque<((u64, usize), u64)>,
    kept: usize,
    most: Option<usize>,
}

impl List {
    fn touch(&mut self, block: (u64, usize), turn: u64) {
        let place = self.blocks.iter().position(|one| one.0 == block);
        if let Some(place) = place {
            self.blocks.remove(place);
        }
        if place.is_none_or(|place| place >= self.kept) {
            self.kept += 1;
        }
        self.blocks.push_front((block, turn));
    }

    fn gave_up(&mut self, turn: u64, blocks: usize) {
        let kept = self.blocks.iter().take(self.kept).rev();
        let as_old = kept.take_while(|one| one.1 <= turn).count();
        self.kept -= (as_old + blocks.min(self.kept)).min(self.kept) / 4;
        self.most = Some(self.kept);
    }

    fn still_had(&mut self, turn: u64) {
        let gone = self.blocks.iter().skip(self.kept);
        self.kept += gone.take_while(|one| one.1 >= turn).count();
        self.most = self.most.map(|most| most.max(self.kept));
    }

    fn keeps(&self, block: (u64, usize)) -> bool {
        self.blocks.iter().take(self.kept).any(|one| one.0 == block)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Touch,
    GaveUp,
    StillHad,
}

#[test]
fn the_index_keeps_what_a_list_of_the_size_that_engines_tell_keeps() {
    let paths: Vec<_> = (0..6).map(|name| path(&[&text(name, 12 * BLOCK)])).collect();
    let step =
        prop_oneof![3 => Just(Step::Touch), 1 => Just(Step::GaveUp), 1 => Just(Step::StillHad)];
    proptest!(|(
        slots in prop_oneof![Just(2_usize), Just(70)],
        first in prop_oneof![Just(0_u64), Just(u64::from(u32::MAX >> 1) - 20)],
        steps in vec((step, 0..6_u64, 1..12_usize, any::<prop::sample::Index>(), 0..30_u64), 1..60),
    )| {
        let mut index = Index::new();
        let ids: Vec<_> = (0..slots).map(|_| index.join()).collect();
        let mut lists: Vec<_> = (0..slots).map(|_| List::default()).collect();
        for (turn, (step, name, length, slot, ago)) in (first..).zip(steps) {
            // Few of many, so that they meet.
            let slot = slot.index(2) * (slots - 1);
            let list = &mut lists[slot];
            let earlier = turn.saturating_sub(ago);
            match step {
                Step::Touch => {
                    let steps = &paths[name as usize].steps()[..length];
                    index.touch(steps, 0, ids[slot], Turn::new(turn), |_| true);
                    (0..length).rev().for_each(|block| list.touch((name, block), turn));
                    list.kept = list.kept.min(list.most.unwrap_or(usize::MAX));
                }
                Step::GaveUp => {
                    index.gave_up(ids[slot], Turn::new(earlier), length as u32);
                    list.gave_up(earlier, length);
                }
                Step::StillHad => {
                    index.still_had(ids[slot], Turn::new(earlier));
                    list.still_had(earlier);
                }
            }
            let candidates: Vec<_> = ids.iter().copied().map(Some).collect();
            let mut known = Known::default();
            for (name, path) in (0..).zip(&paths) {
                index.known(path.steps(), &candidates, &mut known);
                for (blocks, list) in known.blocks.iter().zip(&lists) {
                    let expected = (0..12).take_while(|at| list.keeps((name, *at))).count();
                    prop_assert_eq!(*blocks as usize, expected);
                }
            }
        }
    });
}

/// An engine that keeps the last prompts only, behind a front door that knows it by what it tells.
struct Told {
    knowledge: Arc<Knowledge>,
    servers: Vec<Arc<Server>>,
    now: Instant,
}

impl Told {
    fn new() -> Self {
        let now = Instant::now();
        Self { knowledge: placement(100_000).knowledge(), servers: servers(1, now), now }
    }

    /// Sends a prompt of ten blocks, and has the engine tell which share of it was cached. Returns what
    /// was expected of 2560 tokens.
    fn send(&self, name: u64, cached_percent: u32) -> u32 {
        let (begun, expected) = self.begin(name);
        self.end(begun, cached_percent);
        expected
    }

    fn begin(&self, name: u64) -> (Sent, u32) {
        let path = path(&[&text(name, 10 * BLOCK)]);
        let choice = self.knowledge.choose(ask(&path), &idle(&self.servers), self.now).unwrap();
        let sent = self.knowledge.begun(ask(&path), &choice, &self.servers[0], true, self.now);
        (sent, choice.known_tokens)
    }

    fn end(&self, mut sent: Sent, cached_percent: u32) {
        sent.first_content(self.now);
        sent.usage(2560, Some(2560 * cached_percent / 100));
    }
}

#[test]
fn what_an_engine_computed_again_is_no_longer_expected_and_what_it_still_had_is() {
    let told = Told::new();
    (0..40).for_each(|name| assert_eq!(told.send(name, 0), 0));
    assert_eq!(told.send(39, 100), 2560);
    // The engine keeps fewer than forty prompts: that is learned with a few of them.
    let expected: Vec<_> = (0..12).map(|name| told.send(name, 0)).collect();
    assert!(expected[0] == 2560 && expected.is_sorted_by(|one, next| one >= next), "{expected:?}");
    assert!(expected[11] < 1024, "{expected:?}");
    // What was sent last is expected all the same.
    assert_eq!(told.send(11, 100), 2560);
    // Then it still had what it was not expected to have, so what is younger is expected again.
    assert!(told.send(12, 100) < 1024);
    assert_eq!(told.send(13, 100), 2560);
}

#[test]
fn an_engine_that_never_tells_of_cached_tokens_changes_no_expectation() {
    let told = Told::new();
    (0..40).for_each(|name| assert_eq!(told.send(name, 0), 0));
    (0..40).for_each(|name| assert_eq!(told.send(name, 0), 2560));
}

#[test]
fn a_prompt_that_was_not_computed_yet_says_nothing_about_what_is_kept() {
    let told = Told::new();
    (0..10).for_each(|name| assert_eq!(told.send(name, 0), 0));
    assert_eq!(told.send(9, 100), 2560);
    let (first, _) = told.begin(100);
    // The engine has not read the first prompt when the second one, the same, is looked up.
    let (second, expected) = told.begin(100);
    assert_eq!(expected, 2560);
    told.end(first, 0);
    told.end(second, 0);
    (0..10).for_each(|name| assert_eq!(told.send(name, 100), 2560));
}

#[test]
fn a_server_owes_less_while_it_reads() {
    let now = Instant::now();
    let (knowledge, servers) = (placement(1000).knowledge(), servers(1, now));
    let after = |tenths: u64| now + Duration::from_millis(100 * tenths);
    let owed = |at: u64| servers[0].outstanding(10_000.0, after(at)).round() as u32;
    let begin = || knowledge.begun_blindly(20_000, &servers[0], true, now);
    let (mut first, second) = (begin(), begin());
    assert_eq!([0, 1, 4, 9].map(owed), [10_000, 9000, 6000, 5000], "the second one waits");
    first.first_content(after(9));
    assert_eq!([9, 11, 99].map(owed), [5000, 3000, 0]);
    drop((first, second));
    assert_eq!(owed(9), 0);
}
