//! Entries and keys as workers write them.

use dynamo_discovery::{InstanceId, Kinds, ModelEntry, ModelKey};

/// An entry without a URL, with kinds such as `Chat | Completions`.
///
/// # Panics
///
/// When one of the names is invalid, or no kind is known.
pub fn create_test_model_entry(
    name: &str,
    namespace: &str,
    component: &str,
    endpoint: &str,
    kinds: &str,
) -> ModelEntry {
    let endpoint = format!("{namespace}.{component}.{endpoint}").parse().unwrap();
    ModelEntry::new(name, endpoint, Kinds::parse(kinds).kinds).unwrap()
}

/// The key of a worker's entry below the root: five segments, with a new instance.
pub fn native_key(entry: &ModelEntry) -> String {
    ModelKey::Native {
        endpoint: entry.endpoint().clone(),
        instance: InstanceId::random(),
        model: entry.name().to_owned(),
    }
    .to_string()
}

/// The key of an entry of Dynamo up to 0.5.1 below the root: one segment, a UUID.
pub fn flat_key() -> String {
    format!("0b68fe75-8fdc-442f-a23a-{:012x}", fastrand::u64(..1 << 48))
}
