//! Seed 2: cubes, serially and through a pool, which has four workers or as many as the batch scheduler allots.
//!
//! Prints `[1, 8, 27, 64, 125, 216]` after each of six headings. The seed reads `SLURM_CPUS_PER_TASK` itself and takes 1
//! when it is missing; [`procession::cpu_count`] heeds the variable along with affinity and quotas, and uses the whole
//! machine when nothing limits it. The seed also warns of libraries with threads of their own in every worker: the last
//! line shows that each worker is told its share.
//!
//! ```sh
//! SLURM_CPUS_PER_TASK=1 cargo run --example seed2_cubes
//! ```

use procession::{AsyncResult, Pool, TaskError, cpu_limit};
use std::error::Error;

const DATA: [u64; 6] = [1, 2, 3, 4, 5, 6];

fn cube(x: u64) -> u64 {
    x.pow(3)
}

/// What a library such as OpenMP is told in a worker.
fn inner_threads() -> Option<String> {
    std::env::var("OMP_NUM_THREADS").ok()
}

fn by_loop() -> Vec<u64> {
    let mut cubes = Vec::new();
    for x in DATA {
        cubes.push(cube(x));
    }
    cubes
}

fn by_map() -> Vec<u64> {
    DATA.into_iter().map(cube).collect()
}

fn by_apply_async(pool: &Pool) -> Result<Vec<u64>, TaskError> {
    let results: Vec<_> = DATA.into_iter().map(|x| pool.apply_async(cube, (x,))).collect();
    results.into_iter().map(AsyncResult::get).collect()
}

fn show(heading: &str, cubes: &[u64]) {
    println!("{heading}\n{cubes:?}");
}

fn main() -> Result<(), Box<dyn Error>> {
    show("Serial, a loop", &by_loop());
    show("Serial, a map", &by_map());

    let pool = Pool::new(4)?;
    show("4 processes, apply_async", &by_apply_async(&pool)?);
    show("4 processes, map", &pool.map(cube, DATA)?);

    let (cpus, limit) = cpu_limit();
    let pool = Pool::new(cpus)?;
    show(&format!("{cpus} processes (set by {limit}), apply_async"), &by_apply_async(&pool)?);
    show(&format!("{cpus} processes (set by {limit}), map"), &pool.map(cube, DATA)?);

    let threads = pool.apply(inner_threads, ())?;
    println!("OMP_NUM_THREADS in a worker: {}", threads.as_deref().unwrap_or("not set"));
    Ok(())
}
