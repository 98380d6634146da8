//! Medians of the measured values, as tables.

use std::fmt::Write;

use super::{
    case::Case,
    contender::{DIRECT, OURS},
};

/// The values of one round, for one contender and one case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) per_second: f64,
    /// In µs.
    pub(crate) p50: f64,
    /// In µs.
    pub(crate) p99: f64,
    /// Per request, or per token of a stream; in µs.
    pub(crate) cpu: f64,
    /// Resident memory afterwards, in MB.
    pub(crate) resident: f64,
    /// How much more of it there was in the middle of the round than before the first load, for each
    /// connection; in KiB.
    pub(crate) of_connection: f64,
}

/// All rounds of one contender in one case.
pub(crate) struct Figures {
    pub(crate) case: Case,
    pub(crate) name: &'static str,
    pub(crate) rounds: Vec<Round>,
    /// In user space, per request or token; `None` where nothing counts them.
    pub(crate) instructions: Option<f64>,
}

impl Figures {
    fn median(&self) -> Round {
        let of = |figure: fn(&Round) -> f64| median(self.rounds.iter().map(figure).collect());
        Round {
            per_second: of(|round| round.per_second),
            p50: of(|round| round.p50),
            p99: of(|round| round.p99),
            cpu: of(|round| round.cpu),
            resident: of(|round| round.resident),
            of_connection: of(|round| round.of_connection),
        }
    }
}

pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    match (all.len() / 2, all.len() % 2) {
        (0, 0) => f64::NAN,
        (middle, 1) => all[middle],
        (middle, _) => (all[middle - 1] + all[middle]) / 2.0,
    }
}

/// One block: the contenders in one case.
pub(crate) fn table(figures: &[Figures]) -> String {
    let Some(Figures { case, .. }) = figures.first() else { return String::new() };
    let [units, ..] = case.figures();
    let unit = units.trim_end_matches('s');
    let medians: Vec<_> =
        figures.iter().map(|one| (one.name, one.median(), one.instructions)).collect();
    let of = |name| medians.iter().find(|one| one.0 == name).map(|one| one.1);
    let mut text = format!(
        "{}\n{:16} {:>11} {:>8} {:>8} {:>14} {:>9} {:>7} {:>8}  ours: {:>5} {:>9} {:>9}\n",
        case.title(),
        "",
        format!("{units}/s"),
        "p50 µs",
        "p99 µs",
        format!("CPU µs/{unit}"),
        "instr.",
        "RSS MB",
        "KiB/conn",
        "CPU",
        "added p50",
        "added p99"
    );
    for (name, one, instructions) in &medians {
        let Round { per_second, p50, p99, cpu, resident, of_connection } = one;
        let _ = write!(text, "{name:16} {per_second:11.0} {p50:8.0} {p99:8.0}");
        if *name != DIRECT {
            let _ = write!(text, " {cpu:14.2}");
            let counted = instructions.map_or("-".into(), |counted| format!("{counted:.0}"));
            let _ = write!(text, " {counted:>9} {resident:7.1} {of_connection:8.1}");
            if let (Some(ours), Some(direct)) = (of(OURS), of(DIRECT)) {
                let added = |figure: fn(&Round) -> f64| {
                    (figure(&ours) - figure(&direct)) / (figure(one) - figure(&direct))
                };
                let (p50, p99) = (added(|round| round.p50), added(|round| round.p99));
                let _ = write!(text, "        {:5.2} {p50:9.2} {p99:9.2}", ours.cpu / cpu);
            }
        }
        text.push('\n');
    }
    text
}

/// The block of the starts, in ms.
pub(crate) fn starts(figures: &[(&'static str, Vec<f64>)]) -> String {
    let mut text =
        format!("{}\n{:16} {:>9} {:>9}\n", Case::Start.title(), "", "p50 ms", "worst ms");
    for (name, all) in figures {
        let worst = all.iter().copied().fold(f64::NAN, f64::max);
        let _ = writeln!(text, "{name:16} {:9.1} {worst:9.1}", median(all.clone()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
