//! The outcomes of each client with each engine, as a table.

use std::fmt::{self, Display, Formatter};

use super::client::Outcome;

/// Outcomes by subject (an engine, or errors), check and client, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Table {
    clients: Vec<&'static str>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    subject: &'static str,
    check: String,
    /// By client, in the order of the columns; `None` where the client has no such check.
    passed: Vec<Option<bool>>,
}

impl Table {
    pub(crate) fn add(
        &mut self,
        subject: &'static str,
        client: &'static str,
        outcomes: Vec<Outcome>,
    ) {
        let column = match self.clients.iter().position(|known| *known == client) {
            Some(column) => column,
            None => {
                self.clients.push(client);
                self.clients.len() - 1
            }
        };
        for outcome in outcomes {
            let row = self.row(subject, outcome.check);
            row.passed.resize(row.passed.len().max(column + 1), None);
            row.passed[column] = Some(outcome.failure.is_none());
        }
    }

    fn row(&mut self, subject: &'static str, check: String) -> &mut Row {
        let known = |row: &Row| row.subject == subject && row.check == check;
        let place = match self.rows.iter().position(known) {
            Some(place) => place,
            None => {
                // The row goes beside the other rows of its subject.
                let last = self.rows.iter().rposition(|row| row.subject == subject);
                let place = last.map_or(self.rows.len(), |last| last + 1);
                self.rows.insert(place, Row { subject, check, passed: Vec::new() });
                place
            }
        };
        &mut self.rows[place]
    }

    fn outcomes(&self) -> impl Iterator<Item = bool> {
        self.rows.iter().flat_map(|row| row.passed.iter().copied().flatten())
    }

    pub(crate) fn passed(&self) -> usize {
        self.outcomes().filter(|passed| *passed).count()
    }

    pub(crate) fn failed(&self) -> usize {
        self.outcomes().filter(|passed| !*passed).count()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let longest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
        let subjects = longest(&mut self.rows.iter().map(|row| row.subject.len()));
        let checks = longest(&mut self.rows.iter().map(|row| row.check.len()));
        write!(f, "{:subjects$}  {:checks$}", "", "check")?;
        for client in &self.clients {
            write!(f, "  {client:>9}")?;
        }
        for row in &self.rows {
            write!(f, "\n{:subjects$}  {:checks$}", row.subject, row.check)?;
            for column in 0..self.clients.len() {
                let mark = match row.passed.get(column).copied().flatten() {
                    Some(true) => "ok",
                    Some(false) => "FAILED",
                    None => "-",
                };
                write!(f, "  {mark:>9}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(check: &str, passed: bool) -> Outcome {
        Outcome { check: check.into(), failure: (!passed).then(String::new) }
    }

    #[test]
    fn a_row_is_one_check_of_one_engine_and_a_column_one_client() {
        let mut table = Table::default();
        table.add("vllm", "openai", vec![outcome("chat", true), outcome("models", false)]);
        table.add("errors", "openai", vec![outcome("404", true)]);
        table.add("vllm", "litellm", vec![outcome("chat", true), outcome("stream", true)]);
        let text = table.to_string();
        let words: Vec<Vec<_>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(
            words,
            [
                vec!["check", "openai", "litellm"],
                vec!["vllm", "chat", "ok", "ok"],
                vec!["vllm", "models", "FAILED", "-"],
                vec!["vllm", "stream", "-", "ok"],
                vec!["errors", "404", "ok", "-"],
            ]
        );
        assert_eq!((table.passed(), table.failed()), (4, 1));
    }
}
