//! The windows of the calendar in which tokens are counted, in UTC.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::budget::Span;

/// A moment, by two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The time since any fixed point, by a clock that does not go back.
    pub(crate) steady: Duration,
    /// The time since 1970 in UTC, by the clock on the wall, which may be set.
    pub(crate) wall: Duration,
}

/// What tells the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The fixed point of the steady clock.
    began: Instant,
    /// The seconds since 1970 in a test, in place of those on the wall.
    #[cfg(test)]
    set: Option<&'static std::sync::atomic::AtomicU64>,
}

impl Clock {
    /// The clocks of the machine.
    pub(crate) fn start() -> Self {
        Self {
            began: Instant::now(),
            #[cfg(test)]
            set: None,
        }
    }

    /// A clock whose wall shows the seconds that a test sets.
    #[cfg(test)]
    pub(super) fn set_by(seconds: &'static std::sync::atomic::AtomicU64) -> Self {
        Self { began: Instant::now(), set: Some(seconds) }
    }

    pub(crate) fn now(self) -> Moment {
        #[cfg(test)]
        if let Some(seconds) = self.set {
            let wall = Duration::from_secs(seconds.load(std::sync::atomic::Ordering::Relaxed));
            return Moment { steady: self.steady(), wall };
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { steady: self.steady(), wall }
    }

    /// The time since the clock was started.
    pub(super) fn steady(self) -> Duration {
        self.began.elapsed()
    }
}

/// A day or a month of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Window {
    span: Calendar,
    first: Date,
}

/// The spans that are windows of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Calendar {
    Day,
    Month,
}

impl Calendar {
    pub(crate) const ALL: [Self; 2] = [Self::Day, Self::Month];

    /// The one behind a span, if it has one.
    pub(crate) const fn of(span: Span) -> Option<Self> {
        match span {
            Span::Minute => None,
            Span::Day => Some(Self::Day),
            Span::Month => Some(Self::Month),
        }
    }

    /// The window of this moment. A clock beyond the year 9999 stands at its end.
    pub(crate) fn at(self, wall: Duration) -> Window {
        let seconds = i64::try_from(wall.as_secs()).unwrap_or(i64::MAX);
        let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        let date = TimeZone::UTC.to_datetime(time).date();
        let first = match self {
            Self::Day => date,
            Self::Month => date.first_of_month(),
        };
        Window { span: self, first }
    }
}

impl Window {
    pub(crate) const fn calendar(self) -> Calendar {
        self.span
    }

    /// When the window ends and the next one begins, since 1970.
    pub(crate) fn ends(self) -> Duration {
        let next = match self.span {
            Calendar::Day => self.first.checked_add(1.day()),
            Calendar::Month => self.first.checked_add(1.month()),
        };
        let midnight = DateTime::from(next.unwrap_or(Date::MAX));
        let time = TimeZone::UTC.to_timestamp(midnight).unwrap_or(Timestamp::MAX);
        Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
    }
}

/// `2026-11-30` or `2026-11`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first.year(), self.first.month())?;
        match self.span {
            Calendar::Day => write!(f, "-{:02}", self.first.day()),
            Calendar::Month => Ok(()),
        }
    }
}

/// A time since 1970 as RFC 3339 has it, rounded up to whole seconds.
pub(crate) fn rfc3339(wall: Duration) -> String {
    let seconds = wall.as_secs().saturating_add(u64::from(wall.subsec_nanos() > 0));
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unix(text: &str) -> Duration {
        let time: Timestamp = text.parse().unwrap();
        Duration::from_secs(time.as_second().try_into().unwrap())
    }

    #[test]
    fn windows_end_at_midnight_in_utc_also_in_leap_years_and_at_the_end_of_months() {
        for (at, day, day_ends, month, month_ends) in [
            ("2026-11-30T23:59:59Z", "2026-11-30", "2026-12-01", "2026-11", "2026-12-01"),
            ("2026-12-31T00:00:00Z", "2026-12-31", "2027-01-01", "2026-12", "2027-01-01"),
            ("2028-02-28T12:00:00Z", "2028-02-28", "2028-02-29", "2028-02", "2028-03-01"),
            ("2028-02-29T12:00:00Z", "2028-02-29", "2028-03-01", "2028-02", "2028-03-01"),
            ("2100-02-28T23:00:00Z", "2100-02-28", "2100-03-01", "2100-02", "2100-03-01"),
            ("2026-04-30T23:00:00+01:00", "2026-04-30", "2026-05-01", "2026-04", "2026-05-01"),
            ("2026-05-01T00:30:00+01:00", "2026-04-30", "2026-05-01", "2026-04", "2026-05-01"),
        ] {
            for (calendar, name, ends) in
                [(Calendar::Day, day, day_ends), (Calendar::Month, month, month_ends)]
            {
                let window = calendar.at(unix(at));
                assert_eq!(window.to_string(), name, "{at}");
                assert_eq!(window.ends(), unix(&format!("{ends}T00:00:00Z")), "{at}");
            }
        }
    }

    #[test]
    fn a_clock_at_the_end_of_time_has_a_window() {
        for calendar in Calendar::ALL {
            for wall in [Duration::ZERO, Duration::MAX] {
                let window = calendar.at(wall);
                assert!(!window.to_string().is_empty() && window.ends() > Duration::ZERO);
            }
        }
        assert_eq!(rfc3339(Duration::from_millis(1500)), "1970-01-01T00:00:02Z");
        assert!(!rfc3339(Duration::MAX).is_empty());
    }

    proptest! {
        #[test]
        fn every_second_is_in_one_window_whose_end_begins_the_next(
            seconds in 0_u64..10_000_000_000,
        ) {
            let at = Duration::from_secs(seconds);
            for calendar in Calendar::ALL {
                let window = calendar.at(at);
                let ends = window.ends();
                prop_assert!(at < ends);
                prop_assert_eq!(calendar.at(ends - Duration::from_secs(1)), window);
                let next = calendar.at(ends);
                prop_assert!(next > window && next.to_string() > window.to_string());
            }
        }
    }
}
