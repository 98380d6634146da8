//! A front door in this process, on a port of its own.

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use dynamo_discovery::{ModelWatcher, WatcherConfig};
use dynamo_http::{
    AdminAccess, Feed, FrontendConfig, ServeOptions, Source, Switchboard, View, serve,
};
use dynamo_namespace::NamespaceScope;
use futures_util::StreamExt as _;
use tokio::net::TcpListener;

use crate::invariants::Witness;
use crate::{Client, eventually};

/// A front door with its own configuration of discovery, which lives for as long as the test.
///
/// The value is also a client of the front door, by `Deref`.
#[derive(Clone)]
pub struct Frontend {
    client: Client,
    admin: Client,
    switchboard: Switchboard,
    scope: NamespaceScope,
    witness: Witness,
}

impl Frontend {
    /// Starts one, and returns when it listens.
    pub async fn start(config: WatcherConfig) -> Self {
        let scope = config.target_namespace().clone();
        let (switchboard, writer) = Switchboard::new([scope.clone()]);
        let watcher = ModelWatcher::new(config).unwrap();
        let witness = Witness::of(scope.clone());
        let seen = witness.clone();
        let events = watcher.into_stream().inspect(move |event| seen.note(event)).boxed();
        let feed = Feed::new(writer, [Source::new("etcd", events)]);
        let frontend = dynamo_http::Frontend::new(
            &switchboard,
            &scope,
            feed.status(),
            &FrontendConfig::default(),
        );
        tokio::spawn(feed.run());
        let (client, admin) = (
            listen(frontend.router()).await,
            listen(frontend.admin_router(AdminAccess::new(Ipv4Addr::LOCALHOST.into()))).await,
        );
        Self { client, admin, switchboard, scope, witness }
    }

    /// A client of its admin port.
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// Waits until the front door is ready.
    pub async fn ready(self) -> Self {
        eventually("/ready", async || self.get("/ready").await.status == 200).await;
        self
    }

    /// The witness, which has seen each event of the front door's watcher.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// The view that the handlers see now.
    pub fn view(&self) -> Arc<View> {
        self.switchboard.view(&self.scope)
    }
}

async fn listen(router: Router) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(serve(listener, router, ServeOptions::default(), std::future::pending()));
    client
}

impl Deref for Frontend {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
