//! Seed 1, "Using a pool of workers", and the exercise at its end.
//!
//! The first part prints squares by `map` (in order) and by `imap_unordered` (in any order), the square of 20, process
//! ids, and what happens to one who waits 1 s for a task of 10 s: the wait ends, the task goes on, the pool stays
//! usable. Dropping the pool does not wait for the sleeper either. Where Python raises `TimeoutError`, `get_timeout`
//! returns `None`, and the same result can be asked again.
//!
//! The exercise runs ten tasks on five workers, then the same with a sleep in the task. The answers to its questions:
//! the results stay the same; right after `apply_async` the tasks are still running (`ready` says so); and `get` waits.
//!
//! ```sh
//! cargo run --example seed1_pool
//! ```

use procession::{AsyncResult, Pool, TaskError};
use std::error::Error;
use std::process;
use std::thread::sleep;
use std::time::Duration;

const ONE_SECOND: Duration = Duration::from_secs(1);

fn f(x: u64) -> u64 {
    x * x
}

/// The exercise's second function.
fn slow_f(x: u64) -> u64 {
    sleep(Duration::from_millis(200));
    f(x)
}

/// The result, or an error in place of Python's `TimeoutError`.
fn within_a_second<R>(mut result: AsyncResult<R>) -> Result<R, Box<dyn Error>> {
    result.get_timeout(ONE_SECOND)?.ok_or_else(|| "no result within 1 s".into())
}

fn maps(pool: &Pool) -> Result<(), Box<dyn Error>> {
    println!("Using .map");
    println!("{:?}", pool.map(f, 0..10)?);

    println!("Using .imap_unordered");
    for square in pool.imap_unordered(f, 0..10) {
        println!("{}", square?);
    }
    Ok(())
}

fn single_tasks(pool: &Pool) -> Result<(), Box<dyn Error>> {
    println!("Using .apply_async");
    println!("{}", within_a_second(pool.apply_async(f, (20,)))?);

    println!("Using .apply_async");
    println!("{}", within_a_second(pool.apply_async(process::id, ()))?);

    println!("Using .apply_async in a list");
    let results: Vec<_> = (0..4).map(|_| pool.apply_async(process::id, ())).collect();
    let pids: Vec<u32> = results.into_iter().map(within_a_second).collect::<Result<_, _>>()?;
    println!("{pids:?}");
    Ok(())
}

fn impatience(pool: &Pool) -> Result<(), TaskError> {
    println!("Using .apply_async knowing it will timeout");
    let mut nap = pool.apply_async(sleep, (Duration::from_secs(10),));
    match nap.get_timeout(ONE_SECOND)? {
        Some(()) => println!("The nap is over already"),
        None => println!("We lacked patience and got no result in time"),
    }
    println!("For the moment, the pool remains available for more work");
    Ok(())
}

/// Ten tasks on five workers; `name` is what the output calls them.
fn exercise(pool: &Pool, name: &str, results: Vec<AsyncResult<u64>>) -> Result<(), TaskError> {
    let ready = results.iter().filter(|result| result.ready()).count();
    println!("{name}: {ready} of {} are ready on {} workers", results.len(), pool.worker_pids().len());
    for result in results {
        println!("{}", result.get()?);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    {
        let pool = Pool::new(4)?;
        maps(&pool)?;
        single_tasks(&pool)?;
        impatience(&pool)?;
    }
    println!("Now the pool is closed and no longer available");

    let pool = Pool::new(5)?;
    exercise(&pool, "Exercise", (0..10).map(|x| pool.apply_async(f, (x,))).collect())?;
    exercise(&pool, "Exercise with a sleep", (0..10).map(|x| pool.apply_async(slow_f, (x,))).collect())?;
    Ok(())
}
