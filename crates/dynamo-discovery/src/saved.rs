//! A catalog as a file: the instances that a frontend knew, to be read back while its store is away.
//!
//! The functions are pure: bytes in, bytes out. The entries of a file pass through a [`Catalog`] as
//! those of a store do, so a file shows no instance that a store could not show.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dynamo_namespace::NamespaceScope;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::catalog::{Catalog, ModelUpdate, StoreEvent};
use crate::instance::Instance;
use crate::network_prefix::NetworkPrefix;
use crate::store::{Entry, Revision, Snapshot};

const FORMAT: &str = "dynamo-catalog";
const VERSION: u32 = 1;
/// The start of the last line.
const TRAILER: &str = "crc32:";

/// Which catalog a file holds: that of one scope, below one root, in one store.
///
/// The file is lines of JSON: a header with the origin, the time and the number of entries, then
/// an object of `key` and `value` for each; the last line is the CRC-32 of all before it.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use dynamo_discovery::CatalogOrigin;
/// use dynamo_namespace::NamespaceScope;
///
/// let scope = NamespaceScope::from_target(Some("team-a"))?;
/// let origin = CatalogOrigin::new("http://etcd.example:2379", scope);
/// let now = SystemTime::now();
/// let saved = origin.decode(&origin.encode([], now), now, Duration::from_secs(60))?;
/// assert!(saved.instances.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogOrigin {
    store: String,
    network_prefix: NetworkPrefix,
    scope: NamespaceScope,
}

/// The content of a file, as [`CatalogOrigin::decode`] read it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedCatalog {
    /// The instances, in order of their keys.
    pub instances: Vec<Arc<Instance>>,
    /// How many entries of the file are not in scope any more, or not valid.
    pub dropped: usize,
    /// The time since the file was written.
    pub age: Duration,
}

/// Why a file is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SavedCatalogError {
    /// The file was not written to its end, or was changed since.
    #[error("it is torn: its checksum is missing or wrong")]
    Torn,
    /// The file is something else.
    #[error("it holds no catalog")]
    NoCatalog,
    /// Another release wrote the file.
    #[error("it has the format {found}, and this release reads {VERSION}")]
    Version {
        /// The version of the file's format.
        found: u32,
    },
    /// The file is of another store, root or scope.
    #[error("it is of another {what}: \"{}\", and not \"{}\"", .found.escape_debug(), .expected.escape_debug())]
    Foreign {
        /// `store`, `root` or `scope`: the first that differs.
        what: &'static str,
        /// The one in the file.
        found: String,
        /// The one that was asked for.
        expected: String,
    },
    /// The file was written too long ago.
    #[error("it is too old: it was written {} s ago, and {} s are allowed", .age.as_secs(), .limit.as_secs())]
    Old {
        /// The time since the file was written.
        age: Duration,
        /// The longest time that is allowed.
        limit: Duration,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    store: String,
    prefix: String,
    scope: String,
    /// Unix seconds.
    written: u64,
    entries: usize,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
}

impl CatalogOrigin {
    /// The catalog of one scope, below the default [`NetworkPrefix`].
    ///
    /// `store` says where the store is: any text that is always the same for the same store.
    pub fn new(store: impl Into<String>, scope: NamespaceScope) -> Self {
        Self { store: store.into(), network_prefix: NetworkPrefix::default(), scope }
    }

    /// Sets the root of the keys. By default it is [`NetworkPrefix::default`].
    #[must_use]
    pub fn with_network_prefix(self, network_prefix: NetworkPrefix) -> Self {
        Self { network_prefix, ..self }
    }

    /// The file that holds these instances.
    pub fn encode<'a>(
        &self,
        instances: impl IntoIterator<Item = &'a Arc<Instance>>,
        now: SystemTime,
    ) -> Vec<u8> {
        let mut body = Vec::new();
        let mut entries = 0;
        for instance in instances {
            // A catalog takes no key that is not text.
            let Some(key) = instance.key().as_str() else { continue };
            let value = instance.entry().to_json();
            let value = serde_json::from_slice(&value)
                .unwrap_or_else(|_| unreachable!("an entry writes JSON"));
            push(&mut body, &Line { key: key.into(), value });
            entries += 1;
        }
        let mut file = Vec::with_capacity(body.len() + 512);
        push(
            &mut file,
            &Header {
                format: FORMAT.to_owned(),
                version: VERSION,
                store: self.store.clone(),
                prefix: self.network_prefix.to_string(),
                scope: self.scope.to_string(),
                written: unix_seconds(now),
                entries,
            },
        );
        file.append(&mut body);
        let trailer = trailer(&file);
        file.extend_from_slice(trailer.as_bytes());
        file
    }

    /// Reads a file that [`encode`](Self::encode) wrote for the same origin, not longer than
    /// `limit` ago.
    ///
    /// # Errors
    ///
    /// When the file is anything else. No byte of an entry is in the error.
    pub fn decode(
        &self,
        file: &[u8],
        now: SystemTime,
        limit: Duration,
    ) -> Result<SavedCatalog, SavedCatalogError> {
        use SavedCatalogError::{NoCatalog, Old, Torn, Version};
        // The format comes first: a file of another format has no checksum to compare.
        let header = file.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let header: Header = serde_json::from_slice(header).map_err(|_| NoCatalog)?;
        if header.format != FORMAT {
            return Err(NoCatalog);
        }
        if header.version != VERSION {
            return Err(Version { found: header.version });
        }
        let length = file.len().checked_sub(trailer(&[]).len()).ok_or(Torn)?;
        let (content, end) = file.split_at(length);
        if end != trailer(content).as_bytes() {
            return Err(Torn);
        }
        for (what, found, expected) in [
            ("store", header.store, self.store.clone()),
            ("root", header.prefix, self.network_prefix.to_string()),
            ("scope", header.scope, self.scope.to_string()),
        ] {
            if found != expected {
                return Err(SavedCatalogError::Foreign { what, found, expected });
            }
        }
        let age = Duration::from_secs(unix_seconds(now).saturating_sub(header.written));
        if age > limit {
            return Err(Old { age, limit });
        }
        let mut entries = Vec::new();
        for line in content.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty()) {
            let Line { key, value } = serde_json::from_slice(line).map_err(|_| NoCatalog)?;
            entries.push(Entry {
                key: key.as_bytes().into(),
                value: Bytes::copy_from_slice(value.get().as_bytes()),
                mod_revision: Revision::default(),
                lease: None,
            });
        }
        if entries.len() != header.entries {
            return Err(NoCatalog);
        }
        let listed = entries.len();
        let snapshot = Snapshot { revision: Revision::default(), entries };
        let mut catalog = Catalog::new(self.network_prefix.clone(), self.scope.clone());
        let updates = catalog.apply(StoreEvent::Resync(snapshot)).updates;
        let mut instances: Vec<_> = updates
            .into_iter()
            .filter_map(|update| match update {
                ModelUpdate::Added(new) => Some(new),
                // Only a file made by hand has a key twice.
                ModelUpdate::Changed { .. } | ModelUpdate::Removed(..) => None,
            })
            .collect();
        instances.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        Ok(SavedCatalog { dropped: listed - instances.len(), instances, age })
    }
}

fn push(file: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *file, line)
        .unwrap_or_else(|_| unreachable!("strings and numbers always serialize"));
    file.push(b'\n');
}

fn trailer(content: &[u8]) -> String {
    format!("{TRAILER}{:08x}\n", crc32fast::hash(content))
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model_key::InstanceId;
    use crate::{Key, ModelEntry};

    const LIMIT: Duration = Duration::from_secs(3600);

    fn origin(scope: &str) -> CatalogOrigin {
        let scope = NamespaceScope::from_target(Some(scope)).unwrap();
        CatalogOrigin::new("http://etcd.example:2379", scope)
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_790_000_000)
    }

    fn instance(namespace: &str, id: u64, model: &str) -> Arc<Instance> {
        let endpoint = format!("{namespace}.backend.generate").parse().unwrap();
        let entry = ModelEntry::new(model, endpoint, crate::Kinds::parse("Chat|Completion").kinds)
            .unwrap()
            .with_url(format!("http://192.0.2.5:{}", 8000 + id % 1000).parse().unwrap())
            .with_created(7);
        let key = crate::ModelKey::Native {
            endpoint: entry.endpoint().clone(),
            instance: InstanceId(id),
            model: model.to_owned(),
        };
        Arc::new(Instance::new(Key::from(format!("models/{key}")), Some(InstanceId(id)), entry))
    }

    fn file(scope: &str, instances: &[Arc<Instance>]) -> Vec<u8> {
        origin(scope).encode(instances, now())
    }

    fn decode(scope: &str, file: &[u8]) -> Result<SavedCatalog, SavedCatalogError> {
        origin(scope).decode(file, now() + Duration::from_secs(60), LIMIT)
    }

    #[test]
    fn a_file_of_another_store_root_or_scope_is_foreign() {
        let file = file("team-a", &[instance("team-a", 1, "m")]);
        for (what, other) in [
            (
                "store",
                CatalogOrigin { store: "http://other.example:2379".into(), ..origin("team-a") },
            ),
            ("root", origin("team-a").with_network_prefix("v1/".parse().unwrap())),
            ("scope", origin("team-b")),
        ] {
            let error = other.decode(&file, now(), LIMIT).unwrap_err();
            assert!(
                matches!(error, SavedCatalogError::Foreign { what: found, .. } if found == what),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_is_old_after_its_time_and_one_from_the_future_is_not() {
        let file = file("team-a", &[]);
        let at = |at| origin("team-a").decode(&file, at, LIMIT).map(|saved| saved.age);
        assert_eq!(at(now() + LIMIT), Ok(LIMIT));
        let late = LIMIT + Duration::from_secs(1);
        assert_eq!(at(now() + late), Err(SavedCatalogError::Old { age: late, limit: LIMIT }));
        assert_eq!(at(now() - LIMIT), Ok(Duration::ZERO));
    }

    #[test]
    fn what_is_no_catalog_and_what_another_release_wrote_is_told_apart_from_what_is_torn() {
        for text in ["", "\n", "no json", "{}", "[]", r#"{"format":"x","version":1}"#] {
            let error = decode("team-a", text.as_bytes()).unwrap_err();
            assert_eq!(error, SavedCatalogError::NoCatalog, "{text}");
        }
        let text = String::from_utf8(file("team-a", &[])).unwrap();
        let next = text.replace("\"version\":1", "\"version\":2");
        let error = decode("team-a", next.as_bytes()).unwrap_err();
        assert_eq!(error, SavedCatalogError::Version { found: 2 });
        let error = decode("team-a", text.replace("crc32:", "CRC32:").as_bytes()).unwrap_err();
        assert_eq!(error, SavedCatalogError::Torn);
    }

    #[test]
    fn a_file_made_by_hand_shows_nothing_beyond_the_scope() {
        // As if the file of all were that of one team: with a valid checksum.
        let all = [instance("team-a", 1, "ours"), instance("team-b", 2, "theirs")];
        let saved = decode("team-a", &file("team-a", &all)).unwrap();
        assert_eq!((saved.instances, saved.dropped), (all[..1].to_vec(), 1));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_never_of_another_namespace(
            ids in proptest::collection::btree_set((0..3_u8, any::<u64>()), 0..20),
            model in "[a-z/ü\\\\\" ]{1,20}",
        ) {
            let name = |team| ["team-a", "team-b", "team-a-x"][usize::from(team)];
            let all: Vec<_> =
                ids.iter().map(|(team, id)| instance(name(*team), *id, &model)).collect();
            let mut ours: Vec<_> = all
                .iter()
                .filter(|one| one.endpoint().namespace().as_str() == "team-a")
                .cloned()
                .collect();
            ours.sort_unstable_by(|a, b| a.key().cmp(b.key()));
            let saved = decode("team-a", &file("team-a", &all)).unwrap();
            prop_assert_eq!(saved.dropped, all.len() - ours.len());
            prop_assert_eq!(saved.instances, ours);
            prop_assert_eq!(saved.age, Duration::from_secs(60));
        }

        #[test]
        fn a_file_that_is_cut_or_changed_anywhere_is_refused(
            count in 0..6_u64,
            at in any::<proptest::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let all: Vec<_> = (0..count).map(|id| instance("team-a", id, "m")).collect();
            let mut file = file("team-a", &all);
            let at = at.index(file.len());
            prop_assert!(decode("team-a", &file[..at]).is_err());
            file[at] ^= flip;
            prop_assert!(decode("team-a", &file).is_err());
        }

        #[test]
        fn no_bytes_at_all_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode("team-a", &bytes);
        }
    }
}
