//! A single etcd as a child process: free loopback ports, a temporary data directory.

use std::{path::Path, process::Command};

use anyhow::Result;
use tempfile::TempDir;

use super::ready;
use crate::{http::free_ports, process::Service};

/// The fields drop in this order: first the process, then its data.
#[derive(Debug)]
pub(crate) struct Local {
    endpoint: String,
    _service: Service,
    _directory: TempDir,
}

impl Local {
    pub(crate) fn start(binary: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("dyn-etcd-").tempdir()?;
        let [client, peer] = free_ports()?.map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new(binary);
        command
            .args(["--name", "itest"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("itest={peer}")])
            .arg("--data-dir")
            .arg(directory.path().join("data"));
        let mut service = Service::start("etcd", &mut command, &directory.path().join("log"))?;
        ready::wait(&client, || service.check())?;
        Ok(Self { endpoint: client, _service: service, _directory: directory })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}
