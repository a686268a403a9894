//! Seed 4, "Pool": eight numbers tested on five workers, each of which says what it found.
//!
//! Prints eight lines with process ids, in any order (only 454577 is a prime), then `All workers have finished working`
//! and the time: two rounds of 0.1 s, since eight tasks that sleep so long share five workers.
//!
//! ```sh
//! cargo run --release --example seed4_pool
//! ```

use procession::Pool;
use std::error::Error;
use std::process;
use std::thread::sleep;
use std::time::{Duration, Instant};

const NUMBERS: [u32; 8] = [222_377, 3334, 2212, 3345, 23441, 454_577, 341_737, 565_633];

fn check_prime(num: u32) {
    sleep(Duration::from_millis(100));
    let is_prime = !(2..num).any(|i| num.is_multiple_of(i));
    // As Python writes a bool.
    let verdict = if is_prime { "True" } else { "False" };
    println!("Process {} says that {num} is {verdict} prime", process::id());
}

fn main() -> Result<(), Box<dyn Error>> {
    let tic = Instant::now();
    let worker_pool = Pool::new(5)?;
    worker_pool.map(check_prime, NUMBERS)?;
    worker_pool.close();
    worker_pool.join();

    println!("All workers have finished working");
    println!("Total time taken:  {}", tic.elapsed().as_secs_f64());
    Ok(())
}
