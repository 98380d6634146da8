//! The CPU time of a process group, from /proc.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// User and system time of all processes that `leader` leads, those of ended threads included.
///
/// nginx works in children of its master, so one process is not enough.
pub(crate) fn time(leader: u32) -> Result<Duration> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").context("CPU times are read from /proc")? {
        let path = entry?.path().join("stat");
        // Most entries are no processes, and a process may end while we look.
        let Ok(stat) = fs::read_to_string(path) else { continue };
        if let Some((group, used)) = group_and_ticks(&stat)
            && group == leader
        {
            ticks += used;
        }
    }
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_micros(ticks * 1_000_000 / per_second))
}

/// `pid (name) state ppid pgrp session … utime stime`: the name may hold blanks and brackets.
fn group_and_ticks(stat: &str) -> Option<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some((fields.get(2)?.parse().ok()?, ticks(11)? + ticks(12)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_an_odd_name() {
        let stat = "42 (a) b (c) S 1 40 40 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 1 0 1";
        assert_eq!(group_and_ticks(stat), Some((40, 168)));
    }
}
