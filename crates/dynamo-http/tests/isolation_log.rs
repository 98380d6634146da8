//! What is logged of isolation. The test is alone in its process: whether a place logs at all is
//! decided once for all threads, and other tests would decide it while this one begins to listen.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod common;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use common::{Door, Worker, chat, whole};
use dynamo_discovery::{Accepts, Instance, RequestField};
use dynamo_http::{FrontendConfig, Isolation, ServeOptions};
use tracing::field::{Field, Visit};
use tracing::span;

const CHAT: &str = "/v1/chat/completions";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// The salt of `team-a` by this secret, without and with the client's own salt `chat-7`.
const OF_TEAM_A: &str = "LfsVPV_LsyQLoUfddzWGn4SNgULn9jNS8mvCXWEO1Lc";
const OF_TEAM_A_7: &str = "tLuwaKKiN4rKjk-wY9_-DKvTJACrXt09KYwaJlVf3jw";

/// Keeps all that is logged on this thread.
struct Lines(Arc<Mutex<String>>);

impl Visit for Lines {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0.lock().unwrap(), "{field}={value:?}").unwrap();
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut Self(self.0.clone()));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Self(self.0.clone()));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Self(self.0.clone()));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn no_line_of_any_level_shows_a_salt_or_the_secret_and_a_deaf_model_is_told_once() {
    let lines = Arc::new(Mutex::new(String::new()));
    let _logged = tracing::subscriber::set_default(Lines(lines.clone()));
    let worker = Worker::start([whole("{}")]).await;
    let config = FrontendConfig::new().with_isolation(Some(Isolation::new(SECRET).unwrap()));
    let mut door = Door::with("team-a", &config, ServeOptions::default()).await;
    door.writer.stage_ready();
    door.writer.publish();
    let one = worker.instance("team-a", "m");
    let accepts = Accepts::from_iter([RequestField::CacheSalt]);
    let entry = one.entry().clone().with_accepts(accepts);
    door.add(&Arc::new(Instance::new(one.key().clone(), None, entry)));
    door.add(&worker.instance("team-a", "deaf"));
    let body = r#"{"model":"m","cache_salt":"chat-7"}"#;
    assert_eq!(door.post(CHAT, body).await.status(), 200);
    for _ in 0..3 {
        assert_eq!(door.post(CHAT, &chat("deaf")).await.status(), 503);
    }
    let lines = lines.lock().unwrap();
    assert!(lines.contains("message=sending"), "{lines}");
    assert_eq!(lines.matches("no worker of the model accepts cache_salt").count(), 1, "{lines}");
    let secret = str::from_utf8(SECRET).unwrap();
    for hidden in [secret, OF_TEAM_A_7, OF_TEAM_A, "chat-7"] {
        assert!(!lines.contains(hidden), "{hidden}");
    }
    assert!(!format!("{config:?}").contains(secret));
}
