//! A request's place at a server.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use super::line::{Rank, Ticket};
use super::load::ConcurrencyLimit;
use super::upstream::Upstream;
use crate::placement::{Choice, Sent};

/// A request's place at a server, until its answer ends.
#[derive(Debug)]
pub(crate) struct Place {
    upstream: Arc<Upstream>,
    /// What placement noted, where the mode of choosing servers asks it; boxed, so that a place is small
    /// in the other modes.
    sent: Option<Box<Sent>>,
}

impl Place {
    /// Takes a place if there is one, and nobody waits for it.
    pub(crate) fn take(upstream: &Arc<Upstream>, limit: Option<NonZeroUsize>) -> Option<Self> {
        upstream.load.begins(limit).then(|| Self::of(upstream.clone()))
    }

    /// Waits in line for a place.
    pub(crate) async fn wait(
        upstream: Arc<Upstream>,
        limit: &Arc<ConcurrencyLimit>,
        rank: Rank,
    ) -> Self {
        let (ticket, told) = upstream.load.join(limit, rank);
        let mut waiter = Waiter { upstream, ticket, has_begun: false };
        // The line keeps the other end until the turn has come.
        let _ = told.await;
        waiter.has_begun = true;
        Self::of(waiter.upstream.clone())
    }

    /// The place of a request that is counted as in flight.
    fn of(upstream: Arc<Upstream>) -> Self {
        Self { upstream, sent: None }
    }

    /// Keeps what placement noted about the request until the answer ends.
    pub(crate) fn begun(&mut self, sent: Sent) {
        self.sent = Some(Box::new(sent));
    }

    /// Notes that the answer has content.
    pub(crate) fn content_came(&mut self, at: Instant) {
        if let Some(sent) = &mut self.sent {
            sent.first_content(at);
        }
    }

    /// Notes how many tokens the engine counted in the prompt, and how many of these were cached.
    pub(crate) fn usage(&self, prompt_tokens: u64, cached_tokens: Option<u64>) {
        if let Some(sent) = &self.sent {
            let count = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
            sent.usage(count(prompt_tokens), cached_tokens.map(count));
        }
    }

    /// Notes that the answer is an error: it says nothing about the prompts that the server got before.
    pub(crate) fn fails(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.failed(Instant::now());
        }
    }

    /// Why placement chose the server, where it did.
    pub(crate) fn choice(&self) -> Option<&Choice> {
        self.sent.as_ref()?.choice()
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
}

/// A request that waits for a place. Dropping it leaves the line.
struct Waiter {
    upstream: Arc<Upstream>,
    ticket: Ticket,
    /// Whether it has its place.
    has_begun: bool,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.has_begun {
            self.upstream.load.leave(self.ticket);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(sent) = self.sent.take() {
            sent.ended(Instant::now());
        }
        self.upstream.load.end();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::{Duration, Instant, advance, timeout};

    use super::*;
    use crate::priority::Priority;

    fn upstream() -> Arc<Upstream> {
        Arc::new(Upstream::new("http://h".parse().unwrap(), Arc::default()))
    }

    fn limit(most: usize) -> (Arc<ConcurrencyLimit>, Option<NonZeroUsize>) {
        let most = NonZeroUsize::new(most);
        (Arc::new(ConcurrencyLimit::new(most)), most)
    }

    /// One that waits for a place, of this class and since now.
    fn wait(
        upstream: &Arc<Upstream>,
        limit: &Arc<ConcurrencyLimit>,
        class: Priority,
    ) -> impl Future<Output = Place> + use<> {
        let (upstream, limit) = (upstream.clone(), limit.clone());
        let rank = Rank { class, since: Instant::now() };
        async move { Place::wait(upstream, &limit, rank).await }
    }

    #[tokio::test]
    async fn a_place_is_taken_until_it_is_dropped() {
        let (upstream, (limit, most)) = (upstream(), limit(1));
        let place = Place::take(&upstream, most).unwrap();
        assert_eq!(upstream.load.in_flight(), 1);
        assert!(!upstream.load.has_room(most) && Place::take(&upstream, most).is_none());
        let waiting = tokio::spawn(wait(&upstream, &limit, Priority::Default));
        drop(place);
        let place = waiting.await.unwrap();
        assert_eq!((upstream.load.in_flight(), upstream.load.has_room(most)), (1, false));
        drop(place);
        assert_eq!((upstream.load.in_flight(), upstream.load.has_room(most)), (0, true));
        assert!(upstream.load.was_used() && !upstream.load.was_used());
        let many: Vec<_> = (0..9).filter_map(|_| Place::take(&upstream, None)).collect();
        assert_eq!((many.len(), upstream.load.in_flight()), (9, 9));
        drop(many);
        assert_eq!((upstream.load.in_flight(), upstream.load.begun()), (0, 11));
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_place_goes_to_the_one_whose_turn_it_is_and_to_nobody_who_comes_later() {
        let (upstream, (limit, most)) = (upstream(), limit(1));
        let place = Place::take(&upstream, most).unwrap();
        let mut bulk = Box::pin(wait(&upstream, &limit, Priority::Bulk));
        assert!((&mut bulk).now_or_never().is_none());
        let mut usual = Box::pin(wait(&upstream, &limit, Priority::Default));
        assert!((&mut usual).now_or_never().is_none());
        drop(place);
        assert!(Place::take(&upstream, most).is_none(), "it is taken");
        assert!((&mut bulk).now_or_never().is_none());
        let place = usual.now_or_never().unwrap();

        advance(Duration::from_secs(20)).await;
        let mut interactive = Box::pin(wait(&upstream, &limit, Priority::Interactive));
        assert!((&mut interactive).now_or_never().is_none());
        drop(place);
        assert!((&mut interactive).now_or_never().is_none());
        drop(bulk.now_or_never().expect("it has risen"));
        drop(interactive.now_or_never().unwrap());
        assert_eq!(upstream.load.in_flight(), 0);
    }

    #[tokio::test]
    async fn those_that_fit_under_a_new_limit_begin_at_once_and_nobody_is_cut_under_a_lower_one() {
        let (upstream, (limit, most)) = (upstream(), limit(1));
        let first = Place::take(&upstream, most).unwrap();
        let mut others = [(); 3].map(|()| Box::pin(wait(&upstream, &limit, Priority::Default)));
        assert!(others.iter_mut().all(|other| other.now_or_never().is_none()));
        limit.set(NonZeroUsize::new(3));
        upstream.load.go_on();
        let [second, third, mut fourth] = others;
        let (second, third) = (second.now_or_never().unwrap(), third.now_or_never().unwrap());
        assert!((&mut fourth).now_or_never().is_none());
        limit.set(NonZeroUsize::new(1));
        assert_eq!(upstream.load.in_flight(), 3);
        drop((first, second));
        assert!((&mut fourth).now_or_never().is_none() && !upstream.load.has_room(limit.now()));
        limit.set(None);
        upstream.load.go_on();
        drop((fourth.now_or_never().unwrap(), third));
        assert_eq!(upstream.load.in_flight(), 0);
    }

    #[tokio::test]
    async fn one_that_leaves_holds_nobody_up_also_when_its_turn_has_just_come() {
        let (upstream, (limit, most)) = (upstream(), limit(1));
        for has_come in [false, true] {
            let place = Place::take(&upstream, most).unwrap();
            let mut first = Box::pin(wait(&upstream, &limit, Priority::Interactive));
            assert!((&mut first).now_or_never().is_none());
            let mut second = Box::pin(wait(&upstream, &limit, Priority::Bulk));
            assert!((&mut second).now_or_never().is_none());
            if has_come {
                drop(place);
                assert!((&mut second).now_or_never().is_none());
                drop(first);
            } else {
                drop(first);
                drop(place);
            }
            drop(second.now_or_never().expect("its turn"));
            assert_eq!((upstream.load.in_flight(), upstream.load.has_room(most)), (0, true));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_place_and_nobody_is_lost_among_threads_and_there_are_never_more_than_may_be() {
        let (upstream, (limit, most)) = (upstream(), limit(3));
        let tasks = (0..32_usize).map(|task| {
            let (upstream, limit) = (upstream.clone(), limit.clone());
            tokio::spawn(async move {
                for turn in 0..200 {
                    let class = Priority::ALL[(task + turn) % 3];
                    let place = match Place::take(&upstream, most) {
                        Some(place) => place,
                        // Some leave, a part of them when their turn has just come.
                        None if turn % 5 == 0 => {
                            let leaves = wait(&upstream, &limit, class);
                            match timeout(Duration::ZERO, leaves).await {
                                Ok(place) => place,
                                Err(_) => continue,
                            }
                        }
                        None => wait(&upstream, &limit, class).await,
                    };
                    assert!(upstream.load.in_flight() <= 3);
                    tokio::task::yield_now().await;
                    drop(place);
                }
            })
        });
        let all = futures_util::future::join_all(tasks.collect::<Vec<_>>());
        let ended = timeout(Duration::from_secs(60), all).await.expect("somebody waits for ever");
        ended.into_iter().for_each(|task| task.unwrap());
        assert_eq!((upstream.load.in_flight(), upstream.load.has_room(most)), (0, true));
    }
}
