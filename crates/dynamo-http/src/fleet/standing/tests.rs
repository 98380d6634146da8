//! What holds of a server's standing after any events.

use proptest::prelude::*;

use super::*;

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Byte),
        Just(Event::Served),
        any::<bool>().prop_map(|stands_out| Event::Failed { stands_out }),
        (0..20_u64).prop_map(|seconds| Event::Full(Duration::from_secs(seconds))),
        Just(Event::Refused),
        Just(Event::Broken),
        Just(Event::Healthy),
        Just(Event::Busy),
        Just(Event::Miss),
        Just(Event::Miss),
        Just(Event::Miss),
    ]
}

/// Events, and how many milliseconds after the one before each comes.
fn any_history() -> impl Strategy<Value = Vec<(u64, Event)>> {
    proptest::collection::vec((0..12_000_u64, any_event()), 0..40)
}

/// Plays a history, and shows each event with the time, the standing before and the one after.
fn play(history: &[(u64, Event)], mut see: impl FnMut(Event, Duration, Standing, Standing)) {
    let (mut standing, mut now) = (Standing::default(), Duration::ZERO);
    for &(later, event) in history {
        now += Duration::from_millis(later);
        let after = standing.after(event, now);
        see(event, now, standing, after);
        standing = after;
    }
}

fn out(standing: Standing, now: Duration) -> Option<Out> {
    standing.out(|| now)
}

proptest! {
    #[test]
    fn only_an_answer_of_the_server_ends_that_it_refused(history in any_history()) {
        play(&history, |event, now, before, after| {
            let was_refused = out(before, now) == Some(Out::Unreachable);
            if was_refused && out(after, now) != Some(Out::Unreachable) {
                let answers = [Event::Served, Event::Healthy, Event::Busy, Event::Broken];
                assert!(answers.contains(&event), "{event:?} cleared a failed connect");
            }
        });
    }

    #[test]
    fn only_an_answer_to_a_request_ends_that_it_fails(history in any_history()) {
        play(&history, |event, now, before, after| {
            if out(before, now) == Some(Out::Failing) && out(after, now).is_none() {
                let cleared = matches!(event, Event::Served | Event::Failed { stands_out: false });
                assert!(cleared, "{event:?} cleared failures");
            }
        });
    }

    #[test]
    fn every_sign_of_life_ends_silence_and_three_misses_in_a_row_begin_it(history in any_history()) {
        let mut in_a_row = 0;
        play(&history, |event, now, before, after| {
            match event {
                Event::Miss => in_a_row += 1,
                // A broken connection carried no byte.
                Event::Failed { .. } => {}
                _ => in_a_row = 0,
            }
            let is_silent = out(after, now) == Some(Out::Unresponsive);
            let is_lost = out(after, now).is_some_and(Out::is_lost);
            assert_eq!(is_silent, in_a_row >= 3 && !is_lost, "{event:?} after {before:?}");
        });
    }

    #[test]
    fn a_full_server_is_back_after_ten_seconds_at_most(history in any_history()) {
        play(&history, |_, now, _, after| {
            let later = now + MAX_PAUSE;
            assert_ne!(out(after, later), Some(Out::Full));
            if out(after, now) == Some(Out::Full) {
                assert_eq!(out(after, later), None);
            }
        });
    }

    #[test]
    fn a_failing_server_gets_a_trial_within_half_a_minute_and_one_at_a_time(
        history in any_history(),
    ) {
        play(&history, |_, now, _, after| {
            let later = now + TRIAL_AFTER_MAX;
            let tried = after.tried(later);
            assert_eq!(tried.is_some(), matches!(after.conduct, Conduct::Failing { .. }));
            if let Some(tried) = tried {
                assert_eq!(tried.tried(later), None);
                assert_eq!(out(tried, later), out(after, later));
            }
        });
    }

    #[test]
    fn changes_tell_of_every_ejection_and_return_but_of_that_of_a_full_server(
        history in any_history(),
    ) {
        play(&history, |event, now, before, after| {
            let (was, is) = (out(before, now), out(after, now));
            let change = after.change_since(before, now);
            match change {
                Some(Change::Ejected(reason)) => {
                    assert_eq!(is, Some(reason));
                    assert!(was.is_none() || was == Some(Out::Full), "{event:?}: {was:?}");
                }
                Some(Change::Restored) => {
                    assert!(is.is_none() && was.is_some_and(|out| out != Out::Full));
                }
                None => assert!(was.is_some() || is.is_none(), "{event:?} went untold"),
            }
        });
    }

    #[test]
    fn the_brink_names_every_failure_for_which_it_matters_who_stands_out(history in any_history()) {
        play(&history, |_, now, before, _| {
            let after = |stands_out| before.after(Event::Failed { stands_out }, now);
            assert!(before.is_on_the_brink() || after(true) == after(false), "{before:?}");
        });
    }

    #[test]
    fn a_standing_survives_being_packed(history in any_history()) {
        play(&history, |_, _, _, after| assert_eq!(Standing::unpack(after.pack()), after));
    }
}
