//! `procession compare`: what a task costs above its own work, in threads, in processes, and in a process of its own.
//!
//! The engine is public, and hidden, for the example `primes`, which draws the same picture.

mod launch;
mod measure;
mod plot;
mod workers;

pub use launch::{Launch, LaunchError, launch};
pub use measure::{Cost, ROUNDS, SIZES, measure};
pub use plot::draw;
pub use workers::{Parcel, Workers};

use super::{Code, duration, say};
use crate::cause::Cause;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Measures what processes cost against threads, by the size of the task
///
/// The same spinning tasks run in a plain loop, in a ThreadPool and in a Pool of processes; what a worker spends on a task
/// above the task's own work is the overhead. With a program, also what it costs to start that for every task, by
/// `procession map` and by threads with std::process::Command: give one that does nothing, as in `-- true` or
/// `-- python3 -c pass`. The best of several rounds counts, since what else the machine does can only add.
#[derive(Debug, Args)]
#[command(after_long_help = super::exit::TABLE)]
pub struct Compare {
    /// Workers of each kind [default: as many as there are processors to use]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// How long tasks take by themselves [default: from 1us to 100ms]
    #[arg(long, value_name = "TIME,…", value_parser = size, value_delimiter = ',')]
    sizes: Vec<Duration>,
    /// About how long measuring may take, after a first round
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "10s")]
    time: Duration,
    /// Draw it into this file, as an SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print a JSON object for each size, in seconds
    #[arg(long)]
    json: bool,
    /// A program to be started for each task, with its arguments as they are
    #[arg(trailing_var_arg = true, value_name = "PROG")]
    command: Vec<OsString>,
}

fn size(text: &str) -> Result<Duration, String> {
    let size = duration::parse(text)?;
    if (Duration::from_nanos(100)..=Duration::from_secs(60)).contains(&size) {
        Ok(size)
    } else {
        Err(format!("`{text}` is no size of a task; type for example 1us, 30us, 100ms; 60s is the most"))
    }
}

impl Compare {
    pub(super) fn run(self) -> Code {
        match self.try_run() {
            Ok(code) => code,
            Err((code, text)) => {
                say(text);
                code
            }
        }
    }

    fn try_run(self) -> Result<Code, (Code, String)> {
        let own = |error: &dyn std::fmt::Display| (Code::Own, error.to_string());
        let jobs = self.jobs.map_or_else(crate::cpu_count, usize::from);
        if jobs > crate::cpu_count() {
            let cpus = crate::cpu_count();
            say(format_args!(
                "{jobs} workers on {cpus} processors: what they wait for each other counts, too"
            ));
        }
        // Before the work, so that a mistyped path costs no time.
        let plot = match &self.plot {
            Some(path) => {
                let failed = |error| (Code::Own, format!("cannot write {}: {error}", path.display()));
                Some((path, File::create(path).map_err(failed)?))
            }
            None => None,
        };
        let launch = match self.command.as_slice() {
            [] => None,
            words => Some(launch(words, jobs, self.time / 4).map_err(|error| match error {
                LaunchError::Ended(cause @ Cause::Spawn { .. }) => {
                    (Code::of_failed_start(cause), format!("{}: {cause}", words[0].display()))
                }
                LaunchError::Ended(cause) => {
                    let name = words[0].display();
                    (Code::Failed, format!("{name} ends with {cause}; give one that succeeds, as in -- true"))
                }
                LaunchError::Run(error) => own(&error),
            })?),
        };
        let sizes = if self.sizes.is_empty() { SIZES.to_vec() } else { self.sizes };
        let bar = bar();
        let costs = measure(jobs, &sizes, self.time, || bar.inc(1)).map_err(|error| own(&error))?;
        bar.finish_and_clear();
        let text =
            if self.json { json(&costs, launch.as_ref(), jobs) } else { table(&costs, launch.as_ref()) };
        if let Some((path, mut file)) = plot {
            let svg = draw(&costs, jobs, launch.as_ref()).map_err(|error| own(&error))?;
            file.write_all(svg.as_bytes())
                .map_err(|error| (Code::Own, format!("cannot write {}: {error}", path.display())))?;
        }
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(Code::Ok),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Code::Signal(crate::sys::signals::SIGPIPE))
            }
            Err(error) => Err((Code::Own, format!("standard output: {error}"))),
        }
    }
}

fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(ROUNDS as u64).with_message("measuring");
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:24}] {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.tick();
    bar
}

/// The costs in columns, each with what it is above the task's own work, and from which size on that is little.
#[must_use]
pub fn table(costs: &[Cost], launch: Option<&Launch>) -> String {
    type Column<'a> = (&'static str, Box<dyn Fn(&Cost) -> f64 + 'a>);
    let mut columns: Vec<Column<'_>> = vec![
        ("in threads", Box::new(|cost| cost.threads)),
        ("in processes", Box::new(|cost| cost.processes)),
    ];
    if let Some(launch) = launch {
        columns.push(("a process each, by map", Box::new(|cost| cost.work + launch.by_map)));
        columns.push(("by threads", Box::new(|cost| cost.work + launch.by_std)));
    }
    let mut rows = vec![vec!["own work".to_owned()]];
    rows[0].extend(columns.iter().map(|(name, _)| (*name).to_owned()));
    for cost in costs {
        let mut row = vec![show(cost.work)];
        row.extend(
            columns.iter().map(|(_, of)| format!("{}  {:>8}", show(of(cost)), percent(over(of(cost), cost)))),
        );
        rows.push(row);
    }
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("   "));
    }
    text.push('\n');
    for (name, of) in &columns {
        // From there on it stays so: a lucky small one tells nothing.
        let from = costs.iter().rev().take_while(|cost| over(of(cost), cost) <= 0.1).last();
        let from = from.map_or("no size here".into(), |cost| show(cost.work));
        let _ = writeln!(text, "less than 10 % on top, {name}: from {from}");
    }
    if let Some(launch) = launch {
        let (map, std) = (show(launch.by_map), show(launch.by_std));
        let _ = writeln!(text, "to start and end `{}`: {map} by map, {std} by threads", launch.name);
    }
    text
}

/// What comes on top, as a part of the work; what is below it is noise.
fn over(all: f64, cost: &Cost) -> f64 {
    (all / cost.work - 1.0).max(0.0)
}

fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent < 10.0 { format!("+{percent:.2} %") } else { format!("+{percent:.0} %") }
}

/// Nanoseconds as people write them: 10 µs, 1 ms.
pub(super) fn show(nanos: f64) -> String {
    let digits = |value: f64| match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    };
    match nanos {
        n if n < 999.5 => format!("{} ns", digits(n)),
        n if n < 999.5e3 => format!("{} µs", digits(n / 1e3)),
        n if n < 999.5e6 => format!("{} ms", digits(n / 1e6)),
        n => format!("{} s", digits(n / 1e9)),
    }
}

fn json(costs: &[Cost], launch: Option<&Launch>, jobs: usize) -> String {
    let mut text = String::new();
    for cost in costs {
        let [work, threads, processes] = [cost.work, cost.threads, cost.processes].map(|nanos| nanos / 1e9);
        let _ = write!(
            text,
            "{{\"v\":1,\"jobs\":{jobs},\"work\":{work:e},\"threads\":{threads:e},\"processes\":{processes:e}"
        );
        if let Some(launch) = launch {
            let (map, std) = (launch.by_map / 1e9, launch.by_std / 1e9);
            let _ = write!(text, ",\"start_by_map\":{map:e},\"start_by_threads\":{std:e}");
        }
        text.push_str("}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_from_where_on_it_costs_little() {
        let cost = |work, threads, processes| Cost { work, threads, processes };
        let costs = [cost(1e3, 1.5e3, 9e3), cost(1e5, 1.01e5, 1.2e5), cost(1e7, 1.0e7, 1.0001e7)];
        let launch = Launch { name: "true".into(), by_map: 8e5, by_std: 1e6 };
        let text = table(&costs, Some(&launch));
        assert!(
            text.contains("in threads: from 100 µs") && text.contains("in processes: from 10.0 ms"),
            "{text}"
        );
        assert!(
            text.contains("`true`: 800 µs by map, 1.00 ms by threads") && text.contains("+50 %"),
            "{text}"
        );
        assert!(table(&costs[..1], None).contains("from no size here"));
        assert!(draw(&costs, 2, Some(&launch)).expect("it can be drawn").contains("a process each (true)"));
        let line: serde_json::Value =
            serde_json::from_str(json(&costs, None, 2).lines().next().unwrap()).unwrap();
        assert_eq!(line["work"], 1e-6);
    }
}
