//! What a task costs above its own work, in a pool of processes and in one of threads.

use crate::progress::Progress;
use crate::workers::Workers;
use comfy_table::{CellAlignment, Table, presets};
use procession::{Pool, TaskError, ThreadPool};
use std::error::Error;
use std::hint::spin_loop;
use std::iter::repeat_n;
use std::time::{Duration, Instant};

/// How long a task spins, in nanoseconds.
const SIZES: [u64; 9] = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000];
/// About so long takes one map.
const MAP: Duration = Duration::from_millis(30);
/// Every worker gets at least so many tasks of a map.
const FEWEST: usize = 4;
/// Every size is measured so often, in turns; its best time counts, since what else the machine does can only add.
const ROUNDS: usize = 16;
/// On a busy machine fewer rounds have to do.
const PATIENCE: Duration = Duration::from_secs(11);

/// The costs of a task of one size, all in nanoseconds.
pub(crate) struct Cost {
    /// Its own work, measured without a pool.
    pub(crate) work: f64,
    /// What a worker spends for it in a pool of threads.
    pub(crate) threads: f64,
    /// What a worker spends for it in a pool of processes.
    pub(crate) processes: f64,
}

impl Cost {
    const UNKNOWN: Self = Self { work: f64::MAX, threads: f64::MAX, processes: f64::MAX };
}

/// A task that keeps a processor busy for so many nanoseconds.
fn spin(nanos: u64) {
    let (before, time) = (Instant::now(), Duration::from_nanos(nanos));
    while before.elapsed() < time {
        spin_loop();
    }
}

/// The costs by size.
pub(crate) fn measure(workers: usize) -> Result<Vec<Cost>, Box<dyn Error>> {
    let progress = Progress::new("measuring overhead by task size", ROUNDS);
    let (threads, processes) = (ThreadPool::new(workers)?, Pool::new(workers)?);
    let mut costs = [Cost::UNKNOWN; SIZES.len()];
    let before = Instant::now();
    for _ in 0..ROUNDS {
        for (cost, nanos) in costs.iter_mut().zip(SIZES) {
            cost.work = cost.work.min(alone(nanos));
            cost.threads = cost.threads.min(pooled(&threads, workers, nanos)?);
            cost.processes = cost.processes.min(pooled(&processes, workers, nanos)?);
        }
        progress.advance();
        if before.elapsed() > PATIENCE {
            break;
        }
    }
    Ok(costs.into())
}

/// How many tasks of that size keep one worker busy for the time of a map.
fn tasks(nanos: u64) -> usize {
    usize::try_from(MAP.as_nanos() / u128::from(nanos)).unwrap_or(FEWEST).max(FEWEST)
}

/// Nanoseconds for a task called here, by a plain loop.
fn alone(nanos: u64) -> f64 {
    let count = tasks(nanos).div_ceil(4);
    let before = Instant::now();
    for _ in 0..count {
        spin(nanos);
    }
    per_task(before.elapsed(), count)
}

/// Nanoseconds of a worker's time for a task called by a map.
fn pooled<W: Workers>(pool: &W, workers: usize, nanos: u64) -> Result<f64, TaskError> {
    let each = tasks(nanos);
    let before = Instant::now();
    pool.map_async(spin, repeat_n(nanos, each * workers)).get()?;
    Ok(per_task(before.elapsed(), each))
}

fn per_task(time: Duration, tasks: usize) -> f64 {
    time.as_secs_f64() * 1e9 / tasks as f64
}

/// The costs as a table.
pub(crate) fn table(costs: &[Cost]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["own work", "in threads", "in processes"]);
    for cost in costs {
        table.add_row([cost.work, cost.threads, cost.processes].map(micros));
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn micros(nanos: f64) -> String {
    format!("{:.2} µs", nanos / 1e3)
}
