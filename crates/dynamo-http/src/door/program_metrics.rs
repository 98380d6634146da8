//! Metrics of the program around a front door.

use std::sync::Arc;

/// Metrics of the program around a front door, such as the memory that its process uses.
///
/// Only the admin port's `/metrics` shows them: they move with everything that the process does, so
/// a client could see from them how busy other namespaces are.
///
/// ```
/// use dynamo_http::{FrontendConfig, ProgramMetrics};
///
/// let metrics = ProgramMetrics::new(|| "# TYPE up gauge\nup 1\n".into());
/// let config = FrontendConfig::new().with_program_metrics(Some(metrics));
/// # let _ = config;
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("ProgramMetrics")]
pub struct ProgramMetrics {
    text: Arc<dyn Fn() -> String + Send + Sync>,
}

impl ProgramMetrics {
    /// Metrics from a function that returns whole lines in Prometheus' text format. It is called
    /// once for each answer.
    pub fn new(text: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { text: Arc::new(text) }
    }

    pub(super) fn text(&self) -> String {
        (self.text)()
    }
}
