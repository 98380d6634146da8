//! What other frontends have counted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dynamo_discovery::Counts;

use super::ledger::Amount;
use super::list::KeyName;
use super::window::{Calendar, Moment, Window};

/// What other frontends have counted, by the name of the window. Keys that come later find their
/// counts here.
#[derive(Debug, Default)]
pub(super) struct Others(Mutex<HashMap<String, Counts>>);

impl Others {
    /// What the others have counted of a key, in the windows of now.
    pub(super) fn of(&self, key: &KeyName, now: Moment) -> Vec<(Window, Amount)> {
        let others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_key = |(window, counts): (&String, &Counts)| {
            Some((near(window, now)?, amount(*counts.get(key.as_str())?)))
        };
        others.iter().filter_map(of_key).collect()
    }

    pub(super) fn set(&self, window: &str, sums: &Counts, now: Moment) {
        let mut others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        others.retain(|window, _| near(window, now).is_some());
        others.insert(window.to_owned(), sums.clone());
    }
}

/// The window of this name, if it is one of now. The clocks of others may differ a little; a window
/// that is far away would take the place of one that counts.
pub(super) fn near(name: &str, now: Moment) -> Option<Window> {
    const SKEW: Duration = Duration::from_secs(60 * 60);

    let wall = now.wall;
    let moments = [wall, wall.saturating_sub(SKEW), wall.saturating_add(SKEW)];
    let mut windows =
        moments.into_iter().flat_map(|at| Calendar::ALL.map(|calendar| calendar.at(at)));
    windows.find(|window| window.to_string() == name)
}

pub(super) const fn amount([input, output]: [u64; 2]) -> Amount {
    Amount { input, output }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_windows_of_now_are_learned() {
        // 2026-11-30T23:30:00Z.
        let wall = Duration::from_secs(1_796_081_400);
        let now = Moment { steady: Duration::ZERO, wall };
        for (name, is_near) in [
            ("2026-11-30", true),
            ("2026-12-01", true),
            ("2026-11", true),
            ("2026-12", true),
            ("2026-11-29", false),
            ("2026-10", false),
            ("9999-12", false),
            ("", false),
        ] {
            assert_eq!(near(name, now).is_some(), is_near, "{name}");
        }
        let others = Others::default();
        let key: KeyName = "k".parse().unwrap();
        for (window, count) in [("2026-11-30", [1, 2]), ("2026-11-30", [3, 4]), ("2026-11", [5, 6])]
        {
            others.set(window, &Counts::from([("k".to_owned(), count)]), now);
        }
        let mut of_key = others.of(&key, now);
        of_key.sort_unstable_by_key(|(window, _)| *window);
        assert_eq!(
            of_key,
            [(Calendar::Day.at(wall), amount([3, 4])), (Calendar::Month.at(wall), amount([5, 6])),]
        );
        let later = Moment { wall: wall + Duration::from_secs(40 * 86_400), ..now };
        assert_eq!(others.of(&key, later), []);
    }
}
