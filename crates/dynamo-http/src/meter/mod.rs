//! Metrics: the series of one frontend, and the record of one request.

mod access_log;
mod labels;
mod mode;
mod names;
mod pace;
mod record;
mod series;
mod told;
mod totals;
mod trace;
mod trace_id;
mod usage;
mod worker;

pub(crate) use self::access_log::cut;
pub use self::access_log::{AccessEnd, AccessLog, AccessRecord};
pub use self::mode::{UnknownUsageMode, UsageMode};
pub(crate) use self::names::{opts, valid};
pub(crate) use self::pace::Pace;
pub(crate) use self::record::{Form, Record};
pub(crate) use self::series::{Metrics, ModelSeries, NamespaceSeries};
pub(crate) use self::totals::Totals;
pub use self::trace::{Trace, TracedAttempt, Traces};
pub(crate) use self::trace_id::TRACEPARENT;
pub use self::trace_id::{SpanId, TraceId};
pub(crate) use self::usage::{Spent, Usage};
pub(crate) use self::worker::{Ending, WorkerSeries};
