//! Seed 3, "Process": ten processes put a random number each, are joined, and only then is the queue read.
//!
//! Prints a list of ten numbers between 1 and 101. In Python this works only as long as the numbers fit into a pipe: a
//! process that has put more does not end before somebody reads, so the join waits for ever. Here what has been put is the
//! queue's, so any size works; to show it, each number brings a megabyte along.
//!
//! ```sh
//! cargo run --example seed3_queue
//! ```

use procession::{Bytes, Process, Queue, SpawnError};
use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Both limits may come.
fn randint(lower_limit: u64, upper_limit: u64) -> u64 {
    lower_limit + RandomState::new().build_hasher().finish() % (upper_limit - lower_limit + 1)
}

fn rand_number(lower_limit: u64, upper_limit: u64, output: Queue<(u64, Bytes)>) {
    let number = randint(lower_limit, upper_limit);
    output.put((number, vec![0; 1 << 20].into())).expect("the parent has the queue");
}

fn main() -> Result<(), Box<dyn Error>> {
    let output = Queue::new();
    let processes: Vec<_> = (0..10)
        .map(|_| Process::new(rand_number, (1, 101, output.clone())).start())
        .collect::<Result<_, SpawnError>>()?;
    let count = processes.len();
    for p in processes {
        p.join()?;
    }
    let results: Vec<u64> =
        (0..count).map(|_| output.get().map(|(number, _)| number)).collect::<Result<_, _>>()?;
    println!("{results:?}");
    Ok(())
}
