//! Seed 1, "Lock": ten processes print one line each, and a lock keeps the lines whole.
//!
//! Prints `hello world 0` to `hello world 9`, in any order.
//!
//! ```sh
//! cargo run --example seed1_lock
//! ```

use procession::{Abandoned, Lock, Process, SpawnError};
use std::error::Error;

fn f(l: Lock, i: u32) {
    // Should the one before us have died in the middle of its line, ours is printed all the same.
    let _console = l.acquire().unwrap_or_else(Abandoned::into_inner);
    println!("hello world {i}");
}

fn main() -> Result<(), Box<dyn Error>> {
    let lock = Lock::new()?;
    let started: Vec<_> =
        (0..10).map(|num| Process::new(f, (lock.clone(), num)).start()).collect::<Result<_, SpawnError>>()?;
    for child in started {
        child.join()?;
    }
    Ok(())
}
