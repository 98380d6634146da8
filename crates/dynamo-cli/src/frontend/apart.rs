//! A stream whose items are computed in a task of their own.

use std::panic::resume_unwind;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;

/// How many items may wait for the reader.
const AHEAD: usize = 64;

/// The same items, computed in parallel to their reader: one core checks the next entries of a long
/// list while another core stages the previous ones.
///
/// A panic of the stream reaches the reader. The task ends with the stream or with its reader.
pub(super) fn apart<T: Send + 'static>(mut items: BoxStream<'static, T>) -> BoxStream<'static, T> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let task = tokio::spawn(async move {
        loop {
            let item = tokio::select! {
                () = sender.closed() => return,
                item = items.next() => item,
            };
            let Some(item) = item else { return };
            // If the reader is gone, the next turn of the loop ends the task.
            let _ = sender.send(item).await;
        }
    });
    stream::unfold((receiver, task), async |(mut receiver, task)| {
        if let Some(item) = receiver.recv().await {
            return Some((item, (receiver, task)));
        }
        match task.await {
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            _ => None,
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_items_are_the_same_in_the_same_order() {
        let items: Vec<_> = apart(stream::iter(0..1000).boxed()).collect().await;
        assert!(items.into_iter().eq(0..1000));
    }

    #[tokio::test]
    async fn the_stream_is_dropped_with_its_reader() {
        let (told, dropped) = tokio::sync::oneshot::channel::<()>();
        let items = stream::pending::<()>().map(move |item| (&told, item).1);
        drop(apart(items.boxed()));
        let ended = tokio::time::timeout(Duration::from_secs(10), dropped).await;
        assert!(ended.expect("the task ended").is_err());
    }

    #[tokio::test]
    #[should_panic(expected = "the third")]
    async fn a_panic_of_the_stream_is_the_readers() {
        let items =
            stream::iter(0..9).map(|item| if item == 2 { panic!("the third") } else { item });
        apart(items.boxed()).for_each(async |_| {}).await;
    }
}
