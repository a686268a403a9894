//! Seed 0, the main job: which of the numbers from 2 to 999,999 are primes, serially, on threads and on processes.
//!
//! Prints the number of processors, the number of primes (78498) and a table of times and speed-ups; all three ways must
//! find the same. With `--plot FILE` it also measures what a task costs above its own work, by the size of the task,
//! and draws it as an SVG. The seed uses four processes, here it is as many as there are processors unless told
//! otherwise; its note that small jobs may be slower in parallel is what the plot is about.
//!
//! ```sh
//! cargo run --release --example primes -- 1000000 --workers 4 --plot overhead.svg
//! ```

mod options;
mod progress;

use comfy_table::{CellAlignment, Table, presets};
use options::{Options, USAGE};
use procession::cli::compare::{ROUNDS, SIZES, Workers, draw, measure, table};
use procession::{AsyncResult, Pool, ThreadPool, cpu_count};
use progress::Progress;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// On a busy machine fewer rounds of measuring have to do.
const PATIENCE: Duration = Duration::from_secs(11);
/// So many numbers make one map: large enough to cost nothing, small enough that a long job shows its progress.
const STEP: i64 = 200_000;

/// The number if it is a prime, and -1 otherwise: the seed's function, with all its divisions.
fn is_prime(n: i64) -> i64 {
    if n != 2 && n % 2 == 0 {
        return -1;
    }
    for i in 3..=n.isqrt() {
        if n % i == 0 {
            return -1;
        }
    }
    n
}

/// One way to do the job, and what came of it.
struct Run {
    way: &'static str,
    workers: usize,
    /// Until the workers are there.
    start: Duration,
    /// Until all results are.
    work: Duration,
    results: Vec<i64>,
}

impl Run {
    fn total(&self) -> Duration {
        self.start + self.work
    }

    fn count(&self) -> usize {
        self.results.iter().filter(|&&n| n > 0).count()
    }

    fn check_against(&self, other: &Self) -> Result<(), String> {
        match self.results.iter().zip(&other.results).zip(2..).find(|((a, b), _)| a != b) {
            Some(((a, b), n)) => Err(format!("{n} gives {a} on {}, but {b} on {}", self.way, other.way)),
            None if self.results.len() == other.results.len() => Ok(()),
            None => Err(format!("{} and {} give different numbers of results", self.way, other.way)),
        }
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("primes: {error}; usage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read this has read enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("primes: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    if options.help {
        writeln!(out, "usage: {USAGE}")?;
        return Ok(());
    }
    // Before the work, so that a mistyped path costs no time.
    let plot = options
        .plot
        .as_ref()
        .map(|path| File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display())));
    let plot = plot.transpose()?;

    writeln!(out, "Your machine has {} CPUs / cores", cpu_count())?;
    let numbers = 2..options.limit;
    let runs = [
        serially(&numbers),
        with::<ThreadPool>(options.workers, &numbers)?,
        with::<Pool>(options.workers, &numbers)?,
    ];
    let [serial, threads, processes] = &runs;
    threads.check_against(serial)?;
    processes.check_against(serial)?;
    writeln!(out, "{} primes below {}, and all three ways agree", serial.count(), options.limit)?;
    writeln!(out, "{}", times(&runs))?;

    if let Some(mut file) = plot {
        // More spinning tasks than processors would measure the scheduler.
        let workers = options.workers.min(cpu_count());
        let progress = Progress::new("measuring overhead by task size", ROUNDS);
        let costs = measure(workers, &SIZES, PATIENCE, || progress.advance())?;
        drop(progress);
        write!(out, "{}", table(&costs, None))?;
        file.write_all(draw(&costs, workers, None)?.as_bytes())?;
    }
    Ok(())
}

fn serially(numbers: &Range<i64>) -> Run {
    let progress = Progress::new("testing serially", steps(numbers).count());
    let before = Instant::now();
    let mut results = Vec::new();
    for step in steps(numbers) {
        results.extend(step.map(is_prime));
        progress.advance();
    }
    Run { way: "serial", workers: 1, start: Duration::ZERO, work: before.elapsed(), results }
}

fn with<W: Workers>(workers: usize, numbers: &Range<i64>) -> Result<Run, Box<dyn Error>> {
    let progress = Progress::new(&format!("testing on {workers} {}", W::KIND), steps(numbers).count());
    let before = Instant::now();
    let pool = W::start(workers)?;
    let start = before.elapsed();
    let maps: Vec<AsyncResult<Vec<i64>>> =
        steps(numbers).map(|step| pool.map_async(is_prime, step)).collect();
    let mut results = Vec::new();
    for map in maps {
        results.extend(map.get()?);
        progress.advance();
    }
    Ok(Run { way: W::KIND, workers, start, work: before.elapsed() - start, results })
}

/// The same numbers in stretches.
fn steps(numbers: &Range<i64>) -> impl Iterator<Item = Range<i64>> + use<> {
    let end = numbers.end;
    numbers.clone().step_by(STEP as usize).map(move |first| first..end.min(first + STEP))
}

fn times(runs: &[Run; 3]) -> Table {
    let serial = runs[0].total().as_secs_f64();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "workers", "start", "work", "in all", "speed-up"]);
    for run in runs {
        table.add_row([
            run.way.to_owned(),
            run.workers.to_string(),
            millis(run.start),
            millis(run.work),
            millis(run.total()),
            format!("{:.2}", serial / run.total().as_secs_f64()),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
