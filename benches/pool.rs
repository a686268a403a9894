//! What a warm pool costs: a call, a map, a large argument, many workers.
//!
//! `cargo bench --bench pool -- apply` runs the rows whose names contain `apply`; `--quick` takes fewer rounds and leaves
//! the slow peers out.

mod support;

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/echo.rs"]
mod echo;
#[path = "support/peer.rs"]
mod peer;
#[path = "support/python.rs"]
mod python;

use cpu::{allowed, confined, move_to};
use echo::{ECHO, Echo, bare_streams, echo};
use peer::{Peer, again, answer, part};
use procession::{Bytes, Pool};
use python::python;
use rayon::prelude::*;
use std::fmt;
use std::io::{Read, Write};
use std::process::Stdio;
use support::{Bench, Outcome, Row, expect, per_call, skip, timed};

/// The parts that call when asked.
const FREE_POOL: &str = "free-pool";
const FREE_MANY: &str = "free-many";
const FREE_PIPE: &str = "free-pipe";
/// The parts that measure on one processor, or with the other end on another one.
const ONE_CPU: &str = "one-cpu";
const TWO_CPUS: &str = "two-cpus";
const MANY_ONE_CPU: &str = "many-one-cpu";
/// The part that receives the large buffer.
const SWALLOW: &str = "swallow";

const ROWS: [Row; 15] = [
    ("apply_u64", apply_u64),
    ("apply_u64_one_cpu", |bench| confined(bench, "apply_u64_one_cpu", ONE_CPU)),
    ("apply_u64_two_cpus", |bench| confined(bench, "apply_u64_two_cpus", TWO_CPUS)),
    ("apply_u64_procspawn", apply_u64_procspawn),
    ("apply_u64_python", apply_u64_python),
    ("apply_256", apply_256),
    ("apply_256_one_cpu", |bench| confined(bench, "apply_256_one_cpu", MANY_ONE_CPU)),
    ("primes_map", primes_map),
    ("primes_map_procspawn", primes_map_procspawn),
    ("primes_map_python", primes_map_python),
    ("map_add_one", map_add_one),
    ("map_add_one_rayon", map_add_one_rayon),
    ("bytes_64mib", bytes_64mib),
    ("bytes_64mib_wrapped", bytes_64mib_wrapped),
    ("bytes_64mib_procspawn", bytes_64mib_procspawn),
];

fn main() -> Outcome {
    match part().as_deref() {
        Some(ECHO) => return echo(),
        Some(FREE_POOL) => return apply_when_asked(FEW),
        Some(FREE_MANY) => return apply_when_asked(MANY),
        Some(FREE_PIPE) => return pipe_when_asked(),
        Some(SWALLOW) => return swallow(),
        Some(other) => return measured(other),
        None => procspawn::init(),
    }
    Bench::from_args().map_or(Ok(()), |bench| bench.run(&ROWS))
}

/// The rows on chosen processors.
fn measured(part: &str) -> Outcome {
    let bench = Bench::from_args().ok_or("it is a part of a benchmark")?;
    let (here, there) = allowed()?;
    move_to(here, std::process::id())?;
    match part {
        ONE_CPU => against_the_pipe(&bench, "apply_u64_one_cpu", |_| Ok(())),
        TWO_CPUS => against_the_pipe(&bench, "apply_u64_two_cpus", |pid| move_to(there, pid)),
        MANY_ONE_CPU => apply_256_one_cpu(&bench),
        _ => Err("an unknown part".into()),
    }
}

// ---- one call -----------------------------------------------------------------------------------------------------

/// So many calls make a round.
const CALLS: u32 = 500;
const FEW: usize = 2;
const MANY: usize = 256;
/// Enough of them for both to have met every placement on the processors.
const ROUNDS: usize = 101;
/// So many calls make a round of Python's.
const PYTHON_CALLS: u32 = 300;

fn add_one(x: u64) -> u64 {
    x + 1
}

fn applied(pool: &Pool, calls: u32) -> Outcome<f64> {
    per_call(calls, |x| expect(pool.apply(add_one, (x,))?, x + 1))
}

fn piped(pipe: &mut Echo) -> Outcome<f64> {
    per_call(CALLS, |x| expect(pipe.add_one(x)?, x + 1))
}

/// Where the scheduler likes, so the ratio may be that of two placements; the rows on chosen processors tell more. Each
/// in a process of its own, because whom a thread wakes besides is what the scheduler goes by.
fn apply_u64(bench: &Bench) -> Outcome {
    let (mut ours, mut pipe) = (Peer::start(&mut again(FREE_POOL)?)?, Peer::start(&mut again(FREE_PIPE)?)?);
    bench.compare("apply_u64", ROUNDS, || ours.ask("calls"), || pipe.ask("calls"))
}

fn apply_when_asked(workers: usize) -> Outcome {
    let pool = warm_pool(workers)?;
    answer("", |_| applied(&pool, CALLS))
}

fn pipe_when_asked() -> Outcome {
    let mut pipe = Echo::start()?;
    answer("", |_| piped(&mut pipe))
}

/// Against the bare ping-pong; `place` puts each of the other ends where it belongs.
fn against_the_pipe(bench: &Bench, name: &str, place: impl Fn(u32) -> Outcome) -> Outcome {
    let (pool, mut pipe) = (warm_pool(FEW)?, Echo::start()?);
    pool.worker_pids().into_iter().chain([pipe.child.id()]).try_for_each(place)?;
    bench.compare(name, ROUNDS, || applied(&pool, CALLS), || piped(&mut pipe))
}

fn apply_u64_procspawn(bench: &Bench) -> Outcome {
    let pool = Pool::new(2)?;
    let theirs = procspawn::Pool::new(2)?;
    bench.compare(
        "apply_u64_procspawn",
        ROUNDS,
        || applied(&pool, CALLS),
        || per_call(CALLS, |x| expect(theirs.spawn(x, add_one).join()?, x + 1)),
    )
}

fn apply_u64_python(bench: &Bench) -> Outcome {
    let pool = Pool::new(2)?;
    let mut python = match python(2) {
        Ok(python) => python,
        Err(reason) => return no_peer("apply_u64_python", reason),
    };
    bench.compare(
        "apply_u64_python",
        21,
        || applied(&pool, PYTHON_CALLS),
        || Ok(python.ask("apply")? / f64::from(PYTHON_CALLS)),
    )
}

/// Of so many workers, all of which have come to life and gone to sleep.
fn warm_pool(workers: usize) -> Outcome<Pool> {
    let pool = Pool::new(workers)?;
    expect(pool.map(add_one, 0..100_000)?.len(), 100_000)?;
    Ok(pool)
}

fn apply_256(bench: &Bench) -> Outcome {
    let (mut many, mut few) = (Peer::start(&mut again(FREE_MANY)?)?, Peer::start(&mut again(FREE_POOL)?)?);
    bench.compare("apply_256", ROUNDS, || many.ask("calls"), || few.ask("calls"))
}

fn apply_256_one_cpu(bench: &Bench) -> Outcome {
    let (many, few) = (warm_pool(MANY)?, warm_pool(FEW)?);
    bench.compare("apply_256_one_cpu", ROUNDS, || applied(&many, CALLS), || applied(&few, CALLS))
}

fn no_peer(name: &str, reason: impl fmt::Display) -> Outcome {
    skip(name, reason);
    Ok(())
}

// ---- maps ---------------------------------------------------------------------------------------------------------

const PRIMES: std::ops::Range<i64> = 2..1_000_000;
/// procspawn maps nothing by itself: so many numbers to a call.
const BY_HAND: i64 = 10_000;

/// Of seed 0, with its loop.
fn is_prime(n: i64) -> i64 {
    if n != 2 && n % 2 == 0 {
        return -1;
    }
    for i in 3..((n as f64).sqrt() + 1.0) as i64 {
        if n % i == 0 {
            return -1;
        }
    }
    n
}

fn are_prime(numbers: std::ops::Range<i64>) -> Vec<i64> {
    numbers.map(is_prime).collect()
}

fn check_primes(found: &[i64]) -> Outcome {
    expect(found.iter().filter(|n| **n > 0).count(), 78_498)
}

fn primes_on(pool: &Pool) -> Outcome<f64> {
    timed(|| check_primes(&pool.map(is_prime, PRIMES)?))
}

fn rayon_pool() -> Outcome<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(2).build()?)
}

fn primes_map(bench: &Bench) -> Outcome {
    let (pool, threads) = (Pool::new(2)?, rayon_pool()?);
    bench.compare(
        "primes_map",
        15,
        || primes_on(&pool),
        || {
            timed(|| {
                let found: Vec<i64> = threads.install(|| PRIMES.into_par_iter().map(is_prime).collect());
                check_primes(&found)
            })
        },
    )
}

fn primes_map_procspawn(bench: &Bench) -> Outcome {
    let (pool, theirs) = (Pool::new(2)?, procspawn::Pool::new(2)?);
    bench.compare(
        "primes_map_procspawn",
        7,
        || primes_on(&pool),
        || {
            timed(|| {
                let starts = (0..).map(|call| PRIMES.start + call * BY_HAND);
                let calls: Vec<_> = starts
                    .take_while(|start| *start < PRIMES.end)
                    .map(|start| theirs.spawn(start..PRIMES.end.min(start + BY_HAND), are_prime))
                    .collect();
                let mut found = Vec::new();
                for call in calls {
                    found.extend(call.join()?);
                }
                check_primes(&found)
            })
        },
    )
}

fn primes_map_python(bench: &Bench) -> Outcome {
    const NAME: &str = "primes_map_python";
    if bench.quick {
        skip(NAME, "it is slow, and --quick was given");
        return Ok(());
    }
    let pool = Pool::new(2)?;
    let mut python = match python(2) {
        Ok(python) => python,
        Err(reason) => return no_peer(NAME, reason),
    };
    primes_on(&pool)?;
    bench.compare(NAME, 1, || primes_on(&pool), || python.ask("primes"))
}

fn added(pool: &Pool) -> Outcome<f64> {
    timed(|| expect(pool.map(add_one, 0..1_000_000)?.len(), 1_000_000))
}

fn map_add_one(bench: &Bench) -> Outcome {
    let pool = Pool::new(2)?;
    let mut python = match python(2) {
        Ok(python) => python,
        Err(reason) => return no_peer("map_add_one", reason),
    };
    bench.compare("map_add_one", 21, || added(&pool), || python.ask("add"))
}

/// What no process can reach, to know the distance.
fn map_add_one_rayon(bench: &Bench) -> Outcome {
    let (pool, threads) = (Pool::new(2)?, rayon_pool()?);
    bench.compare(
        "map_add_one_rayon",
        21,
        || added(&pool),
        || {
            timed(|| {
                let sums: Vec<u64> =
                    threads.install(|| (0..1_000_000).into_par_iter().map(add_one).collect());
                expect(sums.len(), 1_000_000)
            })
        },
    )
}

// ---- a large argument ---------------------------------------------------------------------------------------------

const LARGE: usize = 64 << 20;
const BYTES_ROUNDS: usize = 15;

fn large() -> Vec<u8> {
    vec![7; LARGE]
}

fn len(bytes: Vec<u8>) -> usize {
    bytes.len()
}

fn wrapped_len(bytes: Bytes) -> usize {
    bytes.len()
}

/// The child of the raw pipe: reads each buffer into a new vector of its size, and answers with a byte.
fn swallow() -> Outcome {
    let (mut input, mut output) = bare_streams()?;
    loop {
        let mut bytes = vec![0; LARGE];
        if input.read_exact(&mut bytes).is_err() {
            return Ok(());
        }
        output.write_all(&[std::hint::black_box(&bytes)[LARGE - 1]])?;
    }
}

/// Measures `ours` against the raw pipe.
fn against_the_raw_pipe(bench: &Bench, name: &str, ours: impl FnMut() -> Outcome<f64>) -> Outcome {
    let mut child = again(SWALLOW)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or("no input")?;
    let mut output = child.stdout.take().ok_or("no output")?;
    bench.compare(name, BYTES_ROUNDS, ours, || {
        let bytes = large();
        timed(|| {
            input.write_all(&bytes)?;
            let mut answer = [0];
            output.read_exact(&mut answer)?;
            expect(answer, [7])
        })
    })?;
    drop(input);
    child.wait()?;
    Ok(())
}

fn bytes_64mib(bench: &Bench) -> Outcome {
    let pool = Pool::new(2)?;
    against_the_raw_pipe(bench, "bytes_64mib", || {
        let bytes = large();
        timed(|| expect(pool.apply(len, (bytes,))?, LARGE))
    })
}

/// Serde takes a `Vec<u8>` for a sequence of numbers; this for bytes.
fn bytes_64mib_wrapped(bench: &Bench) -> Outcome {
    let pool = Pool::new(2)?;
    against_the_raw_pipe(bench, "bytes_64mib_wrapped", || {
        let bytes = Bytes::from(large());
        timed(|| expect(pool.apply(wrapped_len, (bytes,))?, LARGE))
    })
}

fn bytes_64mib_procspawn(bench: &Bench) -> Outcome {
    let (pool, theirs) = (Pool::new(2)?, procspawn::Pool::new(2)?);
    bench.compare(
        "bytes_64mib_procspawn",
        5,
        || {
            let bytes = large();
            timed(|| expect(pool.apply(len, (bytes,))?, LARGE))
        },
        || {
            let bytes = large();
            timed(|| expect(theirs.spawn(bytes, len).join()?, LARGE))
        },
    )
}
