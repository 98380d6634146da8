//! Where traces go, by OpenTelemetry's variables.

use std::collections::HashMap;
use std::time::Duration;

use dynamo_http::WorkerTls;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use percent_encoding::percent_decode_str;

use crate::failure::Failure;
use crate::settings::authorities;
use crate::settings::given::Given;
use crate::settings::table::Tracing;
use crate::settings::value::{OtlpProtocol, Sampler, Share, TracesExporter, YesNo};

#[cfg(test)]
mod tests;

/// Where traces go.
#[derive(Debug)]
pub(crate) struct TraceSettings {
    /// The whole URL.
    pub(super) endpoint: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) timeout: Duration,
    pub(in crate::frontend) tls: WorkerTls,
    pub(super) resource: Resource,
    /// How many of the requests without a `traceparent` are traced, from 0 to 1.
    pub(super) root_share: f64,
}

impl TraceSettings {
    /// `None` where there are no traces.
    ///
    /// # Errors
    ///
    /// When a setting is invalid.
    pub(crate) fn read(given: &Given) -> Result<Option<Self>, Failure> {
        let asked = Tracing::read(given)?;
        // It is the only one.
        let OtlpProtocol::HttpProtobuf = *asked.otel_exporter_otlp_protocol;
        let is_off = matches!(*asked.otel_sdk_disabled, YesNo(true))
            || *asked.otel_traces_exporter == TracesExporter::None;
        let whole = asked.otel_exporter_otlp_traces_endpoint.take().map(|url| url.to_string());
        let base = asked.otel_exporter_otlp_endpoint.take();
        let below = || base.map(|url| format!("{}/v1/traces", url.as_str().trim_end_matches('/')));
        let Some(endpoint) = whole.or_else(below).filter(|_| !is_off) else { return Ok(None) };
        let Share(share) = *asked.otel_traces_sampler_arg;
        let root_share = match *asked.otel_traces_sampler {
            Sampler::AlwaysOn => 1.0,
            Sampler::AlwaysOff => 0.0,
            Sampler::Ratio => share,
        };
        let label = asked.otel_resource_attributes.setting.label();
        let attributes = pairs(asked.otel_resource_attributes.take().as_deref(), &label)?;
        let attributes = attributes.into_iter().map(|(name, value)| KeyValue::new(name, value));
        let resource = Resource::builder_empty()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attributes(attributes)
            .with_service_name(asked.otel_service_name.take())
            .build();
        let label = asked.otel_exporter_otlp_headers.setting.label();
        let headers = pairs(asked.otel_exporter_otlp_headers.take().as_deref(), &label)?;
        Ok(Some(Self {
            endpoint,
            headers: headers.into_iter().collect(),
            timeout: Duration::from_millis(asked.otel_exporter_otlp_timeout.get()),
            tls: authorities(asked.otel_exporter_otlp_certificate)?,
            resource,
            root_share,
        }))
    }
}

/// The pairs of a list `NAME=VALUE,NAME=VALUE`. The error repeats no value, which may be a key.
fn pairs(list: Option<&str>, label: &str) -> Result<Vec<(String, String)>, Failure> {
    let parts = list.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name.trim().to_owned(), value.into_owned()))
    };
    parts
        .map(|part| {
            let expected = || format!("{label}: expected NAME=VALUE, separated by commas");
            pair(part).ok_or_else(|| Failure::usage(expected()))
        })
        .collect()
}
