//! The CPU time and memory of a process group, from /proc.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// The sum over all processes of a group, ended threads included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// Resident memory, in bytes. Shared memory counts for each process.
    pub(crate) resident: u64,
}

/// The usage of a process group: nginx works in children of its master, so one process is not
/// enough.
pub(crate) fn of_group(leader: u32) -> Result<Usage> {
    let processes = group(leader)?;
    let ticks: u64 = processes.iter().map(|process| process.ticks).sum();
    let pages: u64 = processes.iter().map(|process| process.pages).sum();
    let per_second = rustix::param::clock_ticks_per_second();
    let cpu = Duration::from_micros(ticks * 1_000_000 / per_second);
    Ok(Usage { cpu, resident: pages * rustix::param::page_size() as u64 })
}

/// The ids of the processes of a group.
pub(crate) fn processes_of_group(leader: u32) -> Result<Vec<u32>> {
    Ok(group(leader)?.iter().map(|process| process.id).collect())
}

fn group(leader: u32) -> Result<Vec<Stat>> {
    let mut group = Vec::new();
    for entry in fs::read_dir("/proc").context("usage is read from /proc")? {
        let path = entry?.path().join("stat");
        // Most entries are no processes, and a process may end meanwhile.
        let Ok(stat) = fs::read_to_string(path) else { continue };
        group.extend(parse(&stat).filter(|process| process.group == leader));
    }
    Ok(group)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    id: u32,
    group: u32,
    ticks: u64,
    pages: u64,
}

/// `pid (name) state ppid pgrp session … utime stime … rss …`: the name may hold blanks and
/// brackets.
fn parse(stat: &str) -> Option<Stat> {
    let (id, _) = stat.split_once(' ')?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Stat {
        id: id.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        pages: number(21)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_an_odd_name() {
        let stat = "42 (a) b (c) S 1 40 40 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 1 0 1 9999 77 0";
        assert_eq!(parse(stat), Some(Stat { id: 42, group: 40, ticks: 168, pages: 77 }));
    }
}
