//! Seed 3: a power of each number from 1 to 4, by `apply`, `map`, `apply_async` and `map_async`.
//!
//! Prints `[0, 3, 26, 255]` for each of the four. The seed announces `[1, 2, 9, 64]`, but its program does not compute
//! that: `value**value-1` is (value^value) - 1, since the power binds tighter than the minus. What its author meant,
//! value^(value - 1), is the last line.
//!
//! ```sh
//! cargo run --example seed3_powers
//! ```

use procession::{AsyncResult, Pool, TaskError, cpu_count};
use std::error::Error;
use std::ops::Range;

const VALUES: Range<u32> = 1..5;

/// As the seed's program has it.
fn power_n_minus_1(value: u32) -> u32 {
    value.pow(value) - 1
}

/// As the seed's text has it.
fn power_n_minus_1_as_meant(value: u32) -> u32 {
    value.pow(value - 1)
}

/// One task at a time: `apply` waits for each, so nothing runs in parallel.
fn by_apply(pool: &Pool) -> Result<Vec<u32>, TaskError> {
    VALUES.map(|x| pool.apply(power_n_minus_1, (x,))).collect()
}

/// All tasks at once, results in order.
fn by_apply_async(pool: &Pool) -> Result<Vec<u32>, TaskError> {
    let outputs: Vec<_> = VALUES.map(|x| pool.apply_async(power_n_minus_1, (x,))).collect();
    outputs.into_iter().map(AsyncResult::get).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("Maximum number of processes: {}", cpu_count());
    let pool = Pool::new(cpu_count())?;
    println!("{:?}", by_apply(&pool)?);
    println!("{:?}", pool.map(power_n_minus_1, VALUES)?);
    println!("{:?}", by_apply_async(&pool)?);
    println!("{:?}", pool.map_async(power_n_minus_1, VALUES).get()?);
    println!("As meant: {:?}", pool.map(power_n_minus_1_as_meant, VALUES)?);
    Ok(())
}
