//! What a store holds and held: generations of history, over a few keys whose meaning is known by
//! how they are made and not by reading them.

use std::sync::LazyLock;

use bytes::Bytes;
use dynamo_discovery::{Change, Entry, Key, KeyRange, Kind, Kinds, LeaseId, Revision, Stamp};
use dynamo_namespace::NamespaceScope;
use fastrand::Rng;

/// How many keys there are: of team-a, flat ones, of its neighbours, and one that is no key at all.
pub const KEYS: usize = 10;
/// How many values each can have.
pub const VALUES: usize = 7;

/// Which value a key has, and since when; nothing where it is not there.
pub type State = [Option<(u8, u64)>; KEYS];

/// Who looks, and at what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Eye {
    /// One namespace, of which every key under the root is asked for.
    Value,
    /// The same, of which only its own keys are asked for.
    Key,
    /// Everyone.
    All,
}

/// What an entry is to those who may see it.
#[derive(Debug, PartialEq)]
pub struct Live {
    pub namespace: &'static str,
    pub model: &'static str,
    pub kinds: Kinds,
    pub created: u64,
}

struct Made {
    key: Key,
    values: [(Bytes, Option<Live>); VALUES],
}

static MADE: LazyLock<[Made; KEYS]> = LazyLock::new(|| std::array::from_fn(make));

/// Whose the keys are: four native ones, two flat ones, three of neighbours, and a malformed one.
const OWNERS: [Option<&str>; KEYS] = [
    Some("team-a"),
    Some("team-a"),
    Some("team-a"),
    Some("team-a"),
    None,
    None,
    Some("team-b"),
    Some("team-ab"),
    Some("Team-A"),
    Some(""),
];
const MODELS: [&str; 3] = ["m", "n", "o"];

fn make(index: usize) -> Made {
    let (owner, model) = (OWNERS[index], MODELS[index % MODELS.len()]);
    let key = match owner {
        Some("") => "models/team-a/odd".to_owned(),
        Some(owner) => format!("models/{owner}/backend/generate/{index}/{model}"),
        None => format!("models/flat-{index}"),
    };
    let value = |namespace: &str, kinds: &str, fields: &str| -> Bytes {
        format!(
            r#"{{"name":"{model}","endpoint":{{"namespace":"{namespace}","component":"backend","name":"generate"}},"model_type":"{kinds}","url":"http://h{index}"{fields}}}"#
        )
        .into()
    };
    let live = |namespace, kinds: &str, created| {
        let kinds = Kinds::parse(kinds).kinds;
        (owner != Some("")).then_some(Live { namespace, model, kinds, created })
    };
    // A flat key is whose its value says, first of all team-a's.
    let own = owner.filter(|owner| !owner.is_empty()).unwrap_or("team-a");
    let values = [
        (value(own, "Chat", r#","created":1"#), live(own, "Chat", 1)),
        (value(own, "Chat", r#","created":2"#), live(own, "Chat", 2)),
        (value(own, "Completions", r#","created":3"#), live(own, "Completions", 3)),
        (value(own, "Chat | Embedding", r#","created":4"#), live(own, "Chat | Embedding", 4)),
        (value(own, "Chat", r#","state":"draining""#), None),
        // In a native key this contradicts it; a flat one moves to the neighbour.
        (
            value("team-b", "Chat", r#","created":5"#),
            if owner.is_none() || owner == Some("team-b") {
                live("team-b", "Chat", 5)
            } else {
                None
            },
        ),
        ("{".into(), None),
    ];
    Made { key: key.into(), values }
}

/// The key of this number.
pub fn key(index: usize) -> &'static Key {
    &MADE[index].key
}

impl Eye {
    /// What the watcher is told of it.
    pub fn scope(self) -> NamespaceScope {
        let target = if self == Self::All { None } else { Some("team-a") };
        NamespaceScope::from_target(target).unwrap()
    }

    /// What of a state it must see, by key.
    pub fn sees(self, state: &State) -> impl Iterator<Item = (&'static Key, &'static Live)> {
        state.iter().enumerate().filter_map(move |(index, slot)| {
            let live = MADE[index].values[usize::from((*slot)?.0)].1.as_ref()?;
            let visible = match self {
                Self::All => true,
                Self::Value => live.namespace == "team-a",
                Self::Key => live.namespace == "team-a" && OWNERS[index].is_some(),
            };
            visible.then_some((key(index), live))
        })
    }

    /// The kinds that must be open.
    pub fn open(self, state: &State) -> Kinds {
        self.sees(state).fold(Kinds::NONE, |kinds, (_, live)| kinds | live.kinds)
    }
}

/// Kinds that a test can ask for.
pub const KINDS: [Kind; 3] = [Kind::Chat, Kind::Completions, Kind::Embedding];

/// Where in the history of which store.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct At {
    pub generation: usize,
    pub revision: u64,
}

/// A store's life, and those of the stores that it replaced.
#[derive(Debug)]
pub struct World {
    generations: Vec<History>,
}

#[derive(Debug)]
struct History {
    /// The revision of the first state.
    first: u64,
    states: Vec<State>,
    /// Watches can begin from here on.
    compacted: u64,
}

impl World {
    pub fn new() -> Self {
        Self { generations: vec![History::new(1)] }
    }

    fn history(&self) -> &History {
        self.generations.last().unwrap()
    }

    /// Now.
    pub fn now(&self) -> At {
        At { generation: self.generations.len() - 1, revision: self.history().last() }
    }

    pub fn state(&self, at: At) -> &State {
        self.generations[at.generation].state(at.revision)
    }

    /// From which revision on watches can begin now.
    pub fn compacted(&self) -> u64 {
        self.history().compacted
    }

    /// One revision: values for some keys, or their end.
    pub fn write(&mut self, changes: &[(usize, Option<u8>)]) {
        let history = self.generations.last_mut().unwrap();
        let mut state = *history.states.last().unwrap();
        let revision = history.last() + 1;
        for (index, value) in changes {
            state[*index] = value.map(|value| (value, revision));
        }
        history.states.push(state);
    }

    pub fn compact(&mut self, rng: &mut Rng) {
        let history = self.generations.last_mut().unwrap();
        history.compacted = rng.u64(history.compacted..=history.last());
    }

    /// A new store in the place of the old one: it begins anew, or far ahead.
    pub fn replace(&mut self, rng: &mut Rng) {
        let ahead = self.now().revision + rng.u64(0..3);
        let first = if rng.bool() { 1 } else { ahead };
        self.generations.push(History::new(first));
    }

    /// What the keys of a range are, as of a revision.
    pub fn entries(&self, at: At, range: &KeyRange) -> Vec<Entry> {
        let state = self.state(at).iter().enumerate();
        let entries = state.filter_map(|(index, slot)| Some(entry(index, (*slot)?, at.generation)));
        let mut entries: Vec<_> = entries.filter(|entry| range.contains(&entry.key)).collect();
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        entries
    }

    /// What one revision of the present history changed in a range.
    pub fn changes(&self, revision: u64, range: &KeyRange) -> impl Iterator<Item = Change> {
        let (history, generation) = (self.history(), self.now().generation);
        let (before, after) = (history.state(revision - 1), history.state(revision));
        (0..KEYS).filter(move |index| range.contains(key(*index))).filter_map(move |index| {
            if before[index] == after[index] {
                return None;
            }
            Some(match after[index] {
                Some(slot) => Change::Put(entry(index, slot, generation)),
                None => Change::Delete(key(index).clone()),
            })
        })
    }

    /// What had last written a key, as of a revision; nothing where it was not there.
    pub fn written(&self, wanted: &Key, revision: u64) -> Option<Stamp> {
        let history = self.history();
        let state = (revision >= history.first).then(|| history.state(revision))?;
        let index = (0..KEYS).find(|index| key(*index) == wanted)?;
        state[index].map(|slot| entry(index, slot, self.now().generation).stamp())
    }
}

impl History {
    fn new(first: u64) -> Self {
        Self { first, states: vec![State::default()], compacted: first }
    }

    fn last(&self) -> u64 {
        self.first + self.states.len() as u64 - 1
    }

    fn state(&self, revision: u64) -> &State {
        &self.states[usize::try_from(revision - self.first).unwrap()]
    }
}

/// An entry of a store; each grants leases of its own.
fn entry(index: usize, (value, revision): (u8, u64), generation: usize) -> Entry {
    Entry {
        key: key(index).clone(),
        value: MADE[index].values[usize::from(value)].0.clone(),
        mod_revision: Revision(revision),
        lease: Some(LeaseId(generation as i64 + 1)),
    }
}
