//! How a server ends, as its connections see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// The server's side: says how far the end has come, and knows when all connections are gone.
pub(super) struct Drain {
    begun: watch::Sender<bool>,
    leaving: Leaving,
}

/// A connection's side. The server waits until it is dropped.
pub(super) struct DrainWatch {
    begun: watch::Receiver<bool>,
    leaving: Leaving,
}

/// Whether clients are to be asked to come back elsewhere.
#[derive(Clone, Default)]
pub(super) struct Leaving(Arc<AtomicBool>);

impl Drain {
    pub(super) fn new() -> Self {
        Self { begun: watch::Sender::new(false), leaving: Leaving::default() }
    }

    pub(super) fn watch(&self) -> DrainWatch {
        DrainWatch { begun: self.begun.subscribe(), leaving: self.leaving.clone() }
    }

    /// Everything is served as before, but clients are asked to come back elsewhere.
    pub(super) fn leave(&self) {
        self.leaving.0.store(true, Ordering::Relaxed);
    }

    /// Idle connections are closed, the others after what they are at.
    pub(super) fn begin(&self) {
        self.leave();
        self.begun.send_replace(true);
    }

    /// How many connections there are.
    pub(super) fn connections(&self) -> usize {
        self.begun.receiver_count()
    }

    /// Until there is none.
    pub(super) async fn ended(&self) {
        self.begun.closed().await;
    }
}

impl DrainWatch {
    pub(super) fn leaving(&self) -> &Leaving {
        &self.leaving
    }

    /// Until idle connections are to be closed.
    pub(super) async fn begun(&mut self) {
        if self.begun.wait_for(|begun| *begun).await.is_err() {
            // The server itself is gone, and with it whoever could say so.
            std::future::pending::<()>().await;
        }
    }
}

impl Leaving {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
