//! What a key may reserve, what is settled, and when buckets and windows have room again.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const DAY: u64 = 24 * 60 * 60;
/// 2028-02-29T12:00:00Z.
const NOON: u64 = 1_835_438_400;

fn most(tokens: u64) -> NonZeroU64 {
    NonZeroU64::new(tokens).unwrap()
}

fn limited(counted: Counted, span: Span, tokens: u64) -> TokenLimits {
    TokenLimits::default().with(counted, span, most(tokens))
}

fn at(seconds: f64) -> Moment {
    let steady = Duration::from_secs_f64(seconds);
    Moment { steady, wall: Duration::from_secs(NOON) + steady }
}

fn amount(input: u64, output: u64) -> Amount {
    Amount { input, output }
}

fn remaining(ledger: &Ledger, limits: &TokenLimits, now: Moment) -> Vec<u64> {
    ledger.shares(limits, now).map(|(_, share)| share.remaining).collect()
}

#[test]
fn a_minutes_tokens_may_go_at_once_and_come_back_evenly() {
    let (ledger, limits) = (Ledger::default(), limited(Counted::All, Span::Minute, 600));
    let reserve = |tokens, now| ledger.reserve(&limits, amount(tokens, 0), at(now));
    let held = reserve(600, 10.0).unwrap();
    assert_eq!(remaining(&ledger, &limits, at(10.0)), [0]);
    let Err(Denied::Minute { wait, .. }) = reserve(5, 10.0) else { panic!("it is empty") };
    assert_eq!(wait, Duration::from_millis(500), "ten tokens a second");
    assert!(reserve(5, 10.4).is_err());
    ledger.settle(reserve(5, 10.5).unwrap(), amount(5, 0), at(10.5));
    // The answer was longer than was estimated, so the bucket has less than nothing.
    ledger.settle(held, amount(600, 60), at(10.5));
    let Err(Denied::Minute { wait, .. }) = reserve(1, 10.5) else { panic!("it is empty") };
    assert_eq!(wait, Duration::from_millis(6100));
    let (_, share) = ledger.shares(&limits, at(10.5)).next().unwrap();
    assert_eq!((share.remaining, share.resets_in), (0, Duration::from_secs(66)));
    assert_eq!(remaining(&ledger, &limits, at(1000.0)), [600], "full, and no fuller");
}

#[test]
fn what_was_not_used_comes_back_at_once() {
    let limits =
        limited(Counted::Output, Span::Minute, 100).with(Counted::All, Span::Day, most(1000));
    let ledger = Ledger::default();
    let held = ledger.reserve(&limits, amount(500, 100), at(0.0)).unwrap();
    assert_eq!(remaining(&ledger, &limits, at(0.0)), [400, 0]);
    ledger.settle(held, Amount::default(), at(0.0));
    assert_eq!(remaining(&ledger, &limits, at(0.0)), [1000, 100]);
}

#[test]
fn an_estimate_above_a_whole_limit_is_told_before_anything_else() {
    let limits = limited(Counted::Input, Span::Month, 10).with(Counted::All, Span::Minute, most(5));
    let ledger = Ledger::default();
    let _held = ledger.reserve(&limits, amount(5, 0), at(0.0)).unwrap();
    let denied = ledger.reserve(&limits, amount(11, 0), at(0.0)).unwrap_err();
    let Denied::TooLarge { limit, needed } = denied else { panic!("{denied:?}") };
    assert_eq!((limit.name().as_str(), needed), ("tokens_per_minute", 11));
}

#[test]
fn nothing_is_taken_from_one_limit_where_another_one_forbids_it() {
    let limits = limited(Counted::Input, Span::Day, 10).with(Counted::All, Span::Minute, most(100));
    let ledger = Ledger::default();
    let held = ledger.reserve(&limits, amount(8, 0), at(0.0)).unwrap();
    ledger.settle(held, amount(8, 0), at(0.0));
    for _ in 0..100 {
        let denied = ledger.reserve(&limits, amount(3, 50), at(0.0)).unwrap_err();
        assert!(matches!(denied, Denied::Window { .. }), "{denied:?}");
    }
    assert_eq!(remaining(&ledger, &limits, at(0.0)), [92, 2]);
}

#[test]
fn of_two_windows_the_one_is_told_that_ends_later() {
    let limits = limited(Counted::All, Span::Day, 10).with(Counted::All, Span::Month, most(10));
    let ledger = Ledger::default();
    let _held = ledger.reserve(&limits, amount(10, 0), at(0.0)).unwrap();
    let Err(Denied::Window { limit, .. }) = ledger.reserve(&limits, amount(1, 0), at(0.0)) else {
        panic!("nothing is left");
    };
    assert_eq!(limit.span, Span::Month);
}

#[test]
fn a_request_counts_in_the_windows_in_which_it_began() {
    let limits = limited(Counted::All, Span::Day, 100).with(Counted::All, Span::Month, most(1000));
    let ledger = Ledger::default();
    let evening = at(DAY as f64 / 2.0 - 1.0);
    let held = ledger.reserve(&limits, amount(60, 0), evening).unwrap();
    assert_eq!(remaining(&ledger, &limits, evening), [40, 940]);
    // At midnight both windows end: the 29th of February, and February.
    let midnight = at(DAY as f64 / 2.0);
    assert_eq!(remaining(&ledger, &limits, midnight), [100, 1000]);
    let next = ledger.reserve(&limits, amount(100, 0), midnight).unwrap();
    ledger.settle(held, amount(70, 0), midnight);
    assert_eq!(remaining(&ledger, &limits, midnight), [0, 900]);
    assert_eq!(remaining(&ledger, &limits, evening), [30, 930], "the clock was set back");
    ledger.settle(next, amount(1, 1), midnight);
    assert_eq!(remaining(&ledger, &limits, midnight), [98, 998]);
}

#[test]
fn what_others_used_counts_as_well_and_never_shrinks() {
    let limits = limited(Counted::All, Span::Day, 100);
    let ledger = Ledger::default();
    let today = Calendar::Day.at(at(0.0).wall);
    ledger.others_used(today, amount(30, 20));
    assert_eq!(remaining(&ledger, &limits, at(0.0)), [50]);
    assert!(ledger.reserve(&limits, amount(51, 0), at(0.0)).is_err());
    let held = ledger.reserve(&limits, amount(50, 0), at(0.0)).unwrap();
    ledger.others_used(today, amount(10, 10));
    ledger.settle(held, amount(5, 5), at(0.0));
    assert_eq!(remaining(&ledger, &limits, at(0.0)), [40]);
    ledger.others_used(today, amount(u64::MAX, 0));
    assert_eq!(remaining(&ledger, &limits, at(0.0)), [0]);
    let used: Vec<_> =
        ledger.used(at(0.0)).into_iter().map(|(window, used)| (window.to_string(), used)).collect();
    assert_eq!(
        used,
        [("2028-02-29".to_owned(), amount(5, 5)), ("2028-02".to_owned(), amount(5, 5))],
        "what others used is theirs to tell"
    );
    // The next window has nothing of it.
    assert_eq!(remaining(&ledger, &limits, at(DAY as f64)), [100]);
}

#[test]
fn counts_of_old_windows_go_once_no_request_is_in_them() {
    let limits = limited(Counted::All, Span::Day, 100);
    let ledger = Ledger::default();
    let day = |day: u64| at((day * DAY) as f64);
    let long = ledger.reserve(&limits, amount(1, 0), day(0)).unwrap();
    for number in 1..50 {
        let held = ledger.reserve(&limits, amount(2, 0), day(number)).unwrap();
        ledger.settle(held, amount(2, 0), day(number));
    }
    assert!(ledger.lock().counts[0].0.len() <= 4, "the open one and the last three");
    assert_eq!(remaining(&ledger, &limits, day(0)), [99]);
    ledger.settle(long, amount(7, 0), day(50));
    assert_eq!(remaining(&ledger, &limits, day(0)), [93]);
    assert!(ledger.is_empty(day(100)) && !ledger.is_empty(day(0)));
}

#[test]
fn a_window_that_is_learned_of_late_takes_the_place_of_none_that_counts() {
    let limits = limited(Counted::All, Span::Day, 100);
    let ledger = Ledger::default();
    let day = |day: u64| at((day * DAY) as f64);
    let held = ledger.reserve(&limits, amount(40, 0), day(1)).unwrap();
    ledger.settle(held, amount(40, 0), day(1));
    // One frontend had a request of the day before, and the clock of another one is ahead.
    for number in [0, 2] {
        ledger.others_used(Calendar::Day.at(day(number).wall), amount(1, 0));
    }
    assert_eq!(remaining(&ledger, &limits, day(1)), [60]);
}

#[test]
fn no_number_of_tokens_overflows() {
    let limits = Counted::ALL.into_iter().fold(TokenLimits::default(), |limits, counted| {
        Span::ALL
            .into_iter()
            .fold(limits, |limits, span| limits.with(counted, span, most(u64::MAX - 1)))
    });
    let ledger = Ledger::default();
    for _ in 0..3 {
        let held = ledger.reserve(&limits, amount(1, 1), at(0.0));
        if let Ok(held) = held {
            ledger.settle(held, amount(u64::MAX, u64::MAX), at(0.0));
        }
    }
    assert_eq!(remaining(&ledger, &limits, at(0.0)), [0; 9]);
    let denied = ledger.reserve(&limits, amount(1, 1), at(0.0)).unwrap_err();
    assert!(matches!(denied, Denied::Window { .. }), "{denied:?}");
    let never = Moment { steady: Duration::MAX, wall: Duration::MAX };
    let held = ledger.reserve(&limits, amount(1, 0), never).unwrap();
    ledger.settle(held, amount(u64::MAX, 0), at(0.0));
}

#[derive(Clone, Debug)]
enum Step {
    /// Reserves an estimate.
    Begin(Amount),
    /// Settles the request that began so many before the last.
    End { request: usize, used: Amount },
    /// Lets seconds pass.
    Pass(u64),
    /// Sets other limits.
    Change(TokenLimits),
}

fn any_amount() -> impl Strategy<Value = Amount> {
    let tokens = || prop_oneof![8 => 0_u64..500, 1 => Just(u64::MAX), 1 => any::<u64>()];
    (tokens(), tokens()).prop_map(|(input, output)| Amount { input, output })
}

fn any_limits() -> impl Strategy<Value = TokenLimits> {
    let limit = (0_usize..3, 0_usize..3, 1_u64..2000);
    proptest::collection::vec(limit, 0..5).prop_map(|limits| {
        limits.into_iter().fold(TokenLimits::default(), |all, (counted, span, tokens)| {
            all.with(Counted::ALL[counted], Span::ALL[span], most(tokens))
        })
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_amount().prop_map(Step::Begin),
        3 => (any::<usize>(), any_amount()).prop_map(|(request, used)| Step::End { request, used }),
        2 => (0_u64..2 * DAY).prop_map(Step::Pass),
        1 => any_limits().prop_map(Step::Change),
    ]
}

proptest! {
    /// A model of one map: window → what was used and what is reserved.
    #[test]
    fn what_is_admitted_never_exceeds_a_window_and_is_settled_once(
        limits in any_limits(),
        steps in proptest::collection::vec(any_step(), 1..80),
    ) {
        let ledger = Ledger::default();
        let (mut limits, mut seconds) = (limits, 0_u64);
        let mut open: Vec<(Held, Amount, [Window; 2])> = Vec::new();
        let mut used: HashMap<Window, Amount> = HashMap::new();
        let mut reserved: HashMap<Window, Amount> = HashMap::new();
        for step in steps {
            let now = at(seconds as f64);
            let windows = Calendar::ALL.map(|calendar| calendar.at(now.wall));
            match step {
                Step::Pass(more) => seconds += more,
                Step::Change(others) => limits = others,
                Step::Begin(estimate) => {
                    // The sums of a map do not saturate in the middle, as an amount does.
                    let fits = estimate.input < 1 << 40 && estimate.output < 1 << 40;
                    if let Ok(held) = ledger.reserve(&limits, estimate, now) {
                        for window in windows {
                            let entry = reserved.entry(window).or_default();
                            *entry = entry.and(estimate);
                        }
                        for limit in limits.iter() {
                            let Some(calendar) = Calendar::of(limit.span) else { continue };
                            let window = windows[calendar as usize];
                            let both = used.get(&window).copied().unwrap_or_default()
                                .and(reserved[&window]);
                            prop_assert!(both.of(limit.counted) <= limit.most.get());
                        }
                        if fits {
                            open.push((held, estimate, windows));
                        } else {
                            // As a request that no engine took.
                            ledger.settle(held, Amount::default(), now);
                            for window in windows {
                                let entry = reserved.entry(window).or_default();
                                *entry = entry.without(estimate);
                            }
                        }
                    }
                }
                Step::End { request, used: tokens } => {
                    if open.is_empty() { continue; }
                    let (held, estimate, windows) = open.swap_remove(request % open.len());
                    ledger.settle(held, tokens, now);
                    for window in windows {
                        let entry = reserved.entry(window).or_default();
                        *entry = entry.without(estimate);
                        let entry = used.entry(window).or_default();
                        *entry = entry.and(tokens);
                    }
                }
            }
            let state = ledger.lock();
            for calendar in Calendar::ALL {
                let window = calendar.at(at(seconds as f64).wall);
                let count = state.counts[calendar as usize].of(window);
                prop_assert_eq!(count.used, used.get(&window).copied().unwrap_or_default());
                prop_assert_eq!(count.reserved, reserved.get(&window).copied().unwrap_or_default());
            }
        }
    }

    #[test]
    fn no_minute_sees_more_than_a_full_bucket_and_what_filled_it(
        per_minute in 1_u64..1_000_000,
        steps in proptest::collection::vec((0_u64..5_000, 0_u64..100_000), 1..200),
    ) {
        let (ledger, limits) = (Ledger::default(), limited(Counted::All, Span::Minute, per_minute));
        let (mut now, mut taken) = (0.0, 0_u64);
        for (milliseconds, tokens) in steps {
            now += milliseconds as f64 / 1000.0;
            match ledger.reserve(&limits, amount(tokens, 0), at(now)) {
                Ok(held) => {
                    ledger.settle(held, amount(tokens, 0), at(now));
                    taken += tokens;
                }
                Err(Denied::Minute { wait, .. }) => {
                    // It says when there are enough.
                    let then = Moment { steady: at(now).steady + wait, ..at(now) };
                    let held = ledger.reserve(&limits, amount(tokens, 0), then).unwrap();
                    ledger.settle(held, Amount::default(), then);
                    now = then.steady.as_secs_f64();
                }
                Err(denied) => prop_assert!(tokens > per_minute, "{:?}", denied),
            }
        }
        let filled = now * per_minute as f64 / 60.0;
        prop_assert!(taken as f64 <= per_minute as f64 + filled + 1.0);
    }
}
