//! A value made from files, and made again when they change.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::error::TlsError;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// A value made from files.
pub(super) struct FromFiles<T> {
    paths: Vec<PathBuf>,
    make: fn(&[Vec<u8>]) -> Result<T, String>,
    current: ArcSwap<T>,
    /// What was tried last, good or not: the bytes, since times of files are too coarse, and
    /// Kubernetes swaps a link above them.
    tried: Mutex<Tried>,
    watched: AtomicBool,
}

/// What the files held, or why they could not be read.
type Tried = Result<Vec<Vec<u8>>, String>;

impl<T: Send + Sync + 'static> FromFiles<T> {
    /// # Errors
    ///
    /// When a file cannot be read, or the files make no value.
    pub(super) fn load(
        paths: Vec<PathBuf>,
        make: fn(&[Vec<u8>]) -> Result<T, String>,
    ) -> Result<Self, TlsError> {
        let contents = read(&paths)?;
        let value = make(&contents).map_err(|reason| invalid(&paths, reason))?;
        Ok(Self {
            paths,
            make,
            current: ArcSwap::from_pointee(value),
            tried: Mutex::new(Ok(contents)),
            watched: AtomicBool::new(false),
        })
    }

    pub(super) fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Looks at the files from now on, for as long as someone has the value.
    pub(super) fn reload_on_change(self: &Arc<Self>) {
        if self.watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let files = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut tick = interval(INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(files) = files.upgrade() else { return };
                // Files may be on a disk that takes its time.
                let looked = tokio::task::spawn_blocking(move || files.refresh());
                if looked.await.is_err() {
                    return;
                }
            }
        });
    }

    /// Takes over what the files hold, if that is new and good.
    fn refresh(&self) {
        let read = read(&self.paths);
        let now = read.as_ref().map(Vec::clone).map_err(TlsError::to_string);
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if *tried == now {
            return;
        }
        *tried = now;
        let made = read.and_then(|contents| {
            (self.make)(&contents).map_err(|reason| invalid(&self.paths, reason))
        });
        match made {
            Ok(value) => {
                self.current.store(Arc::new(value));
                info!(files = ?self.paths, "certificates read again");
            }
            Err(error) => warn!(%error, "certificates not read again: those before stay"),
        }
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, TlsError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| TlsError::Read { path: path.clone(), error })
    };
    paths.iter().map(read).collect()
}

fn invalid(paths: &[PathBuf], reason: String) -> TlsError {
    TlsError::Invalid { paths: paths.to_vec(), reason }
}
