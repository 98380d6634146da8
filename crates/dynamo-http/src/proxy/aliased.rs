//! A request for an alias: its targets in turn, until one answers.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use memchr::memmem;
use tracing::info;

use super::answer::Head;
use super::forward::{Answered, Ask, Forwarder, bad_gateway};
use super::lookup::{not_served, unknown};
use super::naming::Naming;
use super::received::Received;
use super::refusal::{self, Refusal};
use super::sends::Sends;
use crate::alias::{Alias, AliasTable, Offer, Step};
use crate::error::ApiError;
use crate::fleet::Targets;
use crate::meter::{Ending, ModelSeries, Record};
use crate::route::Route;
use crate::view::Lens;

/// The targets of an alias for one request.
pub(super) struct Way {
    alias: Arc<Alias>,
    steps: Vec<Step>,
}

/// A worker's refusal that is kept while another target is asked, and the series of its model.
type Kept = (Box<Refusal>, Arc<ModelSeries>);

/// What an answer means for the next target.
enum Judged {
    /// The answer goes to the client.
    Final(Answered),
    /// Another target is asked. The answer is kept, if it could be read.
    Next(Option<Box<Refusal>>),
}

impl Way {
    /// The targets of an alias, if the caller sees an alias of this name.
    ///
    /// # Errors
    ///
    /// 404 when no target serves the route.
    pub(super) fn find(
        table: &AliasTable,
        lens: &Lens,
        name: &str,
        route: Route,
        session: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Result<Option<Self>, ApiError> {
        if table.get(name).is_none() {
            return Ok(None);
        }
        lens.read(|sight| {
            let Some(shown) = Offer::new(sight, Some(table)).alias(name) else { return Ok(None) };
            let alias = shown.alias.clone();
            if sight.model(name).is_some() && !alias.stands_for_itself() && alias.is_to_be_told() {
                info!(alias = name, "an alias hides the model of its name");
            }
            let steps = shown.steps(route.kind(), session().as_deref());
            if steps.is_empty() {
                return Err(not_served(name, shown.kinds(), route));
            }
            Ok(Some(Self { alias, steps }))
        })
    }

    /// The targets that the caller sees now. Those with a server in rotation come first: the share of
    /// a target without one goes to the others, and the fallbacks come before such a target.
    fn targets(&self, received: &Received<'_>) -> Vec<(&Step, Arc<Targets>)> {
        let mut targets = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            if let Ok(found) = received.lookup(Some(&step.target)).find() {
                targets.push((step, found));
            }
        }
        let need = received.need();
        let is_out = |targets: &Targets| {
            !targets.upstreams(need).any(|upstream| upstream.rotation.out().is_none())
        };
        targets.sort_by_cached_key(|(_, targets)| is_out(targets));
        targets
    }
}

impl Forwarder {
    /// Sends a request to the targets of an alias until one answers.
    pub(super) async fn by_alias(
        &self,
        way: Way,
        received: &Received<'_>,
        record: &mut Record,
    ) -> Result<Answered, ApiError> {
        self.resends.budget.deposit();
        let mut sends = Sends::default();
        let (mut kept, mut failed) = (None::<Kept>, None::<ApiError>);
        let mut left = way.targets(received).into_iter().peekable();
        while let Some((step, targets)) = left.next() {
            let lookup = received.lookup(Some(&step.target));
            // The first is fresh, and waits may lie before the others.
            let Ok(targets) = (if sends.is_none() { Ok(targets) } else { lookup.find() }) else {
                continue;
            };
            let series = targets.series().clone();
            record.moves_to(series.clone(), received.asked.stream);
            if step.falls_back {
                info!(
                    request_id = ?received.id.value(), alias = way.alias.name(),
                    model = targets.name(), "asking a fallback"
                );
            }
            let naming = Naming::new(&way.alias, &step.target, step.falls_back);
            let path = received.path(&targets);
            let place = &received.asked.places.model;
            let ask = Ask {
                rename: way.alias.asks_as(&step.target).map(|name| (place, name)),
                edits_answer: naming.rename.is_some(),
                ..received.ask(lookup, path.as_ref())
            };
            let judged = match self.forward_again(targets, &ask, &mut sends, record).await {
                Ok(answered) if left.peek().is_none() => Judged::Final(answered),
                Ok(answered) => Box::pin(self.judge(&way.alias, answered, &mut sends)).await,
                Err(error) => {
                    // That a model has just gone says less than any other failure.
                    if failed.as_ref().is_none_or(|before| before.status() == StatusCode::NOT_FOUND)
                    {
                        failed = Some(error);
                    }
                    if !sends.may_go_on() {
                        break;
                    }
                    continue;
                }
            };
            match judged {
                Judged::Next(refusal) => {
                    failed.get_or_insert_with(bad_gateway);
                    kept = kept.or_else(|| Some((refusal?.named(&naming), series)));
                }
                // The first refusal says more than that of a target that was to mend it.
                Judged::Final(answered)
                    if kept.is_some() && falls_back_on(&way.alias, status(&answered)) =>
                {
                    if let Answered::Head(head) = &answered {
                        let ending = Ending::of(head.response.status());
                        self.fleet.series(head.place.upstream()).ended(ending);
                    }
                    break;
                }
                Judged::Final(Answered::Refused(refusal)) => {
                    return Ok(Answered::Refused(refusal.named(&naming)));
                }
                Judged::Final(Answered::Head(head)) => {
                    let naming = Some(Box::new(naming));
                    return Ok(Answered::Head(Head { naming, ..head }));
                }
            }
        }
        if let Some((refusal, series)) = kept {
            record.moves_to(series, received.asked.stream);
            return Ok(Answered::Refused(refusal));
        }
        Err(failed.unwrap_or_else(|| unknown(true, &received.asked.model)))
    }

    /// Decides whether the next target is asked after this answer.
    async fn judge(&self, alias: &Alias, answered: Answered, sends: &mut Sends) -> Judged {
        let pay = |reason| self.resends.pay(reason);
        let head = match answered {
            Answered::Head(head) => head,
            Answered::Refused(refusal) => {
                let goes_on =
                    falls_back_on(alias, refusal.status()) && sends.goes_on_after_answer(pay);
                return if goes_on {
                    Judged::Next(Some(refusal))
                } else {
                    Judged::Final(Answered::Refused(refusal))
                };
            }
        };
        let status = head.response.status();
        let may_be_too_long = alias.falls_back_on_context_length()
            && status == StatusCode::BAD_REQUEST
            && is_short(head.response.headers());
        let goes_on =
            may_be_too_long || falls_back_on(alias, status) && sends.goes_on_after_answer(pay);
        if !goes_on {
            return Judged::Final(Answered::Head(head));
        }
        self.fleet.series(head.place.upstream()).ended(Ending::of(status));
        match Refusal::read(head).await {
            Some(refusal)
                if may_be_too_long
                    && !(is_too_long(refusal.body()) && sends.goes_on_after_answer(pay)) =>
            {
                Judged::Final(Answered::Refused(refusal))
            }
            refusal => Judged::Next(refusal),
        }
    }
}

/// Whether the status of an answer is a reason to ask the next target.
fn falls_back_on(alias: &Alias, status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS && alias.falls_back_on_too_many_requests()
}

fn status(answered: &Answered) -> StatusCode {
    match answered {
        Answered::Head(head) => head.response.status(),
        Answered::Refused(refusal) => refusal.status(),
    }
}

/// Whether all of an answer can be kept.
fn is_short(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|value| value.parse().ok()).is_none_or(|length: usize| length <= refusal::MOST)
}

/// Whether an error says that the prompt is longer than the model's context, in the words of OpenAI and
/// vLLM, of SGLang, of llama.cpp, or of Anthropic.
fn is_too_long(body: &[u8]) -> bool {
    const WORDS: [&str; 5] = [
        "context_length_exceeded",
        "maximum context length",
        "longer than the model's context length",
        "exceed_context_size_error",
        "prompt is too long",
    ];
    WORDS.iter().any(|words| memmem::find(body, words.as_bytes()).is_some())
}
