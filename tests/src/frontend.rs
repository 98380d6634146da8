//! A front door in this process, on a port of its own.

use std::ops::Deref;
use std::sync::Arc;

use dynamo_discovery::{ModelWatcher, WatcherConfig};
use dynamo_http::{Feed, FrontendConfig, ServeOptions, Source, Switchboard, View, serve};
use dynamo_namespace::NamespaceScope;
use tokio::net::TcpListener;

use crate::{Client, eventually};

/// A front door that discovers what its configuration says; it lives as long as its test.
///
/// It is used as the client of itself.
#[derive(Clone)]
pub struct Frontend {
    client: Client,
    switchboard: Switchboard,
    scope: NamespaceScope,
}

impl Frontend {
    /// Starts one, and returns when it listens.
    pub async fn start(config: WatcherConfig) -> Self {
        let scope = config.target_namespace.clone();
        let (switchboard, writer) = Switchboard::new([scope.clone()]);
        let watcher = ModelWatcher::new(config).unwrap();
        let feed = Feed::new(writer, [Source::new("etcd", watcher.into_stream())]);
        let frontend = dynamo_http::Frontend::new(
            switchboard.clone(),
            scope.clone(),
            feed.status(),
            &FrontendConfig::default(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(feed.run());
        let options = ServeOptions::default();
        tokio::spawn(serve(listener, frontend.router(), options, std::future::pending()));
        Self { client, switchboard, scope }
    }

    /// Waits until it knows what there is.
    pub async fn ready(self) -> Self {
        eventually("/ready", async || self.get("/ready").await.status == 200).await;
        self
    }

    /// What its handlers see now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.switchboard.view(&self.scope)
    }
}

impl Deref for Frontend {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
