//! Metrics: the series of one frontend, and the record of one request.

mod names;
mod record;
mod series;

pub(crate) use self::names::{opts, valid};
pub(crate) use self::record::Record;
pub(crate) use self::series::{Metrics, ModelSeries};
