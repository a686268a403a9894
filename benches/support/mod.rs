//! What all benchmarks share: rows chosen by name, rounds in turn with the baseline, and the one line of a measurement.
#![allow(dead_code, reason = "all benchmarks share it, and none of them needs all of it")]

use std::error::Error;
use std::fmt::Display;
use std::time::Instant;

/// What a benchmark returns.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// A row: its name (its lines begin with it), and what prints the lines.
pub(crate) type Row = (&'static str, fn(&Bench) -> Outcome);

/// What was asked for on the command line.
pub(crate) struct Bench {
    filters: Vec<String>,
    /// Fewer rounds, and without the slow peers.
    pub(crate) quick: bool,
}

impl Bench {
    /// `cargo bench` says `--bench`. Whoever does not (`cargo test --benches`, a list of tests) wants no measurements.
    pub(crate) fn from_args() -> Option<Self> {
        let (flags, filters): (Vec<_>, Vec<_>) =
            std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
        let has = |flag: &str| flags.iter().any(|given| given == flag);
        (has("--bench") && !has("--list")).then(|| Self { filters, quick: has("--quick") })
    }

    /// Runs the rows whose names contain one of the filters; all of them if there is none.
    ///
    /// A row that fails says so in a line of its own, and the others are run.
    pub(crate) fn run(&self, rows: &[Row]) -> Outcome {
        println!("# {:<30} {:>12} {:>12} {:>8}", "name", "ours", "baseline", "ratio");
        let mut failed = 0;
        for (name, row) in rows {
            if !self.filters.is_empty() && !self.filters.iter().any(|filter| name.contains(filter)) {
                continue;
            }
            if let Err(error) = row(self) {
                println!("{name:<32} failed: {error}");
                failed += 1;
            }
        }
        if failed == 0 { Ok(()) } else { Err(format!("{failed} rows failed").into()) }
    }

    /// How many rounds, when so many are wanted.
    pub(crate) fn rounds(&self, wanted: usize) -> usize {
        if self.quick { (wanted / 4).max(wanted.min(3)) } else { wanted }
    }

    /// Measures both in turn, and prints the line.
    pub(crate) fn compare(
        &self,
        name: &str,
        rounds: usize,
        ours: impl FnMut() -> Outcome<f64>,
        baseline: impl FnMut() -> Outcome<f64>,
    ) -> Outcome {
        let pairs = interleave(self.rounds(rounds), ours, baseline)?;
        line(name, seconds, &pairs);
        Ok(())
    }
}

/// Measures ours and the baseline in turn, so that whatever else happens on the machine happens to both; the first of
/// each is for warmth and does not count, unless only one is wanted.
pub(crate) fn interleave(
    rounds: usize,
    mut ours: impl FnMut() -> Outcome<f64>,
    mut baseline: impl FnMut() -> Outcome<f64>,
) -> Outcome<Vec<(f64, f64)>> {
    if rounds > 1 {
        ours()?;
        baseline()?;
    }
    (0..rounds).map(|_| Ok((ours()?, baseline()?))).collect()
}

/// Prints the medians of both, and the median of the ratios (which is not the ratio of the medians).
pub(crate) fn line(name: &str, unit: fn(f64) -> String, pairs: &[(f64, f64)]) {
    let middle = |pick: fn(&(f64, f64)) -> f64| median(pairs.iter().map(pick).collect());
    let ratio = middle(|(ours, baseline)| ours / baseline);
    row(name, unit(middle(|pair| pair.0)), unit(middle(|pair| pair.1)), format!("{ratio:.2}"));
}

/// Prints a line as it is given; `-` where there is nothing to say.
pub(crate) fn row(name: &str, ours: impl Display, baseline: impl Display, ratio: impl Display) {
    println!("{name:<32} {ours:>12} {baseline:>12} {ratio:>8}");
}

/// Says why there is no measurement.
pub(crate) fn skip(name: &str, reason: impl Display) {
    println!("{name:<32} skipped: {reason}");
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long it takes, in seconds.
pub(crate) fn timed(work: impl FnOnce() -> Outcome) -> Outcome<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// How long one of so many calls takes, in seconds.
pub(crate) fn per_call(calls: u32, mut call: impl FnMut(u64) -> Outcome) -> Outcome<f64> {
    let all = timed(|| (0..u64::from(calls)).try_for_each(&mut call))?;
    Ok(all / f64::from(calls))
}

/// Seconds, as people say it.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        ..1e-6 => format!("{:.0}ns", value * 1e9),
        ..1e-3 => format!("{:.2}µs", value * 1e6),
        ..1.0 => format!("{:.2}ms", value * 1e3),
        _ => format!("{value:.2}s"),
    }
}

/// Fails with a text unless what was computed is what was expected.
pub(crate) fn expect<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}").into()) }
}
