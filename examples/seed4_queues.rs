//! Seed 4, "Queue": five processes take numbers from one queue and put what they find into another.
//!
//! Prints `All workers have finished working`, eight lines (in any order; only 454577 is prime), and the time: two rounds of
//! 0.1 s and the overhead.
//!
//! The seed has three races, none of which is here. Its workers ask whether the queue is empty and then get, so two may see
//! one item and the loser waits for ever: ours get until the queue is closed. Its `empty()` may be true right after a
//! `put`: ours counts exactly. It joins workers whose results nobody has read, and stops reading at the first `empty()`:
//! ours keeps what was put, and everything is there when the workers have ended.
//!
//! ```sh
//! cargo run --example seed4_queues
//! ```

use procession::{Process, Queue, SpawnError};
use std::error::Error;
use std::process;
use std::thread::sleep;
use std::time::{Duration, Instant};

type Answer = (u32, u64, bool);

fn check_prime(qin: Queue<u64>, qout: Queue<Answer>) {
    for num in qin.iter().flatten() {
        sleep(Duration::from_millis(100));
        let is_prime = (2..num).all(|i| num % i != 0);
        qout.put((process::id(), num, is_prime)).expect("the parent has the queue");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let tic = Instant::now();
    let numbers = [222377, 3334, 2212, 3345, 23441, 454577, 341737, 565633];
    let (in_qu, out_qu) = (Queue::new(), Queue::new());
    for n in numbers {
        in_qu.put(n)?;
    }
    in_qu.close();
    let workers: Vec<_> = (0..5)
        .map(|_| Process::new(check_prime, (in_qu.clone(), out_qu.clone())).start())
        .collect::<Result<_, SpawnError>>()?;
    for w in workers {
        w.join()?;
    }
    println!("All workers have finished working");
    while !out_qu.is_empty() {
        let (pid, num, is_prime) = out_qu.get()?;
        let is_prime = if is_prime { "True" } else { "False" };
        println!("Worker with process id {pid} says {num} is {is_prime} prime");
    }
    println!("Total time taken:  {}", tic.elapsed().as_secs_f64());
    Ok(())
}
