//! How often one place in the code may log.
//!
//! Others can cause some lines as often as they like: a client that opens connections, a neighbour
//! who writes broken entries. So each place in the code has so many lines a minute, and one line tells
//! how many were left out. Lines for debugging have no limit.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// How many lines one place may log in one [`SPAN`].
const MOST: u64 = 60;
const SPAN: Duration = Duration::from_secs(60);
/// More places than the code has.
const PLACES: usize = 1024;

/// The places that have logged, each found by its address. No reader waits for another. A clone is
/// the same.
#[derive(Clone)]
pub(super) struct Limits {
    began: Instant,
    places: Arc<[Place]>,
    /// How many lines were left out in all.
    left_out: Arc<AtomicU64>,
}

#[derive(Default)]
struct Place {
    /// Where the place's description is in memory; 0 while nobody has this entry.
    address: AtomicUsize,
    /// The span that is counted, and above its 32 bits the lines in it.
    count: AtomicU64,
    left_out: AtomicU64,
    /// What the place says.
    message: OnceLock<String>,
}

impl Default for Limits {
    fn default() -> Self {
        let places = std::iter::repeat_with(Place::default).take(PLACES).collect();
        Self { began: Instant::now(), places, left_out: Arc::default() }
    }
}

impl Limits {
    /// Logs how many lines were left out in spans that are over, or in all.
    pub(super) fn report(&self, all: bool) {
        let span = self.span();
        for place in &*self.places {
            let is_over = place.count.load(Ordering::Relaxed) as u32 != span;
            if place.address.load(Ordering::Relaxed) == 0 || !(all || is_over) {
                continue;
            }
            let lines = place.left_out.swap(0, Ordering::Relaxed);
            if lines > 0 {
                let like = place.message.get().map(String::as_str).unwrap_or_default();
                warn!(lines, like, "log lines were left out: there are too many of this kind");
            }
        }
    }

    /// How many lines were left out so far.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn span(&self) -> u32 {
        (self.began.elapsed().as_secs() / SPAN.as_secs()) as u32
    }

    /// The entry of an address; none when all are taken.
    fn place(&self, address: usize) -> Option<&Place> {
        let start = address / align_of::<usize>();
        (start..start + PLACES).map(|at| &self.places[at % PLACES]).find(|place| {
            let found =
                place.address.compare_exchange(0, address, Ordering::Relaxed, Ordering::Relaxed);
            found.is_ok() || found == Err(address)
        })
    }
}

impl Place {
    /// Whether there may be another line in this span. Counts it.
    fn admits(&self, span: u32) -> bool {
        let next = |count: u64| {
            let lines = if count as u32 == span { count >> 32 } else { 0 };
            (lines < MOST).then_some((lines + 1) << 32 | u64::from(span))
        };
        let admitted = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok();
        if !admitted {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }
}

impl<S: Subscriber> Layer<S> for Limits {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let address = std::ptr::from_ref(event.metadata()).addr();
        let Some(place) = self.place(address) else { return true };
        let admitted = place.admits(self.span());
        if !admitted {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            place.message.get_or_init(|| Message::of(event));
        }
        admitted
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").finish_non_exhaustive()
    }
}

/// Finds an event's message among its fields.
#[derive(Default)]
struct Message(String);

impl Message {
    fn of(event: &Event<'_>) -> String {
        let mut message = Self::default();
        event.record(&mut message);
        message.0
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::{debug, info};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What is logged within `run`, with the limits that it is given.
    fn logged(run: impl FnOnce(&Limits)) -> Vec<String> {
        struct Keep(Arc<Mutex<Vec<String>>>);

        impl<S: Subscriber> Layer<S> for Keep {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                struct All(String);
                impl Visit for All {
                    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                        self.0 += &format!("{}={value:?} ", field.name());
                    }
                }
                let mut all = All(String::new());
                event.record(&mut all);
                self.0.lock().unwrap().push(all.0);
            }
        }

        let (limits, lines) = (Limits::default(), Arc::<Mutex<Vec<_>>>::default());
        let registry = tracing_subscriber::registry().with(limits.clone());
        let subscriber = registry.with(Keep(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, || run(&limits));
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    #[test]
    fn one_place_logs_so_many_lines_and_one_that_counts_the_others() {
        let lines = logged(|limits| {
            for client in 0..MOST + 5 {
                warn!(client, "no TLS");
            }
            info!("another place");
            limits.report(false);
            limits.report(true);
            limits.report(true);
            assert_eq!(limits.left_out(), 5, "it counts on when it was told");
        });
        let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count() as u64;
        assert_eq!((of("message=no TLS"), of("another place")), (MOST, 1));
        let told: Vec<_> = lines.iter().filter(|line| line.contains("left out")).collect();
        assert_eq!(told.len(), 1, "told once, when the span is over or all is told: {told:?}");
        assert!(told[0].contains("lines=5") && told[0].contains("like=\"no TLS\""), "{told:?}");
    }

    #[test]
    fn lines_for_debugging_have_no_limit() {
        let lines = logged(|_| (0..MOST * 2).for_each(|count| debug!(count, "seen")));
        assert_eq!(lines.len() as u64, MOST * 2);
    }

    #[test]
    fn a_new_span_has_its_own_lines() {
        let place = Place::default();
        for span in [0, 1, 7] {
            let admitted = (0..MOST + 3).filter(|_| place.admits(span)).count();
            assert_eq!(admitted as u64, MOST);
        }
        assert_eq!(place.left_out.into_inner(), 9);
    }
}
