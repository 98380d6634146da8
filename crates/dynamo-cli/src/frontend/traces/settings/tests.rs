//! What OpenTelemetry's variables ask for.

use opentelemetry::{Key, Value};

use super::*;
use crate::program::tests::given;
use crate::settings::table::FRONTEND;

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4318");

fn read<const N: usize>(variables: [(&str, &str); N]) -> Result<Option<TraceSettings>, String> {
    let given = given(&FRONTEND, &[], variables)?;
    TraceSettings::read(&given).map_err(|failure| failure.to_string())
}

fn attribute(settings: &TraceSettings, name: &'static str) -> Option<String> {
    settings.resource.get(&Key::new(name)).map(|value: Value| value.to_string())
}

#[test]
fn without_an_endpoint_or_switched_off_there_are_no_traces() {
    assert!(read([("OTEL_SERVICE_NAME", "a")]).unwrap().is_none());
    assert!(read([ENDPOINT, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
    assert!(read([ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
    assert!(read([("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap().is_none());
}

#[test]
fn the_endpoint_of_traces_is_whole_and_the_other_one_is_a_base() {
    let endpoint = |variables| read(variables).unwrap().unwrap().endpoint;
    assert_eq!(endpoint([ENDPOINT]), "http://collector.example:4318/v1/traces");
    let base = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example/otlp/")];
    assert_eq!(endpoint(base), "https://collector.example/otlp/v1/traces");
    let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://192.0.2.1:4318/mine");
    assert_eq!(read([ENDPOINT, whole]).unwrap().unwrap().endpoint, "http://192.0.2.1:4318/mine");
}

#[test]
fn headers_and_attributes_are_lists_and_values_may_be_encoded() {
    let settings = read([
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret, x-team=a"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=ignored"),
        ("OTEL_SERVICE_NAME", "door"),
    ]);
    let settings = settings.unwrap().unwrap();
    assert_eq!(settings.headers["authorization"], "Bearer secret");
    assert_eq!(settings.headers["x-team"], "a");
    assert_eq!(attribute(&settings, "deployment.environment.name").as_deref(), Some("test"));
    assert_eq!(attribute(&settings, "service.name").as_deref(), Some("door"));
    let message = read([ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "Bearer secret")]).unwrap_err();
    assert!(message.contains("expected NAME=VALUE") && !message.contains("secret"), "{message}");
}

#[test]
fn the_sampler_decides_on_requests_without_a_parent() {
    let share = |sampler, arg| {
        let variables =
            [ENDPOINT, ("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", arg)];
        read(variables).map(|settings| settings.unwrap().root_share)
    };
    assert_eq!(share("", ""), Ok(1.0));
    assert_eq!(share("parentbased_always_off", ""), Ok(0.0));
    assert_eq!(share("parentbased_traceidratio", "0.25"), Ok(0.25));
    assert!(share("always_on", "").unwrap_err().contains("expected parentbased_always_on"));
    assert!(share("parentbased_traceidratio", "2").unwrap_err().contains("from 0 to 1"));
}

#[test]
fn a_protocol_that_is_not_spoken_is_refused() {
    let message = read([ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap_err();
    assert!(message.contains("expected http/protobuf"), "{message}");
    let timeout = ("OTEL_EXPORTER_OTLP_TIMEOUT", "250");
    assert_eq!(read([ENDPOINT, timeout]).unwrap().unwrap().timeout, Duration::from_millis(250));
}
