//! Seed 1, "Basics": one process, five in a loop, and three that know their names.
//!
//! Prints `Hello bob`, then `Worker: 0` to `Worker: 4`, then three pairs of `Starting` and `Exiting`; takes 3 s. The
//! processes run at the same time, so the lines of the loop, and those of equal moments, may change places.
//!
//! The seed calls this threading with shared memory. It is neither: each process has a memory of its own, and its
//! arguments are copies. Nor does it join the processes of the loop, because Python does that at exit; here a child
//! that is dropped is killed, so they are joined by hand. That the third process is called `Process-9` is no accident:
//! every description takes a number, also one that gets a name.
//!
//! ```sh
//! cargo run --example seed1_processes
//! ```

use procession::{Child, Process, current_process};
use std::error::Error;
use std::thread::sleep;
use std::time::Duration;

fn f(name: String) {
    println!("Hello {name}");
}

fn worker(num: u32) {
    println!("Worker: {num}");
}

fn named_worker() {
    announce_around(Duration::from_secs(2));
}

fn my_service() {
    announce_around(Duration::from_secs(3));
}

/// Says who is at work, before and after a time of sleep.
fn announce_around(rest: Duration) {
    let name = current_process().name();
    println!("{name} Starting");
    sleep(rest);
    println!("{name} Exiting");
}

fn join_all(children: Vec<Child<()>>) -> Result<(), Box<dyn Error>> {
    for child in children {
        child.join()?;
    }
    Ok(())
}

fn hello() -> Result<(), Box<dyn Error>> {
    let p = Process::new(f, ("bob".to_owned(),)).start()?;
    p.join()?;
    Ok(())
}

fn worker_loop() -> Result<(), Box<dyn Error>> {
    let jobs = (0..5).map(|i| Process::new(worker, (i,)).start()).collect::<Result<_, _>>()?;
    join_all(jobs)
}

fn names() -> Result<(), Box<dyn Error>> {
    let service = Process::new(my_service, ()).name("my_service");
    let worker_1 = Process::new(named_worker, ()).name("worker 1");
    let worker_2 = Process::new(named_worker, ()); // the default name

    join_all(vec![worker_1.start()?, worker_2.start()?, service.start()?])
}

fn main() -> Result<(), Box<dyn Error>> {
    hello()?;
    worker_loop()?;
    names()
}
