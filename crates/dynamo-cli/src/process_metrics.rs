//! The standard metrics of a process, in Prometheus' text format.

use std::fmt::{Display, Write as _};
use std::fs;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};

use crate::descriptors;

/// When this was first looked at, in seconds of Unix time.
static STARTED: LazyLock<f64> = LazyLock::new(|| {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
});

/// Notes the time as that of the process's start.
pub(crate) fn started() {
    LazyLock::force(&STARTED);
}

/// The metrics as they are now. A system without `/proc` has fewer of them.
pub(crate) fn text() -> String {
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, value: Option<&dyn Display>| {
        if let Some(value) = value {
            // Writing to memory does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    };
    fn shown<T: Display>(value: &Option<T>) -> Option<&dyn Display> {
        value.as_ref().map(|value| value as &dyn Display)
    }

    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    let memory = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = memory.split_whitespace().map(|pages| pages.parse::<usize>().ok());
    let mut bytes = || pages.next().flatten().map(|pages| pages * page_size());
    let (size, resident) = (bytes(), bytes());
    // The directory itself is open while it is read.
    let open = fs::read_dir("/proc/self/fd").ok().map(|open| open.count().saturating_sub(1));
    let threads = fs::read_dir("/proc/self/task").ok().map(Iterator::count);

    add("process_cpu_seconds_total", "counter", "CPU time of the process", Some(&cpu));
    add("process_open_fds", "gauge", "Descriptors that are open", shown(&open));
    add("process_max_fds", "gauge", "Most descriptors", shown(&descriptors::limit()));
    add("process_virtual_memory_bytes", "gauge", "Virtual memory", shown(&size));
    add("process_resident_memory_bytes", "gauge", "Resident memory", shown(&resident));
    add("process_threads", "gauge", "Threads of the process", shown(&threads));
    add("process_start_time_seconds", "gauge", "When the process began", Some(&*STARTED));
    let name = "dynamo_frontend_build_info";
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(
        text,
        "# HELP {name} The program's version, as a label\n# TYPE {name} gauge\n\
         {name}{{version=\"{version}\"}} 1\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> f64 {
        let text = text();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn an_open_file_and_used_memory_are_seen_at_once() {
        let (open, resident) = (value("process_open_fds"), value("process_resident_memory_bytes"));
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Pages that are written to are resident.
        let memory = vec![1_u8; 64 << 20];
        // Other tests open and close some meanwhile.
        assert!(value("process_open_fds") >= open + 25.0);
        assert!(value("process_resident_memory_bytes") >= resident + 32e6);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        drop((files, memory));
    }

    #[test]
    fn every_metric_has_a_help_a_type_and_a_number() {
        let text = text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len() % 3, 0, "{text}");
        for metric in lines.chunks(3) {
            let name = metric[0].split(' ').nth(2).unwrap();
            assert!(metric[0].starts_with("# HELP ") && metric[2].starts_with(name), "{metric:?}");
            assert!(metric[1].starts_with(&format!("# TYPE {name} ")), "{metric:?}");
            assert!(metric[2].rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 0.0);
        }
        assert!(value("process_start_time_seconds") > 1.7e9);
    }
}
