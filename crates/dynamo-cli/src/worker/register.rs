//! Keeps the store at what should be published, through every outage of the store.

use std::time::Duration;

use dynamo_discovery::{ModelEntry, Registration, RegistrationConfig, StoreError};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

/// Publishes, updates and re-publishes until `stop`, then withdraws.
///
/// What is under way at `stop` is finished first, so that nothing is left behind; the caller
/// bounds the time.
pub(crate) async fn register(
    config: RegistrationConfig,
    mut wanted: watch::Receiver<Vec<ModelEntry>>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let mut registration: Option<Registration> = None;
    let mut retry = Retry::default();
    loop {
        let entries = wanted.borrow_and_update().clone();
        let names = names(&entries);
        let done = match registration.as_mut() {
            None if entries.is_empty() => Ok(()),
            None => Registration::publish(config.clone(), entries)
                .await
                .map(|published| registration = Some(published)),
            Some(registration) => registration.update(entries).await,
        };
        let pause = match done {
            Ok(()) => {
                retry = Retry::default();
                match &registration {
                    Some(_) if names.is_empty() => info!("no model is registered now"),
                    Some(_) => info!(models = names, "registered"),
                    None => {}
                }
                None
            }
            Err(StoreError::LeaseGone) => {
                registration = None;
                Some(retry.again())
            }
            Err(error) => Some(retry.failed(&error)),
        };
        let lost = registration.as_ref().map(Registration::lost);
        tokio::select! {
            () = &mut stop => break,
            changed = wanted.changed() => if changed.is_err() { break },
            () = resolve(lost) => {
                info!("publishing again");
                registration = None;
            }
            () = resolve(pause.map(sleep)) => {}
        }
    }
    if let Some(registration) = registration {
        match registration.withdraw().await {
            Ok(()) => info!("withdrawn"),
            Err(error) => warn!(error = %chain(&error), "not withdrawn; the lease will end it"),
        }
    }
}

/// The future, if there is one; else never.
async fn resolve<F: Future<Output = ()>>(future: Option<F>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn names(entries: &[ModelEntry]) -> String {
    let names: Vec<_> = entries.iter().map(ModelEntry::name).collect();
    names.join(", ")
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    crate::failure::one_line(&text)
}

/// How long to wait before the next try, and whether the outage was told already.
#[derive(Debug, Default)]
struct Retry {
    tries: u32,
    told: bool,
}

impl Retry {
    const LONGEST: Duration = Duration::from_secs(1);

    fn failed(&mut self, error: &StoreError) -> Duration {
        let error = chain(error);
        if std::mem::replace(&mut self.told, true) {
            debug!(error, "cannot register");
        } else {
            warn!(error, "cannot register, trying again until it works");
        }
        self.again()
    }

    /// Doubles from 50 ms to a second, with jitter.
    fn again(&mut self) -> Duration {
        let span = Duration::from_millis(50) * 2_u32.pow(self.tries.min(5));
        self.tries += 1;
        span.min(Self::LONGEST).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}
