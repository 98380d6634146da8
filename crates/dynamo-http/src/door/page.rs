//! What walks all instances: it is made beside the threads that serve clients.

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};

/// How long a costly page is given to further readers.
const REUSE: Duration = Duration::from_secs(1);
/// With more instances, a page is costly.
const COSTLY: usize = 1000;

/// One page, which is made once at a time.
#[derive(Default)]
pub(super) struct Page<T> {
    /// When the last one was begun, and the last one.
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone + Default + Send + 'static> Page<T> {
    /// The page, as it was when it was asked for, or later. Readers who wait for it together get the
    /// same page. Only a page of many instances may be older than the question: by a second at most.
    pub(super) async fn read(
        &self,
        instances: usize,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((begun, page)) = &*last
            && (*begun >= asked || instances > COSTLY && begun.elapsed() < REUSE)
        {
            return page.clone();
        }
        let begun = Instant::now();
        let page = match spawn_blocking(make).await {
            Ok(page) => page,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends, and with it the connection of whoever asks.
            Err(_) => T::default(),
        };
        *last = Some((begun, page.clone()));
        page
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use futures_util::future::join_all;
    use tokio::time::advance;

    use super::*;

    #[derive(Default)]
    struct Counted {
        page: Page<u8>,
        made: Arc<AtomicU8>,
    }

    impl Counted {
        async fn read(&self, instances: usize) -> u8 {
            let made = self.made.clone();
            self.page.read(instances, move || made.fetch_add(1, Ordering::Relaxed) + 1).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_of_many_instances_is_made_once_a_second_and_any_other_for_each_reader() {
        let page = Counted::default();
        assert_eq!(page.read(COSTLY).await, 1);
        advance(Duration::from_millis(1)).await;
        assert_eq!(page.read(COSTLY).await, 2, "it shows what its reader has just done");
        advance(Duration::from_millis(1)).await;
        for _ in 0..3 {
            assert_eq!(page.read(COSTLY + 1).await, 2);
        }
        advance(REUSE).await;
        assert_eq!(page.read(COSTLY + 1).await, 3, "no page is older than a second");
    }

    #[tokio::test(start_paused = true)]
    async fn readers_who_wait_together_get_the_same_page() {
        let page = Counted::default();
        let read = join_all((0..50).map(|_| page.read(1))).await;
        assert_eq!(read, [1; 50]);
    }
}
