//! A queue whose output stands still, fails, or is slow.

use std::sync::Mutex;
use std::sync::mpsc;

use super::*;

/// Takes nothing before it is told to, and keeps what it has taken.
struct Slow {
    open: Receiver<()>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Sink<u8> for Slow {
    fn take(&mut self, item: u8) {
        let _ = self.open.recv();
        self.taken.lock().unwrap().push(item);
    }

    fn report(&mut self, _: u64) {}
}

#[test]
fn an_item_that_finds_the_queue_full_is_dropped_and_counted_and_the_others_are_written() {
    let (opener, open) = mpsc::channel();
    let taken = Arc::<Mutex<Vec<u8>>>::default();
    let queue = Queue::start("test", Slow { open, taken: Arc::clone(&taken) }).unwrap();
    // One may be in the hands of the thread already.
    for _ in 0..CAPACITY + 10 {
        queue.put(b'.');
    }
    let (waiting, most, dropped) = queue.counts();
    assert!((most..=most + 1).contains(&waiting), "{waiting}");
    assert!((9..=10).contains(&dropped), "{dropped}");
    drop(opener);
    queue.wait();
    let written = taken.lock().unwrap().len();
    assert_eq!(written as u64, CAPACITY as u64 + 10 - dropped);
    assert_eq!(queue.counts(), (0, CAPACITY, dropped));
    assert_eq!((queue.take_untold(), queue.take_untold()), (dropped, 0));
}

#[test]
fn the_end_does_not_wait_for_an_output_that_takes_nothing() {
    let (_opener, open) = mpsc::channel();
    let queue = Queue::start("test", Slow { open, taken: Arc::default() }).unwrap();
    for _ in 0..CAPACITY + 10 {
        queue.put(b'.');
    }
    queue.wait();
}

/// Tells what is asked of it.
struct Telling(mpsc::Sender<Option<u8>>);

impl Sink<u8> for Telling {
    fn take(&mut self, item: u8) {
        let _ = self.0.send(Some(item));
    }

    fn rest(&mut self) {
        let _ = self.0.send(None);
    }

    fn report(&mut self, _: u64) {}
}

#[test]
fn items_come_in_order_and_the_sink_rests_after_them_and_when_it_is_woken() {
    let (sender, told) = mpsc::channel();
    let queue = Queue::start("test", Telling(sender)).unwrap();
    (0..3).for_each(|item| queue.put(item));
    queue.wait();
    let first: Vec<_> = told.try_iter().collect();
    assert_eq!(first.iter().flatten().collect::<Vec<_>>(), [&0, &1, &2]);
    assert_eq!(first.last(), Some(&None));
    // It rests once more before it sleeps; what comes after that is the waking.
    queue.wake();
    queue.wait();
    assert!(told.try_iter().all(|item| item.is_none()));
}
