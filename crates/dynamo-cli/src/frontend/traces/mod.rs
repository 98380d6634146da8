//! Traces: the spans of requests, sent to a collector in OTLP over HTTP.
//!
//! A thread that serves requests moves the facts of a sampled request into a bounded queue. The thread
//! of the queue makes spans of them and sends the spans.

mod collector;
mod settings;
mod spans;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use dynamo_http::{AccessRecord, Trace, Traces};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::runtime::Runtime;
use tracing::{info, warn};

pub(super) use self::settings::TraceSettings;
use crate::failure::Failure;
use crate::queue::{Queue, Sink};
use collector::Collector;

/// The most spans that are sent at once.
const MOST: usize = 512;
/// How long the thread sleeps after it has sent spans. Meanwhile further ones collect.
const NAP: Duration = Duration::from_millis(200);

/// A request that has ended, and its spans.
type Traced = (Box<AccessRecord>, Box<Trace>);

/// Traces that are sent. Dropped, they are sent to the end, as far as the collector takes them.
#[derive(Debug)]
pub(super) struct TraceExport {
    queue: Queue<Traced>,
    shared: Arc<Shared>,
    root_share: f64,
}

/// What the queue's thread counts.
#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    failed: AtomicU64,
}

/// How many requests' spans were sent, and how many lost. Without traces, none.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(Option<(Queue<Traced>, Arc<Shared>)>);

impl TraceExport {
    /// Starts the thread that sends spans.
    ///
    /// # Errors
    ///
    /// When a setting of the exporter is invalid, or when there can be no thread.
    pub(super) fn start(settings: TraceSettings) -> Result<Self, Failure> {
        let TraceSettings { endpoint, headers, timeout, tls, resource, root_share } = settings;
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(tls, timeout))
            .with_endpoint(&endpoint)
            .with_protocol(Protocol::HttpBinary)
            .with_headers(headers)
            .with_timeout(timeout)
            .build()
            .context("the exporter of traces")
            .map_err(Failure::Usage)?;
        exporter.set_resource(&resource);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start traces").map_err(Failure::Running)?;
        let shared = Arc::<Shared>::default();
        let sender = Sender {
            runtime,
            exporter,
            spans: Vec::new(),
            requests: 0,
            is_failing: false,
            shared: shared.clone(),
        };
        let queue = Queue::start("traces", sender).context("cannot start traces");
        let queue = queue.map_err(Failure::Running)?;
        info!(%endpoint, "requests are traced");
        Ok(Self { queue, shared, root_share })
    }

    /// What puts requests into the queue.
    pub(super) fn traces(&self) -> Traces {
        let queue = self.queue.clone();
        Traces::new(move |record, trace| queue.put((record, trace)))
            .with_root_share(self.root_share)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts(Some((self.queue.clone(), self.shared.clone())))
    }
}

impl Drop for TraceExport {
    fn drop(&mut self) {
        self.queue.wait();
    }
}

/// Makes spans and sends them, in the thread of the queue.
struct Sender {
    runtime: Runtime,
    exporter: SpanExporter,
    spans: Vec<SpanData>,
    /// How many requests they are of.
    requests: u64,
    /// Whether the last ones were lost.
    is_failing: bool,
    shared: Arc<Shared>,
}

impl Sender {
    fn send(&mut self) {
        let (spans, requests) =
            (std::mem::take(&mut self.spans), std::mem::take(&mut self.requests));
        if spans.is_empty() {
            return;
        }
        match self.runtime.block_on(self.exporter.export(spans)) {
            Ok(()) => {
                self.shared.sent.fetch_add(requests, Ordering::Relaxed);
                if std::mem::take(&mut self.is_failing) {
                    info!("the collector takes traces again");
                }
            }
            Err(error) => {
                self.shared.failed.fetch_add(requests, Ordering::Relaxed);
                // Once for an outage.
                if !std::mem::replace(&mut self.is_failing, true) {
                    warn!(%error, "traces are lost: the collector does not take them");
                }
            }
        }
    }
}

impl Sink<Traced> for Sender {
    fn take(&mut self, (record, trace): Traced) {
        spans::append(&mut self.spans, &record, &trace);
        self.requests += 1;
        if self.spans.len() >= MOST {
            self.send();
        }
    }

    fn rest(&mut self) {
        let is_busy = !self.spans.is_empty();
        self.send();
        if is_busy {
            thread::sleep(NAP);
        }
    }

    fn report(&mut self, dropped: u64) {
        // A collector that takes nothing has its line.
        if dropped > 0 && !self.is_failing {
            warn!(requests = dropped, "traces are lost: the collector takes them too slowly");
        }
    }
}

impl Counts {
    /// The metrics, in Prometheus' text format. All series exist from the start.
    pub(super) fn text(&self) -> String {
        let (sent, failed, dropped) = self.0.as_ref().map_or((0, 0, 0), |(queue, shared)| {
            let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
            (of(&shared.sent), of(&shared.failed), queue.counts().2)
        });
        let (traced, lost) =
            ("dynamo_frontend_traced_requests_total", "dynamo_frontend_traced_requests_lost_total");
        format!(
            "# HELP {traced} Requests whose spans the collector has taken\n\
             # TYPE {traced} counter\n\
             {traced} {sent}\n\
             # HELP {lost} Requests whose spans were lost, by the reason\n\
             # TYPE {lost} counter\n\
             {lost}{{reason=\"queue_full\"}} {dropped}\n\
             {lost}{{reason=\"export_failed\"}} {failed}\n"
        )
    }
}
