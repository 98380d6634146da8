//! Files that move, disks that are full, readers that stand still.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc;
use std::time::{Instant, SystemTime};

use super::*;
use crate::frontend::access_log::AccessLogFile;
use crate::queue::CAPACITY;

fn record() -> Box<AccessRecord> {
    Box::new(AccessRecord::new(SystemTime::UNIX_EPOCH, "POST", "/v1/chat/completions"))
}

fn lines(path: &std::path::Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "in time: {what}");
        thread::yield_now();
    }
}

/// The value of a sample.
fn count(log: &AccessLogFile, sample: &str) -> u64 {
    let text = log.counts().text();
    let line = text.lines().find(|line| line.starts_with(sample)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

const WRITTEN: &str = "dynamo_frontend_access_log_lines_total ";
const FAILED: &str = "dynamo_frontend_access_log_lost_total{reason=\"write_failed\"}";
const DROPPED: &str = "dynamo_frontend_access_log_lost_total{reason=\"queue_full\"}";

#[test]
fn lines_are_appended_to_a_file_that_others_cannot_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    for expected in [1, 2] {
        let log = AccessLogFile::start(path.clone()).unwrap();
        log.queue.put(record());
        drop(log);
        assert_eq!(lines(&path), expected);
    }
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & !MODE, 0, "{mode:o}");
    assert_eq!(mode & 0o600, 0o600, "{mode:o}");
}

#[test]
fn a_file_that_was_moved_is_left_alone_once_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) =
        (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let log = AccessLogFile::start(path.clone()).unwrap();
    log.queue.put(record());
    until("the line is there", || lines(&path) == 1);
    fs::rename(&path, &moved).unwrap();
    log.queue.put(record());
    until("the line is in the old file", || lines(&moved) == 2);
    log.reopening().ask();
    // Also without a request.
    until("there is a new file", || path.exists());
    log.queue.put(record());
    until("the line is in the new file", || lines(&path) == 1);
    assert_eq!((lines(&moved), count(&log, WRITTEN)), (2, 3));
    // Where no new file can be made, the old one stays.
    fs::rename(&path, &moved).unwrap();
    fs::create_dir(&path).unwrap();
    log.reopening().ask();
    log.queue.put(record());
    until("the line is in the old file", || lines(&moved) == 2);
}

#[test]
fn a_full_disk_loses_lines_and_counts_them() {
    let log = AccessLogFile::start("/dev/full".into()).unwrap();
    assert_eq!((count(&log, WRITTEN), count(&log, FAILED), count(&log, DROPPED)), (0, 0, 0));
    (0..3).for_each(|_| log.queue.put(record()));
    until("they are counted", || count(&log, FAILED) == 3);
    assert_eq!((count(&log, WRITTEN), count(&log, DROPPED)), (0, 0));
}

#[test]
fn a_pipe_that_nobody_reads_loses_lines_and_makes_nobody_wait() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let log = AccessLogFile::start(path).unwrap();
    // More than the pipe takes, the thread has in its hands, and the queue holds.
    until("lines are lost", || {
        log.queue.put(record());
        count(&log, DROPPED) > 100
    });
    assert!(log.queue.counts().0 >= CAPACITY);
    // The end of the program does not wait for it either.
    drop(log);
}

#[test]
fn a_pipe_that_is_read_later_has_the_lines_that_found_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let log = AccessLogFile::start(path.clone()).unwrap();
    (0..10).for_each(|_| log.queue.put(record()));
    let (sender, read) = mpsc::channel();
    thread::spawn(move || {
        use std::io::BufRead as _;
        let reader = io::BufReader::new(File::open(path).unwrap());
        reader.lines().take(10).for_each(|line| sender.send(line.unwrap()).unwrap());
    });
    for _ in 0..10 {
        let line = read.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_told_by_its_flag() {
    let failure = AccessLogFile::start("/nowhere/access.log".into()).unwrap_err().to_string();
    assert!(failure.contains("--access-log (DYN_ACCESS_LOG): /nowhere/access.log"), "{failure}");
}

/// Takes so many bytes, and then none.
struct Small(Vec<u8>, usize);

impl Write for Small {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.1 - self.0.len());
        self.0.extend_from_slice(&bytes[..count]);
        if count == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_that_was_cut_has_an_end_before_the_next_one_comes() {
    let (mut out, mut is_torn) = (Small(Vec::new(), 5), false);
    let (written, error) = write_lines(&mut out, b"one\ntwo\nthree\n", &mut is_torn);
    assert_eq!((written, is_torn, error.unwrap().kind()), (1, true, ErrorKind::StorageFull));
    let (written, _) = write_lines(&mut out, b"four\n", &mut is_torn);
    assert_eq!((written, is_torn), (0, true));
    out.1 = 100;
    let (written, error) = write_lines(&mut out, b"five\nsix\n", &mut is_torn);
    assert_eq!((written, is_torn, error.is_none()), (2, false, true));
    assert_eq!(out.0, b"one\nt\nfive\nsix\n");
}
