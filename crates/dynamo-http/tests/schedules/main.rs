//! Random schedules: watcher, catalog and switchboard over a store that does its worst, held
//! against a model after every publication.
//!
//! The invariants have letters. **L**: what is served is what a linearizable list would say.
//! **G**: no ghost. **N**: nothing of another namespace, not for an instant. **S**: no open route
//! flips, and a store that is away takes nothing along. **M**: the applied revision never goes back
//! within one store's life, and no empty set is in between.
//!
//! Ten thousand fixed schedules run with the other tests. More, at random:
//!
//! ```sh
//! SCHEDULES=1000000 cargo test --release -p dynamo-http --test schedules
//! ```
//!
//! A failure names its seed, and says what happened in it; this runs it again:
//!
//! ```sh
//! SCHEDULE_SEED=4711 cargo test -p dynamo-http --test schedules
//! ```

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "test code")]
#![allow(missing_debug_implementations, reason = "nobody prints the fixtures")]
#![allow(clippy::print_stdout, reason = "it tells what happened in a schedule that failed")]

mod check;
mod store;
mod world;

use std::fmt::Display;
use std::future::poll_fn;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use check::Checked;
use dynamo_discovery::{DiscoveryEvent, ModelWatcher, WatchScope, WatcherConfig};
use fastrand::Rng;
use store::Scripted;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, timeout};
use world::{Eye, KEYS, VALUES};

/// How many run when nobody asks for more.
const IN_CI: u64 = 10_000;

/// A call that hangs until it is given up, the wait before another list, and a watch that is
/// silent until it is given up: more never comes between a store that behaves and what it says.
const CALM_AFTER: Duration = Duration::from_secs(75);

#[test]
fn whatever_the_store_does_what_is_served_is_what_it_has() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    if let Some(seed) = number("SCHEDULE_SEED") {
        Schedule::new(seed, true).run(&runtime());
        return;
    }
    let seeds = match number("SCHEDULES") {
        Some(count) => {
            let first = Rng::new().u64(..u64::MAX / 2);
            println!("seeds {first} to {}", first + count);
            first..first + count
        }
        None => 0..IN_CI,
    };
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let share = (seeds.end - seeds.start).div_ceil(threads);
    let failed: Vec<u64> = thread::scope(|scope| {
        let part = |n: u64| seeds.start + n * share..(seeds.start + (n + 1) * share).min(seeds.end);
        let running: Vec<_> =
            (0..threads).map(|n| scope.spawn(move || first_failure(part(n)))).collect();
        running.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    if let Some(seed) = failed.into_iter().min() {
        println!("\nSCHEDULE_SEED={seed}:");
        Schedule::new(seed, true).run(&runtime());
        panic!("the schedule {seed} failed once, and not when it was run again");
    }
}

fn first_failure(seeds: Range<u64>) -> Option<u64> {
    let runtime = runtime();
    seeds.into_iter().find(|seed| {
        let run = || Schedule::new(*seed, false).run(&runtime);
        catch_unwind(AssertUnwindSafe(run)).is_err()
    })
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// One schedule: all that is random in it follows from the seed.
struct Schedule {
    rng: Rng,
    eye: Eye,
    store: Scripted,
    checked: Checked,
    told: bool,
}

impl Schedule {
    fn new(seed: u64, told: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        // The watcher's own jitter.
        fastrand::seed(rng.u64(..));
        let eye = [Eye::Value, Eye::Value, Eye::Key, Eye::All][rng.usize(..4)];
        let store = Scripted::new(rng.u64(..));
        Self { rng, eye, store, checked: Checked::new(eye), told }
    }

    fn run(mut self, runtime: &Runtime) {
        runtime.block_on(tokio::task::unconstrained(async {
            self.tell(format_args!("{:?} looks", self.eye));
            let watch_scope =
                if self.eye == Eye::Key { WatchScope::Key } else { WatchScope::Value };
            let config = WatcherConfig::new(Arc::new(self.store.clone()))
                .with_target_namespace(self.eye.scope())
                .with_watch_scope(watch_scope);
            let mut watcher = ModelWatcher::new(config).unwrap();
            for _ in 0..self.rng.usize(1..12) {
                self.disturb(&mut watcher).await;
            }
            self.store.lock().calm = true;
            self.serves_one_more(&mut watcher).await;
            let listed = self.store.lock().lists;
            self.serves_one_more(&mut watcher).await;
            assert_eq!(self.store.lock().lists, listed, "the watch does not tell what changes");
        }));
    }

    /// Polls for one event, while things happen, and may give it up.
    async fn disturb(&mut self, watcher: &mut ModelWatcher) {
        let mut next = Box::pin(watcher.next());
        for _ in 0..self.rng.usize(1..20) {
            self.happen().await;
            let polled = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
            if let Poll::Ready(event) = polled {
                self.take(&event);
                return;
            }
        }
        self.tell("the call is dropped");
    }

    /// Something happens, or time passes.
    async fn happen(&mut self) {
        match self.rng.u8(..100) {
            0..45 => {
                let changes: Vec<_> = (0..self.rng.usize(1..4))
                    .map(|_| {
                        let value = (self.rng.u8(..3) > 0).then(|| self.rng.u8(..VALUES as u8));
                        (self.rng.usize(..KEYS), value)
                    })
                    .collect();
                self.store.lock().world.write(&changes);
                self.tell(format_args!("{changes:?} at {:?}", self.store.lock().world.now()));
            }
            45..70 => {
                let time = [1, 30, 300, 1_000, 7_500, 61_000][self.rng.usize(..6)];
                self.tell(format_args!("{time} ms pass"));
                advance(Duration::from_millis(time)).await;
            }
            70..75 => {
                self.store.lock().world.compact(&mut self.rng);
                self.tell("compacted");
            }
            75..80 => {
                self.store.lock().connection += 1;
                self.tell("cut");
            }
            80..83 => {
                let mut inner = self.store.lock();
                inner.world.replace(&mut self.rng);
                inner.connection += 1;
                let now = inner.world.now();
                drop(inner);
                self.tell(format_args!("replaced: {now:?}"));
            }
            _ => {}
        }
    }

    fn take(&mut self, event: &DiscoveryEvent) {
        let mut inner = self.store.lock();
        match event {
            DiscoveryEvent::Batch(batch) if batch.more => {
                drop(inner);
                self.tell("part of a list");
                self.checked.stage(batch);
            }
            DiscoveryEvent::Batch(batch) => {
                let handed = inner.handed.take();
                if self.told {
                    println!("  published {handed:?}");
                }
                self.checked.publish(batch, handed, &inner.world);
            }
            other => {
                drop(inner);
                self.tell(format_args!("{other:?}"));
            }
        }
    }

    /// The store behaves, and what it has must be served soon.
    async fn serves_one_more(&mut self, watcher: &mut ModelWatcher) {
        let last = {
            let mut inner = self.store.lock();
            inner.world.write(&[(0, Some(self.rng.u8(..2)))]);
            inner.world.now()
        };
        self.tell(format_args!("calm, and one more at {last:?}"));
        let began = Instant::now();
        while self.checked.at != Some(last) {
            let left = CALM_AFTER.saturating_sub(began.elapsed());
            match timeout(left, watcher.next()).await {
                Ok(event) => self.take(&event),
                Err(_) => panic!("{last:?} is not served within {CALM_AFTER:?}"),
            }
        }
    }

    fn tell(&self, what: impl Display) {
        if self.told {
            println!("  {what}");
        }
    }
}
