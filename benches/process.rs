//! What it costs to start a process, run a function in it, and take its result.
//!
//! `cargo bench --bench process -- 4gib` runs the rows whose names contain `4gib`; `--quick` takes fewer rounds.

mod support;

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/peer.rs"]
mod peer;

use cpu::{allowed, confined, move_to};
use peer::{Peer, again, answer, part};
use procession::Process;
use std::hint::black_box;
use support::{Bench, Outcome, Row, expect, per_call, skip};

/// The part that does nothing.
const NOTHING: &str = "nothing";
/// The parts that have touched so much memory, and start processes when asked.
const SMALL: &str = "small";
const LARGE: &str = "large";

const SMALL_SIZE: usize = 10 << 20;
const LARGE_SIZE: usize = 4 << 30;

/// The part that measures on one processor.
const ONE_CPU: &str = "one-cpu";

/// So many starts make a round.
const STARTS: u32 = 10;

const ROWS: [Row; 4] = [
    ("process_start", |bench| against_std(bench, "process_start")),
    ("process_start_one_cpu", |bench| confined(bench, "process_start_one_cpu", ONE_CPU)),
    ("process_start_procspawn", process_start_procspawn),
    ("process_start_4gib", process_start_4gib),
];

fn main() -> Outcome {
    match part().as_deref() {
        Some(NOTHING) => return Ok(()),
        Some(SMALL) => return start_when_asked(SMALL_SIZE),
        Some(LARGE) => return start_when_asked(LARGE_SIZE),
        Some(ONE_CPU) => return on_one_cpu(),
        _ => procspawn::init(),
    }
    Bench::from_args().map_or(Ok(()), |bench| bench.run(&ROWS))
}

fn add_one(x: u64) -> u64 {
    x + 1
}

fn started() -> Outcome<f64> {
    per_call(STARTS, |x| expect(Process::new(add_one, (x,)).start()?.join()?, x + 1))
}

fn against_std(bench: &Bench, name: &str) -> Outcome {
    let mut nothing = again(NOTHING)?;
    let baseline = || per_call(STARTS, |_| expect(nothing.spawn()?.wait()?.success(), true));
    bench.compare(name, 61, started, baseline)
}

fn on_one_cpu() -> Outcome {
    move_to(allowed()?.0, std::process::id())?;
    against_std(&Bench::from_args().ok_or("it is a part of a benchmark")?, "process_start_one_cpu")
}

fn process_start_procspawn(bench: &Bench) -> Outcome {
    let theirs = || per_call(STARTS, |x| expect(procspawn::spawn(x, add_one).join()?, x + 1));
    bench.compare("process_start_procspawn", 61, started, theirs)
}

/// Parents of two sizes, each a process of its own, so that its memory is as fresh as its size is true.
fn process_start_4gib(bench: &Bench) -> Outcome {
    const NAME: &str = "process_start_4gib";
    if available()? < (LARGE_SIZE >> 10) * 3 / 2 {
        skip(NAME, "not enough free memory");
        return Ok(());
    }
    let mut small = Peer::start(&mut again(SMALL)?)?;
    let mut large = Peer::start(&mut again(LARGE)?)?;
    bench.compare(NAME, 61, || large.ask("start"), || small.ask("start"))
}

fn start_when_asked(size: usize) -> Outcome {
    let mut memory = vec![1_u8; size];
    black_box(&mut memory);
    answer("", |_| started())?;
    drop(black_box(memory));
    Ok(())
}

/// In KiB, what can be had without swapping.
fn available() -> Outcome<usize> {
    let info = std::fs::read_to_string("/proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    Ok(line.ok_or("no MemAvailable")?.trim().trim_end_matches(" kB").parse()?)
}
