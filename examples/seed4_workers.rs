//! Seed 4, "Process": the number of cores, five processes that run a function, five that run an object.
//!
//! Prints the count, five lines with process ids (in any order), `All workers have finished working`, and the same again
//! for the objects. Python's subclass of `Process` with a `run` method is a type that implements [`Run`] here.
//!
//! The seed says that a process lingers, idle, until it is joined. It does not: when its function returns it is gone,
//! and what the kernel keeps until somebody asks is its exit status. This crate asks at once, joined or not.
//!
//! ```sh
//! cargo run --example seed4_workers
//! ```

use procession::{Child, Process, Run, SpawnError, TaskError, cpu_count};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::process;

fn print_work(num: u32) {
    println!("I am worker number {num} and my process id is {}", process::id());
}

#[derive(Serialize, Deserialize)]
struct Worker;

impl Run for Worker {
    type Output = ();

    fn run(self) {
        println!("I am a process with id number {}", process::id());
    }
}

/// Starts all of them, and then waits for all of them.
fn run_all(workers: impl Iterator<Item = Process<()>>) -> Result<(), Box<dyn Error>> {
    let started: Vec<Child<()>> = workers.map(Process::start).collect::<Result<_, SpawnError>>()?;
    started.into_iter().try_for_each(Child::join).map_err(TaskError::into)
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("Number of cores =  {}", cpu_count());

    run_all((0..5).map(|i| Process::new(print_work, (i,))))?;
    println!("All workers have finished working");

    run_all((0..5).map(|_| Process::of(Worker)))?;
    println!("All workers have finished working");
    Ok(())
}
