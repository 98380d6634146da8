//! Asking control ports and servers who they are.

use std::sync::Arc;
use std::time::Duration;

use dynamo_discovery::{Kind, WorkerUrl};
use dynamo_namespace::Namespace;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::claims::{Asking, Claimed};
use super::fleet::Fleet;
use super::identity::Finding;
use super::probe::{Heard, ask_control, ask_for_model};
use super::targets::Targets;
use super::upstream::Upstream;

/// How long a control port may take to answer. It never waits for the engine.
const CONTROL_PATIENCE: Duration = Duration::from_secs(1);
/// How long an engine may take to list its models: longer than the habit of any engine.
const ENGINE_PATIENCE: Duration = Duration::from_secs(5);

impl Fleet {
    /// Asks the control port about a claim, when it is its turn, and takes the answer in.
    pub(crate) async fn ask(&self, claimed: &Claimed) -> Finding {
        let _turn = claimed.lane.turn.lock().await;
        claimed.ask_begins();
        let claim = &claimed.claim;
        let terms = self.terms_of(&claim.namespace);
        let Heard { finding, engine_started } =
            ask_control(self.connector(), &claim.control, claim.id, terms, CONTROL_PATIENCE).await;
        if let Some(started) = engine_started {
            claimed.note_start(started);
        }
        self.attention().note_finding(claimed, claimed.take_in(finding), finding);
        finding
    }

    /// Asks a server of a namespace whether it lists a model.
    pub(crate) async fn ask_for_model(
        &self,
        namespace: &Namespace,
        url: &WorkerUrl,
        model: &str,
    ) -> Finding {
        let terms = self.terms_of(namespace);
        ask_for_model(self.connector(), url, model, terms, ENGINE_PATIENCE).await
    }

    /// Asks in a task of its own. `held` is kept until the question has ended.
    pub(super) fn ask_beside(&self, asking: Asking, held: impl Send + 'static) {
        let this = self.clone();
        tokio::spawn(async move {
            this.ask(&asking.0).await;
            drop((asking, held));
        });
    }

    /// Makes sure, for a new connection to a server, that its workers have answered lately, and
    /// returns whether it is still a server of the model. The question goes on when the request ends.
    ///
    /// A control port that was never asked is asked now, and nobody waits for its answer: so a worker
    /// is known from its first prompt on, also if it dies right after that.
    pub(crate) async fn confirm(
        &self,
        targets: &Targets,
        upstream: &Arc<Upstream>,
        kind: Kind,
    ) -> bool {
        let Some(target) = targets.target(upstream) else { return false };
        let now = Instant::now();
        for claimed in target.claims().filter(|claimed| claimed.was_never_asked()) {
            if let Some(asking) = claimed.begin() {
                self.ask_beside(asking, ());
            }
        }
        let in_question = target.claims().filter(|claimed| claimed.is_in_question(now));
        let answers = in_question.map(|claimed| async {
            let told = claimed.told();
            tokio::pin!(told);
            // Before the question begins, so that its end is not missed.
            told.as_mut().enable();
            if let Some(asking) = claimed.begin() {
                self.ask_beside(asking, ());
            }
            told.await;
        });
        // A question that waits for its turn may end later, and is no answer then.
        let _ = timeout(CONTROL_PATIENCE, join_all(answers)).await;
        target.serves(kind)
    }
}
