//! What a task costs above its own work, in a pool of processes and in one of threads.

use super::workers::Workers;
use crate::error::TaskError;
use crate::pool::{Pool, ThreadPool};
use std::error::Error;
use std::hint::spin_loop;
use std::iter::repeat_n;
use std::time::{Duration, Instant};

/// How long tasks spin unless told otherwise: from 1 µs to 100 ms.
pub const SIZES: [Duration; 11] = [
    Duration::from_micros(1),
    Duration::from_micros(3),
    Duration::from_micros(10),
    Duration::from_micros(30),
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
];
/// About so long takes one map.
const MAP: Duration = Duration::from_millis(30);
/// Every worker gets at least so many tasks of a map, unless a single one takes longer than that.
const FEWEST: usize = 4;
/// Every size is measured so often, in turns; its best time counts, since what else the machine does can only add.
pub const ROUNDS: usize = 16;

/// The costs of a task of one size, all in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Its own work, measured without a pool.
    pub work: f64,
    /// What a worker spends for it in a pool of threads.
    pub threads: f64,
    /// What a worker spends for it in a pool of processes.
    pub processes: f64,
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

/// The costs by size, measured in rounds, which are told as they end: for as long as `patience` lasts, and once at least.
///
/// # Errors
/// There are no workers to be had, or they were killed.
pub fn measure(
    workers: usize,
    sizes: &[Duration],
    patience: Duration,
    mut advance: impl FnMut(),
) -> Result<Vec<Cost>, Box<dyn Error>> {
    let (threads, processes) = (ThreadPool::new(workers)?, Pool::new(workers)?);
    let mut costs = vec![Cost::UNKNOWN; sizes.len()];
    let before = Instant::now();
    for _ in 0..ROUNDS {
        for (cost, size) in costs.iter_mut().zip(sizes) {
            let nanos = u64::try_from(size.as_nanos()).unwrap_or(u64::MAX).max(1);
            cost.work = cost.work.min(alone(nanos));
            cost.threads = cost.threads.min(pooled(&threads, workers, nanos)?);
            cost.processes = cost.processes.min(pooled(&processes, workers, nanos)?);
        }
        advance();
        if before.elapsed() > patience {
            break;
        }
    }
    Ok(costs)
}

/// How many tasks of that size keep one worker busy for the time of a map.
fn tasks(nanos: u64) -> usize {
    let fewest = if u128::from(nanos) < MAP.as_nanos() { FEWEST } else { 1 };
    usize::try_from(MAP.as_nanos() / u128::from(nanos)).unwrap_or(fewest).max(fewest)
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

pub(super) fn per_task(time: Duration, tasks: usize) -> f64 {
    time.as_secs_f64() * 1e9 / tasks as f64
}
