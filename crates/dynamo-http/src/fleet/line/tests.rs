//! Tests: whose turn it is.

use proptest::prelude::*;

use super::*;
use Priority::{Bulk, Default as Usual, Interactive};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A line that these have joined, each of its class and after so many seconds; and the beginning.
fn line(joined: &[(Priority, u64)]) -> (Line<usize>, Instant) {
    let (mut line, began) = (Line::default(), Instant::now());
    for (one, (class, after)) in joined.iter().enumerate() {
        line.join(Rank { class: *class, since: began + seconds(*after) }, one);
    }
    (line, began)
}

/// All that wait, in the order of their turns at one moment.
fn all(line: &mut Line<usize>, now: Instant) -> Vec<usize> {
    std::iter::from_fn(|| line.next(now)).collect()
}

#[test]
fn those_of_one_class_go_in_the_order_in_which_they_came() {
    for class in Priority::ALL {
        let (mut line, began) = line(&[(class, 0), (class, 0), (class, 3), (class, 25)]);
        assert_eq!(all(&mut line, began + seconds(30)), [0, 1, 2, 3], "{class}");
    }
}

#[test]
fn a_higher_class_goes_first() {
    let (mut line, began) =
        line(&[(Bulk, 0), (Usual, 1), (Bulk, 2), (Interactive, 3), (Usual, 4), (Interactive, 5)]);
    assert_eq!(all(&mut line, began + seconds(5)), [3, 5, 1, 4, 0, 2]);
}

#[test]
fn one_that_waits_rises_by_a_class_every_ten_seconds() {
    let whose = |joined: &[(Priority, u64)], after: Duration| {
        let (mut line, began) = line(joined);
        line.next(began + after)
    };
    let (second, third) = ([(Bulk, 0), (Usual, 9)], [(Bulk, 0), (Interactive, 19)]);
    let just_before = |seconds| Duration::from_secs(seconds) - Duration::from_millis(1);
    assert_eq!(whose(&second, just_before(10)), Some(1));
    assert_eq!(whose(&second, seconds(10)), Some(0), "of one class by now, and it came first");
    assert_eq!(whose(&third, just_before(20)), Some(1));
    assert_eq!(whose(&third, seconds(20)), Some(0));
    assert_eq!(whose(&[(Usual, 0), (Interactive, 9)], seconds(10)), Some(0));
}

#[test]
fn nobody_starves() {
    // One place becomes free each second, and each second an interactive request comes.
    let (mut line, began) = (Line::default(), Instant::now());
    line.join(Rank { class: Bulk, since: began }, None);
    for second in 0.. {
        let now = began + seconds(second);
        line.join(Rank { class: Interactive, since: now }, Some(second));
        if line.next(now) == Some(None) {
            assert_eq!(second, 20);
            return;
        }
    }
}

#[test]
fn one_that_joins_again_keeps_its_rank() {
    let (mut line, began) = line(&[(Usual, 1), (Usual, 2)]);
    line.join(Rank { class: Usual, since: began }, 2);
    assert_eq!(all(&mut line, began + seconds(2)), [2, 0, 1]);
}

#[test]
fn one_that_leaves_is_never_next_and_leaves_once() {
    let mut line = Line::default();
    let (now, class) = (Instant::now(), Bulk);
    let tickets = ["a", "b", "c"].map(|one| line.join(Rank { class, since: now }, one));
    assert_eq!(line.leave(tickets[0]), Some("a"));
    assert_eq!(line.leave(tickets[0]), None);
    assert_eq!(line.next(now), Some("b"));
    assert_eq!(line.leave(tickets[1]), None, "its turn has come");
    assert_eq!((line.next(now), line.next(now)), (Some("c"), None));
}

/// What happens to a line.
#[derive(Clone, Copy, Debug)]
enum Event {
    Joins(Priority),
    /// The one that joined as this one, if it still waits.
    Leaves(usize),
    Next,
    Passes(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => proptest::sample::select(&Priority::ALL[..]).prop_map(Event::Joins),
        1 => (0_usize..40).prop_map(Event::Leaves),
        2 => Just(Event::Next),
        2 => (0_u64..12_000).prop_map(Event::Passes),
    ]
}

proptest! {
    #[test]
    fn nobody_is_lost_and_only_a_higher_class_overtakes(events in proptest::collection::vec(event(), 0..80)) {
        let (mut line, mut now) = (Line::default(), Instant::now());
        // Those that joined, in their order; none for those that do not wait any more.
        let mut joined: Vec<Option<(Rank, Ticket)>> = Vec::new();
        let turns = [Event::Next; 80];
        for event in events.into_iter().chain(turns) {
            match event {
                Event::Passes(millis) => now += Duration::from_millis(millis),
                Event::Joins(class) => {
                    let rank = Rank { class, since: now };
                    let ticket = line.join(rank, joined.len());
                    joined.push(Some((rank, ticket)));
                }
                Event::Leaves(one) => {
                    if let Some((_, ticket)) = joined.get_mut(one).and_then(Option::take) {
                        prop_assert_eq!(line.leave(ticket), Some(one));
                    }
                }
                Event::Next => {
                    let next = line.next(now);
                    let waiting = joined.iter().flatten().count();
                    prop_assert_eq!(next.is_some(), waiting > 0);
                    let Some(one) = next else { continue };
                    let (rank, _) = joined[one].take().expect("it waited");
                    // A class for each whole ten seconds, told in another way than the line does.
                    let risen = |rank: Rank| {
                        rank.class as u128 + now.duration_since(rank.since).as_millis() / 10_000
                    };
                    let class = |rank: Rank| risen(rank).min(Interactive as u128);
                    for (other, _) in joined[..one].iter().flatten() {
                        prop_assert!(class(rank) > class(*other), "{rank:?} overtook {other:?}");
                    }
                    for (other, _) in joined[one..].iter().flatten() {
                        prop_assert!(class(rank) >= class(*other), "{other:?} was held up");
                    }
                }
            }
        }
        prop_assert_eq!(joined.iter().flatten().count(), 0, "all had their turn");
    }
}
