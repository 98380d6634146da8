//! How workers and their engines are asked.

use std::path::PathBuf;

use anyhow::Context as _;
use dynamo_discovery::{ControlUrl, WorkerUrl};
use dynamo_http::{WorkerKey, WorkerTls};

use crate::engine::{Client, HttpEngine};
use crate::failure::Failure;
use crate::settings::authorities;
use crate::settings::given::{Given, Value};
use crate::settings::table::Asking;

/// The keys that workers want, and whom an `https` one is trusted by.
pub(super) struct Workers {
    control_key: WorkerKey,
    engine_key: WorkerKey,
    tls: WorkerTls,
}

impl Workers {
    /// # Errors
    ///
    /// When a file cannot be read or does not hold what it should.
    pub(super) fn read(given: &Given) -> Result<Self, Failure> {
        let asking = Asking::read(given)?;
        Ok(Self {
            control_key: key(asking.control_key_file)?,
            engine_key: key(asking.worker_api_key_file)?,
            tls: authorities(asking.worker_ca)?,
        })
    }

    pub(super) fn engine(&self, url: &WorkerUrl) -> HttpEngine {
        HttpEngine::new(url.clone(), self.engine_key.clone(), self.tls.clone())
    }

    /// A control port, with the key of those who may drain.
    pub(super) fn control_with_key(&self, url: &ControlUrl) -> Client {
        Client::new(url.as_worker_url().clone(), self.control_key.clone(), self.tls.clone())
    }

    /// A control port, as frontends ask it.
    pub(super) fn control(&self, url: &ControlUrl) -> Client {
        Client::new(url.as_worker_url().clone(), WorkerKey::default(), self.tls.clone())
    }
}

fn key(file: Value<Option<PathBuf>>) -> Result<WorkerKey, Failure> {
    let label = file.setting.label();
    let key = WorkerKey::default();
    if let Some(path) = file.take() {
        let read = std::fs::read_to_string(&path)
            .map_err(anyhow::Error::from)
            .and_then(|text| key.set(text.trim()).map_err(anyhow::Error::from));
        read.with_context(|| format!("{label}: {}", path.display())).map_err(Failure::Usage)?;
    }
    Ok(key)
}
