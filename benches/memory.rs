//! What shared memory and an actor cost: a large array in a pool, bulk copies, one value, one call.
//!
//! `cargo bench --bench memory -- value` runs the rows whose names contain `value`; `--quick` takes fewer rounds.

mod support;

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/echo.rs"]
mod echo;
#[path = "support/peer.rs"]
mod peer;

use cpu::{allowed, confined, move_to};
use echo::{ECHO, Echo, echo};
use peer::part;
use procession::{Actor, Array, FrozenArray, Pool, Process, SharedMemory, Value};
use rayon::prelude::*;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use support::{Bench, Outcome, Row, expect, per_call, timed};

/// The parts that measure on one processor, or with the other end on another one.
const ONE_CPU: &str = "one-cpu";
const TWO_CPUS: &str = "two-cpus";

const ROWS: [Row; 11] = [
    ("map_frozen_256mib", map_frozen),
    ("map_array_256mib", map_array),
    ("array_to_vec_64mib", to_vec),
    ("array_copy_from_slice_64mib", copy_from_slice),
    ("value_fetch_add", fetch_add),
    ("value_update", update),
    ("value_fetch_add_contended", contended),
    ("value_large_get", large_get),
    ("value_large_update", large_update),
    ("actor_call_one_cpu", |bench| confined(bench, "actor_call_one_cpu", ONE_CPU)),
    ("actor_call_two_cpus", |bench| confined(bench, "actor_call_two_cpus", TWO_CPUS)),
];

fn main() -> Outcome {
    match part().as_deref() {
        Some(ECHO) => return echo(),
        Some(other) => return measured(other),
        None => {}
    }
    Bench::from_args().map_or(Ok(()), |bench| bench.run(&ROWS))
}

/// The rows on chosen processors.
fn measured(part: &str) -> Outcome {
    let bench = Bench::from_args().ok_or("it is a part of a benchmark")?;
    let (here, there) = allowed()?;
    move_to(here, std::process::id())?;
    match part {
        ONE_CPU => actor_call(&bench, "actor_call_one_cpu", |_| Ok(())),
        TWO_CPUS => actor_call(&bench, "actor_call_two_cpus", |pid| move_to(there, pid)),
        _ => Err("an unknown part".into()),
    }
}

// ---- a large array ------------------------------------------------------------------------------------------------

const LARGE: usize = 256 << 20;
const WORDS: usize = LARGE / 8;
/// So many items make a map.
const ITEMS: usize = 64;
const ITEM: usize = WORDS / ITEMS;
const ROUNDS: usize = 15;

fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().copied().fold(0, u64::wrapping_add)
}

fn sum_frozen(numbers: FrozenArray<u64>, item: usize) -> u64 {
    sum(&numbers[item * ITEM..(item + 1) * ITEM])
}

/// In a writable array each item maps its memory anew, and works on a copy.
fn sum_array(numbers: Array<u64>, item: usize) -> u64 {
    numbers.range(item * ITEM..(item + 1) * ITEM).map_or(0, |numbers| sum(&numbers))
}

fn rayon_pool() -> Outcome<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(2).build()?)
}

fn on_threads(threads: &rayon::ThreadPool, numbers: &[u64], all: u64) -> Outcome<f64> {
    timed(|| {
        let sums: Vec<u64> = threads.install(|| numbers.par_chunks(ITEM).map(sum).collect());
        expect(sum(&sums), all)
    })
}

fn map_frozen(bench: &Bench) -> Outcome {
    let numbers: Vec<u64> = (0..WORDS as u64).collect();
    let (all, frozen) = (sum(&numbers), FrozenArray::new(&numbers)?);
    let (pool, threads) = (Pool::new(2)?, rayon_pool()?);
    bench.compare(
        "map_frozen_256mib",
        ROUNDS,
        || {
            timed(|| {
                let sums = pool.starmap(sum_frozen, (0..ITEMS).map(|item| (frozen.clone(), item)))?;
                expect(sum(&sums), all)
            })
        },
        || on_threads(&threads, &numbers, all),
    )
}

fn map_array(bench: &Bench) -> Outcome {
    let numbers: Vec<u64> = (0..WORDS as u64).collect();
    let (all, array) = (sum(&numbers), Array::new(&numbers)?);
    let (pool, threads) = (Pool::new(2)?, rayon_pool()?);
    bench.compare(
        "map_array_256mib",
        ROUNDS,
        || {
            timed(|| {
                let sums = pool.starmap(sum_array, (0..ITEMS).map(|item| (array.clone(), item)))?;
                expect(sum(&sums), all)
            })
        },
        || on_threads(&threads, &numbers, all),
    )
}

const COPIED: usize = 64 << 20;

fn to_vec(bench: &Bench) -> Outcome {
    let numbers = vec![7_u64; COPIED / 8];
    let array = Array::new(&numbers)?;
    bench.compare(
        "array_to_vec_64mib",
        ROUNDS,
        || timed(|| expect(black_box(array.to_vec()).len(), COPIED / 8)),
        || timed(|| expect(black_box(numbers.clone()).len(), COPIED / 8)),
    )
}

fn copy_from_slice(bench: &Bench) -> Outcome {
    let numbers = vec![7_u8; COPIED];
    let array = Array::<u8>::zeroed(COPIED)?;
    let mut other = vec![1_u8; COPIED];
    bench.compare(
        "array_copy_from_slice_64mib",
        ROUNDS,
        || timed(|| Ok(array.copy_from_slice(0, &numbers)?)),
        || {
            timed(|| {
                other.copy_from_slice(&numbers);
                expect(black_box(&other)[COPIED - 1], 7)
            })
        },
    )
}

// ---- one value ----------------------------------------------------------------------------------------------------

const STEPS: u32 = 1_000_000;

/// It is not to be optimised away.
fn used<T>(value: T) -> Outcome {
    black_box(value);
    Ok(())
}

/// An atomic word in memory that processes share, and nothing else.
fn with_word(memory: &SharedMemory) -> Outcome<&AtomicU64> {
    memory.word(0).ok_or_else(|| "no word".into())
}

fn against_the_word(bench: &Bench, name: &str, mut step: impl FnMut(&Value<u64>) -> u64) -> Outcome {
    let (value, memory) = (Value::new(0_u64)?, SharedMemory::new(4096)?);
    let word = with_word(&memory)?;
    bench.compare(
        name,
        ROUNDS,
        || per_call(STEPS, |_| used(step(&value))),
        || per_call(STEPS, |_| used(word.fetch_add(1, Ordering::SeqCst))),
    )
}

fn fetch_add(bench: &Bench) -> Outcome {
    against_the_word(bench, "value_fetch_add", |value| value.fetch_add(1))
}

fn update(bench: &Bench) -> Outcome {
    against_the_word(bench, "value_update", |value| value.update(|n| n + 1))
}

fn hammer_value(value: Value<u64>) {
    loop {
        value.fetch_add(1);
    }
}

fn hammer_word(memory: SharedMemory) {
    if let Some(word) = memory.word(0) {
        loop {
            word.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Another process does the same all the time.
fn contended(bench: &Bench) -> Outcome {
    let (value, memory) = (Value::new(0_u64)?, SharedMemory::new(4096)?);
    let word = with_word(&memory)?;
    bench.compare(
        "value_fetch_add_contended",
        ROUNDS,
        || {
            let _other = Process::new(hammer_value, (value.clone(),)).start()?;
            let before = value.get();
            while value.get() == before {
                std::hint::spin_loop();
            }
            per_call(STEPS, |_| used(value.fetch_add(1)))
        },
        || {
            let _other = Process::new(hammer_word, (memory.clone(),)).start()?;
            let before = word.load(Ordering::Relaxed);
            while word.load(Ordering::Relaxed) == before {
                std::hint::spin_loop();
            }
            per_call(STEPS, |_| used(word.fetch_add(1, Ordering::SeqCst)))
        },
    )
}

type Large = [u64; 8];

fn large_get(bench: &Bench) -> Outcome {
    let (value, mutex) = (Value::new([1_u64; 8])?, std::sync::Mutex::new([1_u64; 8]));
    bench.compare(
        "value_large_get",
        ROUNDS,
        || per_call(STEPS, |_| used(value.get())),
        || per_call(STEPS, |_| used(*mutex.lock().map_err(|_| "poisoned")?)),
    )
}

fn large_update(bench: &Bench) -> Outcome {
    let (value, mutex) = (Value::new([1_u64; 8])?, std::sync::Mutex::new([1_u64; 8]));
    let step = |all: Large| all.map(|n| n.wrapping_add(1));
    bench.compare(
        "value_large_update",
        ROUNDS,
        || per_call(STEPS / 10, |_| used(value.update(step))),
        || {
            per_call(STEPS / 10, |_| {
                let mut all = mutex.lock().map_err(|_| "poisoned")?;
                *all = step(*all);
                Ok(())
            })
        },
    )
}

// ---- one call -----------------------------------------------------------------------------------------------------

const CALLS: u32 = 500;

fn add_one(_: &mut u64, x: u64) -> u64 {
    x + 1
}

/// Against the bare ping-pong; `place` puts each of the other ends where it belongs.
fn actor_call(bench: &Bench, name: &str, place: impl Fn(u32) -> Outcome) -> Outcome {
    let (actor, mut pipe) = (Actor::start(|| 0_u64)?, Echo::start()?);
    [actor.pid(), pipe.child.id()].into_iter().try_for_each(place)?;
    bench.compare(
        name,
        101,
        || per_call(CALLS, |x| expect(actor.call(add_one, (x,))?, x + 1)),
        || per_call(CALLS, |x| expect(pipe.add_one(x)?, x + 1)),
    )
}
