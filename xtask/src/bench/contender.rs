//! The proxies that are compared, each set up as well as we know how, all with as many threads.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use crate::{
    apt::{self, Program},
    http, poll,
    process::Service,
    workspace,
};

/// What stands between the load generator and the mock server.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    /// None for the mock server itself.
    pub(crate) service: Option<Service>,
}

/// Where a proxy listens, where its worker does, and how many threads it may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) worker: u16,
    pub(crate) threads: usize,
}

impl Contender {
    /// No proxy.
    pub(crate) fn direct(worker: u16) -> Self {
        Self { name: DIRECT, port: worker, service: None }
    }

    pub(crate) fn nginx(setup: Setup<'_>) -> Result<Self> {
        Self::start("nginx", setup, |port| {
            let config = configuration(setup, "nginx.conf", &nginx_conf(setup, port))?;
            let mut command = program("nginx")?.command();
            command.arg("-e").arg("stderr").arg("-p").arg(setup.directory).arg("-c").arg(config);
            Ok(command)
        })
    }

    pub(crate) fn haproxy(setup: Setup<'_>) -> Result<Self> {
        Self::start("haproxy", setup, |port| {
            let config = configuration(setup, "haproxy.cfg", &haproxy_cfg(setup, port))?;
            let mut command = program("haproxy")?.command();
            command.arg("-db").arg("-f").arg(config);
            Ok(command)
        })
    }

    pub(crate) fn ours(setup: Setup<'_>) -> Result<Self> {
        Self::start(OURS, setup, |port| {
            let mut command = Command::new(workspace::target()?.join("release").join(OURS));
            command
                .args(["--http-host", "127.0.0.1", "--http-port", &port.to_string()])
                .args(["--worker-url", &format!("bench=http://127.0.0.1:{}", setup.worker)])
                // As the others, which log errors only.
                .env("DYN_LOG", "error")
                .env("TOKIO_WORKER_THREADS", setup.threads.to_string());
            Ok(command)
        })
    }

    fn start(
        name: &'static str,
        setup: Setup<'_>,
        command: impl FnOnce(u16) -> Result<Command>,
    ) -> Result<Self> {
        let [port] = http::free_ports()?;
        let log = setup.directory.join(format!("{name}.log"));
        let mut service = Service::start(name, &mut command(port)?, &log)?;
        let url = format!("http://127.0.0.1:{port}/v1/models");
        poll::until(&format!("{name} serves at {url}"), Duration::from_secs(30), || {
            service.check()?;
            let listed = http::get(&url);
            Ok(listed.is_ok_and(|models| models.body.contains("bench")).then_some(()))
        })?;
        Ok(Self { name, port, service: Some(service) })
    }
}

pub(crate) const DIRECT: &str = "direct";
pub(crate) const OURS: &str = "dynamo-frontend";

fn program(name: &str) -> Result<Program> {
    apt::find_or_fetch(name, name)
        .with_context(|| format!("install {name} to compare with it, or leave it out by --without"))
}

fn configuration(setup: Setup<'_>, name: &str, text: &str) -> Result<std::path::PathBuf> {
    let path = setup.directory.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn nginx_conf(Setup { directory, worker, threads }: Setup<'_>, port: u16) -> String {
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
frontend front
    bind 127.0.0.1:{port}
    default_backend workers
backend workers
    server worker 127.0.0.1:{worker} pool-max-conn 512
"
    )
}
