//! A file that is read when the program starts, and read again when the file changes.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::fs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// The interval between two looks at the file. Unlike a notification, a look also sees the swap of
/// a link, by which Kubernetes changes a mounted directory.
const INTERVAL: Duration = Duration::from_secs(1);
/// A file that was not touched for so long is whole.
const SETTLING: Duration = Duration::from_millis(200);
/// How often a file that does not stand still is looked at, before it is read nevertheless.
const LOOKS: usize = 25;
/// The largest file that is read: more than any list of keys that people write.
const LARGEST: u64 = 16 << 20;

/// A file that is read again when its metadata change, or on SIGHUP.
#[derive(Debug)]
pub(crate) struct FollowedFile {
    path: PathBuf,
    /// The metadata when the file was last read; `None` if they could not be read.
    seen: Option<Looks>,
    hangup: Signal,
}

/// The metadata that tell one state of a file from another without reading the file.
#[derive(Debug, PartialEq, Eq)]
struct Looks {
    place: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FollowedFile {
    /// Follows a file. From this call on, SIGHUP does not end the process.
    ///
    /// # Errors
    ///
    /// When the handler for SIGHUP cannot be installed.
    pub(crate) fn new(path: PathBuf) -> io::Result<Self> {
        Ok(Self { path, seen: None, hangup: signal(SignalKind::hangup())? })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is too large, or is not text.
    pub(crate) async fn read(&mut self) -> anyhow::Result<String> {
        // The metadata come first, so that the next look sees a change during the read.
        self.seen = look(&self.path).await;
        let read = async {
            if self.seen.as_ref().is_some_and(|looks| looks.length > LARGEST) {
                return Err(io::Error::other("it is larger than 16 MiB"));
            }
            fs::read_to_string(&self.path).await
        };
        read.await.with_context(|| format!("cannot read {}", self.path.display()))
    }

    /// Waits until the file changes, or until SIGHUP, and reads the file.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read). Each state of the file is read once, also if the read fails.
    pub(crate) async fn next(&mut self) -> anyhow::Result<String> {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => break,
                _ = ticks.tick() => {
                    if look(&self.path).await != self.seen {
                        break;
                    }
                }
            }
        }
        settled(&self.path).await;
        self.read().await
    }
}

/// Waits until the file stands still: half of what somebody writes may be a valid file, too.
async fn settled(path: &Path) {
    let mut before = look(path).await;
    for _ in 0..LOOKS {
        sleep(SETTLING).await;
        let now = look(path).await;
        if now == before {
            return;
        }
        before = now;
    }
}

async fn look(path: &Path) -> Option<Looks> {
    let metadata = fs::metadata(path).await.ok()?;
    Some(Looks {
        place: (metadata.dev(), metadata.ino()),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    async fn next(file: &mut FollowedFile) -> Result<String, String> {
        let next = timeout(Duration::from_secs(30), file.next()).await.expect("in time");
        next.map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn a_change_is_seen_however_it_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
        write("file", "one");
        let mut file = FollowedFile::new(at("file")).unwrap();
        assert_eq!(file.read().await.unwrap(), "one");
        // In place, with the same length.
        write("file", "two");
        assert_eq!(next(&mut file).await.unwrap(), "two");
        // By another file that takes its place.
        write("new", "three");
        std::fs::rename(at("new"), at("file")).unwrap();
        assert_eq!(next(&mut file).await.unwrap(), "three");
        // Gone, which is told once, and back again.
        std::fs::remove_file(at("file")).unwrap();
        let error = next(&mut file).await.unwrap_err();
        assert!(error.starts_with("cannot read ") && error.contains("No such file"), "{error}");
        let waited = timeout(INTERVAL * 3, file.next()).await;
        assert!(waited.is_err(), "there is nothing new: {waited:?}");
        write("file", "four");
        assert_eq!(next(&mut file).await.unwrap(), "four");
    }

    #[tokio::test]
    async fn the_swap_of_a_link_to_a_directory_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for version in ["v1", "v2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("keys"), version).unwrap();
        }
        symlink(at("v1"), at("data")).unwrap();
        symlink("data/keys", at("keys")).unwrap();
        let mut file = FollowedFile::new(at("keys")).unwrap();
        assert_eq!(file.read().await.unwrap(), "v1");
        symlink(at("v2"), at("data.new")).unwrap();
        std::fs::rename(at("data.new"), at("data")).unwrap();
        assert_eq!(next(&mut file).await.unwrap(), "v2");
    }
}
