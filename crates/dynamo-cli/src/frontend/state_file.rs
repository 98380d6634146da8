//! The state file: what a frontend knew, for when it restarts while the store is away.

use std::fs::{self, File, OpenOptions};
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use dynamo_discovery::{
    CatalogOrigin, DiscoveryEvent, Instance, ModelWatcher, SavedCatalog, SavedCatalogError,
};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::failure::Failure;
use crate::settings::table::Workers;

/// Changes are written together after this time at most.
const COALESCE: Duration = Duration::from_secs(1);
/// How often a file is written again though nothing changed, so that its time says until when it was
/// true.
const REFRESH: Duration = Duration::from_secs(600);
/// How old a file may be: by then addresses have changed hands.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// More than 100,000 entries of the largest kind that occurs.
const LARGEST: u64 = 256 << 20;

/// Where a catalog is kept.
#[derive(Clone, Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    origin: CatalogOrigin,
}

impl StateFile {
    /// A file there, or where one will be.
    ///
    /// # Errors
    ///
    /// When something else is there. It would be replaced by a file: a device, for all programs of the
    /// machine.
    pub(super) fn new(path: PathBuf, origin: CatalogOrigin) -> Result<Self, Failure> {
        ensure_file(&path)
            .with_context(|| format!("{}: {}", Workers::state_file.label(), path.display()))
            .map_err(Failure::Usage)?;
        Ok(Self { path, origin })
    }

    /// What it remembers; nothing, and one line in the log, where it cannot be used. And the file
    /// again, unless it is that of a frontend of another scope, which is left alone.
    pub(super) async fn recall(self) -> (Vec<Arc<Instance>>, Option<Self>) {
        let file = self.clone();
        let read = spawn_blocking(move || file.read()).await.map_err(anyhow::Error::from).flatten();
        let path = self.path.display();
        if let Err(error) = &read
            && let Some(SavedCatalogError::Foreign { what: "root" | "scope", .. }) =
                error.downcast_ref()
        {
            let error = format_args!("{error:#}");
            warn!(%path, %error, "another frontend's state file is neither used nor written");
            return (Vec::new(), None);
        }
        let instances = match read {
            Ok(Some(SavedCatalog { instances, dropped, age, .. })) => {
                let age = age.as_secs();
                info!(%path, instances = instances.len(), dropped, age, "state file read");
                instances
            }
            Ok(None) => {
                info!(%path, "there is no state file yet");
                Vec::new()
            }
            Err(error) => {
                warn!(%path, error = format_args!("{error:#}"), "the state file is not used");
                Vec::new()
            }
        };
        (instances, Some(self))
    }

    /// Reads it, if it is there.
    fn read(&self) -> anyhow::Result<Option<SavedCatalog>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("cannot open it"),
        };
        let metadata = file.metadata().context("cannot look at it")?;
        ensure!(metadata.is_file(), "it is no regular file");
        // Whoever can write it says where requests go.
        let (owner, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
        ensure!(owner == us || owner == 0, "it belongs to user {owner}, and we are {us}");
        let mode = metadata.mode() & 0o7777;
        ensure!(mode & 0o022 == 0, "others may write it: its mode is {mode:04o}, 0600 is expected");
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).context("cannot read it")?;
        if bytes.len() as u64 > LARGEST {
            bail!("it is larger than {} MiB", LARGEST >> 20);
        }
        Ok(Some(self.origin.decode(&bytes, SystemTime::now(), OLDEST)?))
    }

    /// Puts another file in its place, whole or not at all.
    fn write(&self, mut instances: Vec<Arc<Instance>>) -> io::Result<()> {
        ensure_file(&self.path)?;
        instances.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        let bytes = self.origin.encode(&instances, SystemTime::now());
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = Path::new(&new);
        // Of a process that was killed meanwhile.
        match fs::remove_file(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(new, &self.path)?;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()
    }

    /// The events of a watcher, whose catalog is kept from its first answer on.
    pub(super) fn keep(self, watcher: ModelWatcher) -> BoxStream<'static, DiscoveryEvent> {
        stream::unfold((watcher, Writer::new(self)), async |(mut watcher, mut writer)| {
            let event = loop {
                tokio::select! {
                    event = watcher.next() => break event,
                    () = writer.due() => writer.write(watcher.instances().cloned().collect()),
                }
            };
            writer.note(&event);
            Some((event, (watcher, writer)))
        })
        .boxed()
    }
}

/// That a regular file, or nothing, is at a path.
fn ensure_file(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(io::Error::other("it is no regular file")),
        _ => Ok(()),
    }
}

/// When to write what.
struct Writer {
    file: StateFile,
    /// What was written last does not hold any more.
    changed: bool,
    connected: bool,
    written: Option<Instant>,
    writing: Option<JoinHandle<io::Result<()>>>,
    failing: bool,
}

impl Writer {
    fn new(file: StateFile) -> Self {
        Self {
            file,
            changed: false,
            connected: false,
            written: None,
            writing: None,
            failing: false,
        }
    }

    fn note(&mut self, event: &DiscoveryEvent) {
        match event {
            DiscoveryEvent::Batch(batch) => {
                // Part of a list is less than what the file has.
                self.changed |= !batch.more && (batch.resync || !batch.updates.is_empty());
            }
            DiscoveryEvent::Connected => self.connected = true,
            _ => self.connected = false,
        }
    }

    /// When to write next, as things stand.
    fn due_at(&self) -> Option<Instant> {
        match self.written {
            None => self.changed.then(Instant::now),
            Some(written) if self.changed => Some(written + COALESCE),
            Some(written) => self.connected.then_some(written + REFRESH),
        }
    }

    /// Waits until it is time to write; may be dropped and called again.
    async fn due(&mut self) {
        if let Some(writing) = &mut self.writing {
            let ended = writing.await;
            self.writing = None;
            self.tell(&ended.map_err(io::Error::other).flatten());
        }
        match self.due_at() {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    }

    fn write(&mut self, instances: Vec<Arc<Instance>>) {
        self.changed = false;
        self.written = Some(Instant::now());
        let file = self.file.clone();
        self.writing = Some(spawn_blocking(move || file.write(instances)));
    }

    /// Says once that it fails, and once that it no longer does.
    fn tell(&mut self, result: &io::Result<()>) {
        let path = self.file.path.display();
        match result {
            Ok(()) if self.failing => info!(%path, "the state file is written again"),
            Ok(()) => {}
            Err(error) if !self.failing => {
                warn!(%path, %error, "the state file cannot be written; it is tried again");
            }
            Err(_) => {}
        }
        self.failing = result.is_err();
        self.changed |= self.failing;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use dynamo_discovery::{InstanceId, ModelEntry};
    use dynamo_namespace::NamespaceScope;

    use super::*;

    fn origin(team: &str) -> CatalogOrigin {
        let scope = NamespaceScope::from_target(Some(team)).unwrap();
        CatalogOrigin::new("http://etcd.example:2379", scope)
    }

    fn file(directory: &tempfile::TempDir) -> StateFile {
        StateFile::new(directory.path().join("state"), origin("team-a")).unwrap()
    }

    fn instance(id: u64) -> Arc<Instance> {
        let endpoint = "team-a.backend.generate".parse().unwrap();
        let kinds = dynamo_discovery::Kinds::parse("Chat").kinds;
        let entry = ModelEntry::new("m", endpoint, kinds).unwrap();
        let key = format!("models/team-a/backend/generate/{id}/m");
        Arc::new(Instance::new(key.into(), Some(InstanceId(id)), entry))
    }

    #[test]
    fn what_is_written_is_read_by_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory);
        assert_eq!(file.read().unwrap(), None);
        // What a killed process left behind is no obstacle.
        fs::write(directory.path().join("state.new"), "half").unwrap();
        for count in [2, 1] {
            let all: Vec<_> = (1..=count).map(instance).collect();
            file.write(all.clone()).unwrap();
            assert_eq!(file.read().unwrap().unwrap().instances, all);
        }
        let mode = fs::metadata(&file.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["state"], "nothing else is left");
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory);
        file.write(vec![instance(1)]).unwrap();
        for mode in [0o620, 0o602] {
            fs::set_permissions(&file.path, fs::Permissions::from_mode(mode)).unwrap();
            let error = file.read().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("others may write it: its mode is {mode:04o}, 0600 is expected")
            );
        }
        // The next write makes it good again.
        file.write(vec![instance(1)]).unwrap();
        assert!(file.read().unwrap().is_some());
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory);
        fs::create_dir(&file.path).unwrap();
        assert_eq!(file.read().unwrap_err().to_string(), "it is no regular file");
        assert!(file.write(Vec::new()).is_err());
    }

    #[test]
    fn a_device_is_refused_at_the_start_and_never_replaced() {
        let failure = StateFile::new("/dev/null".into(), origin("team-a")).unwrap_err();
        assert!(matches!(failure, Failure::Usage(_)));
        assert_eq!(
            failure.to_string(),
            "--state-file (DYN_STATE_FILE): /dev/null: it is no regular file"
        );
        // One that takes the file's place later, here behind a link.
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory);
        std::os::unix::fs::symlink("/dev/null", &file.path).unwrap();
        assert!(file.write(vec![instance(1)]).is_err());
        assert!(fs::symlink_metadata(&file.path).unwrap().is_symlink());
    }

    #[tokio::test]
    async fn a_file_of_another_scope_is_left_alone_and_one_of_another_store_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let ours = file(&directory);
        ours.write(vec![instance(1)]).unwrap();
        let other = StateFile::new(ours.path.clone(), origin("team-b")).unwrap();
        let (remembered, file) = other.recall().await;
        assert!(remembered.is_empty() && file.is_none());
        let scope = NamespaceScope::from_target(Some("team-a")).unwrap();
        let moved = CatalogOrigin::new("http://other.example:2379", scope);
        let (remembered, file) = StateFile::new(ours.path, moved).unwrap().recall().await;
        assert!(remembered.is_empty() && file.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_written_together_and_an_old_file_again_while_the_store_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(file(&directory));
        let began = Instant::now();
        let wait = |writer: &Writer| writer.due_at().map(|at| at - began);
        assert_eq!(wait(&writer), None, "nothing is known");
        let mut first = dynamo_discovery::DiscoveryBatch::default();
        first.updates = vec![dynamo_discovery::ModelUpdate::Added(instance(1))];
        first.more = true;
        writer.note(&DiscoveryEvent::Batch(first.clone()));
        assert_eq!(wait(&writer), None, "what the file has may be more than this part");
        first.resync = true;
        first.more = false;
        writer.note(&DiscoveryEvent::Batch(first));
        assert_eq!(wait(&writer), Some(Duration::ZERO), "the first answer at once");
        writer.write(Vec::new());
        assert_eq!(wait(&writer), None, "not connected");
        writer.note(&DiscoveryEvent::Connected);
        assert_eq!(wait(&writer), Some(REFRESH));
        writer.note(&DiscoveryEvent::Batch(dynamo_discovery::DiscoveryBatch::default()));
        assert_eq!(wait(&writer), Some(REFRESH), "nothing changed");
        writer.changed = true;
        assert_eq!(wait(&writer), Some(COALESCE));
        writer.write(Vec::new());
        writer.note(&DiscoveryEvent::Disconnected);
        assert_eq!(wait(&writer), None, "what may be stale is not made young");
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(file(&directory));
        fs::create_dir(&writer.file.path).unwrap();
        writer.write(vec![instance(1)]);
        let ended = writer.writing.take().unwrap().await.unwrap();
        writer.tell(&ended);
        assert!(writer.failing && writer.due_at().is_some());
        fs::remove_dir(&writer.file.path).unwrap();
        writer.write(vec![instance(1)]);
        let ended = writer.writing.take().unwrap().await.unwrap();
        writer.tell(&ended);
        assert!(!writer.failing && !writer.changed);
    }
}
