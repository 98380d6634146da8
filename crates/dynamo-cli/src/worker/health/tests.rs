//! The table of the module, row by row, and what must hold of every history of probes.

use EngineState::{Failing, Healthy, Silent};
use proptest::prelude::*;

use super::*;

const SILENCE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(2);

fn failed() -> Probe {
    Probe::Failed("connection reset".into())
}

fn refused() -> Probe {
    Probe::Refused("http://192.0.2.1:8001/health".into())
}

fn silent() -> Probe {
    Probe::Silent("http://192.0.2.1:8001/health".into())
}

/// What each of the probes, 2 s apart, changed, and what the engine was then.
fn history(probes: &[Probe]) -> Vec<(Option<Turn>, EngineState)> {
    let mut now = Instant::now();
    let mut health = Health::new(now);
    let observe = |probe: &Probe| {
        let turn = health.observe(probe, now, SILENCE);
        now += INTERVAL;
        (turn, health.state())
    };
    probes.iter().map(observe).collect()
}

/// The turns as a text: `+` for in, `-` for out, `.` for none.
fn turns(probes: &[Probe]) -> String {
    let letter = |(turn, _): &(Option<Turn>, EngineState)| match turn {
        None => '.',
        Some(Turn::In) => '+',
        Some(Turn::Failed(_) | Turn::Silenced(_)) => '-',
    };
    history(probes).iter().map(letter).collect()
}

fn states(probes: &[Probe]) -> Vec<EngineState> {
    history(probes).into_iter().map(|(_, state)| state).collect()
}

#[test]
fn an_engine_is_in_service_from_its_first_good_answer_on() {
    let probes = [
        refused(),
        failed(),
        Probe::Loading,
        silent(),
        Probe::Busy,
        Probe::Healthy,
        Probe::Healthy,
    ];
    assert_eq!(turns(&probes), ".....+.");
    assert_eq!(states(&probes)[4..6], [Failing, Healthy]);
}

#[test]
fn the_third_failure_in_a_row_ends_the_service_and_a_good_answer_begins_it_again() {
    let probes = [
        Probe::Healthy,
        failed(),
        refused(),
        Probe::Healthy,
        failed(),
        Probe::Loading,
        refused(),
        failed(),
        Probe::Healthy,
    ];
    assert_eq!(turns(&probes), "+.....-.+");
    let told =
        "3 probes failed, the last one: connection refused, from http://192.0.2.1:8001/health"
            .to_owned();
    assert_eq!(history(&probes)[6].0, Some(Turn::Failed(told)));
    assert_eq!(states(&probes)[5..], [Healthy, Failing, Failing, Healthy]);
}

#[test]
fn silence_between_failures_neither_adds_to_them_nor_forgives_them() {
    let probes = [Probe::Healthy, failed(), silent(), failed(), Probe::Busy, failed()];
    assert_eq!(turns(&probes), "+....-");
}

#[test]
fn three_misses_are_silence_and_any_answer_ends_it() {
    let probes =
        [Probe::Healthy, silent(), silent(), silent(), Probe::Busy, silent(), Probe::Healthy];
    assert_eq!(turns(&probes), "+......");
    let expected = [Healthy, Healthy, Healthy, Silent, Healthy, Healthy, Healthy];
    assert_eq!(states(&probes), expected);
}

#[test]
fn silence_alone_ends_the_service_only_after_its_own_time() {
    let mut probes = vec![Probe::Healthy];
    probes.extend(std::iter::repeat_n(silent(), 30));
    assert_eq!(turns(&probes), format!("+{}-", ".".repeat(29)));
    assert_eq!(history(&probes)[30], (Some(Turn::Silenced(SILENCE)), EngineState::Silent));
    // One sign of life, and the time begins anew.
    probes[15] = Probe::Busy;
    assert_eq!(turns(&probes), format!("+{}", ".".repeat(30)));
}

fn any_probe() -> impl Strategy<Value = Probe> {
    prop_oneof![
        4 => Just(Probe::Healthy),
        2 => Just(Probe::Busy),
        1 => Just(Probe::Loading),
        2 => Just(failed()),
        2 => Just(refused()),
        6 => Just(silent()),
    ]
}

/// A history of probes, each with the seconds since the one before.
fn any_history() -> impl Strategy<Value = Vec<(Probe, u64)>> {
    proptest::collection::vec((any_probe(), 0..40_u64), 0..60)
}

/// Whether the last three of these are all so.
fn last_three(probes: &[&Probe], so: impl Fn(&Probe) -> bool) -> bool {
    probes.len() >= 3 && probes[probes.len() - 3..].iter().all(|probe| so(probe))
}

proptest! {
    /// The rules once more, each from the whole history and not from what was kept of it.
    #[test]
    fn the_state_follows_from_the_history(history in any_history()) {
        let began = Instant::now();
        let (mut health, mut now, mut life) = (Health::new(began), began, began);
        let mut in_service = false;
        for (index, (probe, later)) in history.iter().enumerate() {
            now += Duration::from_secs(*later);
            let turn = health.observe(probe, now, SILENCE);
            let so_far: Vec<&Probe> = history[..=index].iter().map(|(probe, _)| probe).collect();
            if probe.shows_life() {
                life = now;
            }
            let is_failure =
                |probe: &Probe| matches!(probe, Probe::Loading | Probe::Failed(_) | Probe::Refused(_));
            // What neither fails nor answers well does not count here.
            let counted: Vec<&Probe> = so_far
                .iter()
                .copied()
                .filter(|probe| is_failure(probe) || **probe == Probe::Healthy)
                .collect();
            let failed = last_three(&counted, is_failure);
            let silenced = now - life >= SILENCE;
            match turn {
                Some(Turn::In) => prop_assert!(!in_service && *probe == Probe::Healthy),
                Some(Turn::Failed(_)) => prop_assert!(in_service && failed),
                Some(Turn::Silenced(span)) => {
                    prop_assert!(in_service && silenced && !failed && span == now - life);
                }
                None => prop_assert_eq!(
                    in_service,
                    *probe == Probe::Healthy || (in_service && !failed && !silenced)
                ),
            }
            in_service = match turn {
                Some(Turn::In) => true,
                Some(_) => false,
                None => in_service,
            };
            prop_assert_eq!(health.in_service(), in_service);
            prop_assert_eq!(health.silent_for(now), now - life);
            let silent = last_three(&so_far, |probe| matches!(probe, Probe::Silent(_)));
            let expected = match (silent, in_service) {
                (true, _) => EngineState::Silent,
                (false, true) => EngineState::Healthy,
                (false, false) => EngineState::Failing,
            };
            prop_assert_eq!(health.state(), expected);
        }
    }

    /// The promise for engines that compile, or read long prompts.
    #[test]
    fn an_engine_that_shows_life_in_time_stays_whatever_else_it_does_not_answer(
        history in proptest::collection::vec((any::<bool>(), 1..30_u64), 1..60),
    ) {
        let mut now = Instant::now();
        let mut health = Health::new(now);
        health.observe(&Probe::Healthy, now, SILENCE);
        let mut quiet = 0;
        for (busy, later) in history {
            now += Duration::from_secs(later);
            quiet += later;
            let probe = if busy || quiet >= SILENCE.as_secs() {
                quiet = 0;
                Probe::Busy
            } else {
                silent()
            };
            prop_assert_eq!(health.observe(&probe, now, SILENCE), None);
        }
    }
}
