//! Problems of the program around a front door.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many characters of a text are kept.
const LONGEST: usize = 500;

/// Problems of the program around a front door, such as a configuration file that was refused.
///
/// `/status` shows them among its own, with the time at which each began. A clone is the same.
///
/// ```
/// use dynamo_http::{FrontendConfig, ProgramProblems};
///
/// let problems = ProgramProblems::default();
/// let config = FrontendConfig::new().with_program_problems(problems.clone());
/// problems.tell("keys.json", "The file keys.json cannot be used: line 3 is no JSON.");
/// problems.end("keys.json");
/// # let _ = config;
/// ```
#[derive(Clone, Debug, Default)]
pub struct ProgramProblems {
    by_subject: Arc<Mutex<BTreeMap<String, ProgramProblem>>>,
}

/// One problem of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProgramProblem {
    /// One line.
    pub(super) text: String,
    /// When it began, in unix seconds.
    pub(super) since: u64,
}

impl ProgramProblems {
    /// Tells a problem of `subject`. A second one of a subject replaces the text of the first, and
    /// keeps its time.
    ///
    /// Control characters are escaped, and of a long text the first 500 characters are shown.
    pub fn tell(&self, subject: &str, text: &str) {
        let text = one_line(text);
        let mut by_subject = self.lock();
        match by_subject.get_mut(subject) {
            Some(problem) => problem.text = text,
            None => {
                by_subject.insert(subject.to_owned(), ProgramProblem { text, since: now() });
            }
        }
    }

    /// Ends the problem of `subject`, if there is one.
    pub fn end(&self, subject: &str) {
        self.lock().remove(subject);
    }

    /// All problems, in the order of their subjects.
    pub(super) fn all(&self) -> Vec<ProgramProblem> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ProgramProblem>> {
        // Each change is one call, so a panic elsewhere leaves the map whole.
        self.by_subject.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LONGEST));
    for letter in text.chars().take(LONGEST) {
        if letter.is_control() {
            line.extend(letter.escape_debug());
        } else {
            line.push(letter);
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_problem_which_keeps_the_time_at_which_it_began() {
        let problems = ProgramProblems::default();
        problems.tell("a", "first");
        let began = problems.all()[0].since;
        problems.lock().get_mut("a").unwrap().since = began - 60;
        problems.tell("a", "second");
        problems.tell("b", "other");
        let all = problems.all();
        assert_eq!(all[0], ProgramProblem { text: "second".into(), since: began - 60 });
        assert_eq!(all[1].text, "other");
        problems.end("a");
        problems.end("a");
        assert_eq!(problems.all().len(), 1);
        problems.tell("a", "again");
        assert!(problems.all()[0].since >= began, "it has begun anew");
    }

    #[test]
    fn a_text_is_one_line_of_bounded_length() {
        assert_eq!(one_line("a\nb\u{1b}[2J «c»"), "a\\nb\\u{1b}[2J «c»");
        assert_eq!(one_line(&"ä".repeat(LONGEST)), "ä".repeat(LONGEST));
        assert_eq!(one_line(&"ä".repeat(LONGEST + 1)), "ä".repeat(LONGEST) + "…");
    }
}
