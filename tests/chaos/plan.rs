//! What goes wrong next. It follows from the seed alone, so a run's faults can be had again.

use std::time::Duration;

use dynamo_tests::Link;
use fastrand::Rng;

/// Something that goes wrong, and for how long.
#[derive(Clone, Debug)]
pub enum Fault {
    /// SIGKILL to members of the etcd, which are started again.
    KillNodes { first: usize, count: usize, time: Duration },
    /// SIGSTOP to members of the etcd.
    PauseNodes { first: usize, count: usize, time: Duration },
    /// The etcd forgets its history.
    Compact,
    /// The etcd loses everything, and begins anew.
    Wipe,
    /// Someone's way to the etcd, or to one member of it.
    Network { whose: usize, node: Option<usize>, link: Link, time: Duration },
    /// SIGKILL to a worker and its engine, which are started again.
    KillWorker { worker: usize, time: Duration },
    /// SIGTERM to a worker, which withdraws and drains; another one takes its place.
    StopWorker { worker: usize },
    /// SIGSTOP to a worker and its engine.
    PauseWorker { worker: usize, time: Duration },
    /// SIGSTOP to a frontend.
    PauseFrontend { frontend: usize, time: Duration },
    /// An entry is overwritten: another value, another namespace, no value at all, or it ends.
    Overwrite { key: usize, how: Hand },
    /// A neighbour comes or goes.
    Foreign { key: usize, there: bool },
    /// Someone writes what is no entry.
    Bad { key: usize },
    /// A worker dies with its engine, and an engine of another namespace starts at the same address,
    /// which is registered there or not.
    ReuseAddress { registered: bool },
    /// A member of the etcd has no space.
    NoSpace { node: usize, time: Duration },
    /// The etcd's authentication is switched on, and off again.
    Auth { node: usize, time: Duration },
    /// A frontend has no descriptors left, while others connect and say nothing.
    Descriptors { frontend: usize, time: Duration },
    /// Nobody reads the log of a program.
    StallLog { whose: usize, time: Duration },
    /// A long prefill, behind which `/health` of its engine waits. Others happen meanwhile.
    Prefill { frontend: usize, time: Duration },
    /// The name of a worker's engine leads elsewhere, or nowhere for some time.
    Name { how: Naming, time: Duration },
}

/// What happens to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// It leads to a new address, where the same engine is. A stranger takes the old address: `at_once`,
    /// or when all frontends have left it. The answer may begin with an address `beside_a_dead_one`.
    Moves { at_once: bool, beside_a_dead_one: bool },
    /// There is no such name.
    Unknown,
    /// The server of names cannot tell.
    Fails,
}

/// What a script does to its entry.
#[derive(Clone, Copy, Debug)]
pub enum Hand {
    Puts(u64),
    Moves,
    Spoils,
    Deletes,
}

/// How many keys scripts and neighbours have each.
pub const KEYS: usize = 6;

/// Draws a fault. The first of `workers` is only ever hit by what hits the etcd or the network.
pub fn next(rng: &mut Rng, workers: usize, frontends: usize, networks: usize) -> Fault {
    let time = |rng: &mut Rng, longest: u64| Duration::from_millis(rng.u64(200..longest));
    let node = rng.usize(..3);
    // One member, or the quorum with it.
    let count = if rng.u8(..4) == 0 { 2 } else { 1 };
    match rng.u8(..140) {
        0..10 => Fault::KillNodes { first: node, count, time: time(rng, 2_500) },
        10..20 => Fault::PauseNodes { first: node, count, time: time(rng, 5_000) },
        20..27 => Fault::Compact,
        27..31 => Fault::Wipe,
        31..51 => {
            let link = match rng.u8(..5) {
                0 => Link::Cut,
                1 => Link::BLACK_HOLE,
                2 => Link::Dark { requests: true, answers: false },
                3 => Link::Dark { requests: false, answers: true },
                _ => Link::Slow { delay: Duration::from_millis(rng.u64(10..200)), loss: 5 },
            };
            let node = rng.bool().then_some(node);
            Fault::Network { whose: rng.usize(..networks), node, link, time: time(rng, 4_500) }
        }
        51..60 => Fault::KillWorker { worker: rng.usize(1..workers), time: time(rng, 2_000) },
        60..67 => Fault::StopWorker { worker: rng.usize(1..workers) },
        67..74 => Fault::PauseWorker { worker: rng.usize(1..workers), time: time(rng, 4_000) },
        74..78 => Fault::PauseFrontend { frontend: rng.usize(..frontends), time: time(rng, 4_000) },
        78..88 => {
            let how = match rng.u8(..6) {
                0..3 => Hand::Puts(rng.u64(..1_000_000)),
                3 => Hand::Moves,
                4 => Hand::Spoils,
                _ => Hand::Deletes,
            };
            Fault::Overwrite { key: rng.usize(..KEYS), how }
        }
        88..95 => Fault::Foreign { key: rng.usize(..KEYS), there: rng.u8(..3) > 0 },
        95..100 => Fault::Bad { key: rng.usize(..KEYS) },
        100..107 => Fault::ReuseAddress { registered: rng.bool() },
        107..112 => Fault::NoSpace { node, time: time(rng, 4_000) },
        112..117 => Fault::Auth { node, time: time(rng, 4_000) },
        117..122 => Fault::Descriptors { frontend: rng.usize(..frontends), time: time(rng, 4_000) },
        122..126 => {
            Fault::StallLog { whose: rng.usize(..frontends + workers), time: time(rng, 4_000) }
        }
        126..130 => Fault::Prefill {
            frontend: rng.usize(..frontends),
            time: Duration::from_millis(rng.u64(16_000..25_000)),
        },
        _ => {
            let how = match rng.u8(..4) {
                0..2 => Naming::Moves { at_once: rng.bool(), beside_a_dead_one: rng.bool() },
                2 => Naming::Unknown,
                _ => Naming::Fails,
            };
            Fault::Name { how, time: time(rng, 9_000) }
        }
    }
}
