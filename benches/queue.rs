//! What a queue costs: items one way, from and to one process and many, large ones, and one there and back.
//!
//! `cargo bench --bench queue -- stream` runs the rows whose names contain `stream`; `--quick` takes fewer rounds.

mod support;

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/opposite.rs"]
mod opposite;
#[path = "support/peer.rs"]
mod peer;

use cpu::{allowed, confined, move_to};
use opposite::{LARGE, LARGE_ONES, bare_add_one, bare_pair, bare_pour, bare_swallow, opposite};
use peer::part;
use procession::{Bytes, Child, Handle, Process, Queue};
use std::fs::File;
use std::io::{Read, Write};
use support::{Bench, Outcome, Row, expect, per_call, timed};

const ONE_CPU: &str = "one-cpu";
const TWO_CPUS: &str = "two-cpus";
const STREAM: &str = "stream";

const ROWS: [Row; 7] = [
    ("queue_stream", |bench| confined(bench, "queue_stream", STREAM)),
    ("queue_stream_to_child", queue_stream_to_child),
    ("queue_4_to_4", queue_4_to_4),
    ("queue_ping_one_cpu", |bench| confined(bench, "queue_ping_one_cpu", ONE_CPU)),
    ("queue_ping_two_cpus", |bench| confined(bench, "queue_ping_two_cpus", TWO_CPUS)),
    ("queue_1mib", queue_1mib),
    ("queue_bounded", queue_bounded),
];

fn main() -> Outcome {
    let Some(bench) = Bench::from_args() else { return Ok(()) };
    let Some(part) = part() else { return bench.run(&ROWS) };
    let (here, there) = allowed()?;
    move_to(here, std::process::id())?;
    match part.as_str() {
        ONE_CPU => ping(&bench, "queue_ping_one_cpu", here),
        TWO_CPUS => ping(&bench, "queue_ping_two_cpus", there),
        STREAM => stream(&bench, there),
        _ => Err("an unknown part".into()),
    }
}

// ---- one way ----------------------------------------------------------------------------------------------------------

const ITEMS: u64 = 50_000;

/// Puts as many as it is told.
fn pour(orders: Queue<u64>, to: Queue<u64>) {
    while let Ok(count) = orders.get() {
        if !(0..count).all(|n| to.put(n).is_ok()) {
            return;
        }
    }
}

fn bare_stream(bare: &mut File) -> Outcome<f64> {
    let all = timed(|| {
        bare.write_all(&ITEMS.to_ne_bytes())?;
        (0..ITEMS).try_for_each(|n| {
            let mut item = [0; 8];
            bare.read_exact(&mut item)?;
            expect(u64::from_ne_bytes(item), n)
        })
    });
    all.map(|all| all / ITEMS as f64)
}

/// One producer in another process, one consumer here.
fn stream(bench: &Bench, cpu: u32) -> Outcome {
    let (orders, items) = (Queue::new(), Queue::new());
    let _ours = opposite(Process::new(pour, (orders.clone(), items.clone())), cpu)?;
    let (mut bare, there) = bare_pair()?;
    let _bare = opposite(Process::new(bare_pour, (there,)), cpu)?;
    bench.compare(
        "queue_stream",
        41,
        || {
            let all = timed(|| {
                orders.put(ITEMS)?;
                (0..ITEMS).try_for_each(|n| expect(items.get()?, n))
            });
            all.map(|all| all / ITEMS as f64)
        },
        || bare_stream(&mut bare),
    )
}

/// Takes as many as it is told, and says so.
fn swallow(items: Queue<u64>, done: Queue<u64>, count: u64) {
    loop {
        for n in 0..count {
            if items.get().ok() != Some(n) {
                return;
            }
        }
        if done.put(count).is_err() {
            return;
        }
    }
}

/// One producer here, one consumer in another process; against a child's bare stream to us.
fn queue_stream_to_child(bench: &Bench) -> Outcome {
    let (items, done) = (Queue::new(), Queue::new());
    let _ours = Process::new(swallow, (items.clone(), done.clone(), ITEMS)).start()?;
    let (mut bare, there) = bare_pair()?;
    let _bare = Process::new(bare_pour, (there,)).start()?;
    bench.compare(
        "queue_stream_to_child",
        41,
        || {
            let all = timed(|| {
                (0..ITEMS).try_for_each(|n| items.put(n))?;
                expect(done.get()?, ITEMS)
            });
            all.map(|all| all / ITEMS as f64)
        },
        || bare_stream(&mut bare),
    )
}

/// Takes until it is told to stop, and says how many.
fn drain(items: Queue<u64>, sums: Queue<u64>) {
    let mut count = 0;
    for item in items.iter().flatten() {
        count += 1;
        if item == u64::MAX {
            if sums.put(count - 1).is_err() {
                return;
            }
            count = 0;
        }
    }
}

type Crowd = (Queue<u64>, Queue<u64>, Queue<u64>, Vec<Child<()>>, usize);

/// Four producers and four consumers, each a process, against one and one.
fn queue_4_to_4(bench: &Bench) -> Outcome {
    let crowd = |size: usize| -> Outcome<Crowd> {
        let (orders, items, sums) = (Queue::new(), Queue::new(), Queue::new());
        let mut children = Vec::new();
        for _ in 0..size {
            children.push(Process::new(pour, (orders.clone(), items.clone())).start()?);
            children.push(Process::new(drain, (items.clone(), sums.clone())).start()?);
        }
        Ok((orders, items, sums, children, size))
    };
    let run = |(orders, items, sums, _, size): &Crowd| {
        let all = timed(|| {
            let each = ITEMS / *size as u64;
            (0..*size).try_for_each(|_| orders.put(each))?;
            let mut seen = 0;
            while seen < each * *size as u64 {
                // Each consumer that finds the mark reports; marks go in when the items are likely through.
                items.put(u64::MAX)?;
                seen += sums.get()?;
            }
            Ok(())
        });
        all.map(|all| all / ITEMS as f64)
    };
    let (many, one) = (crowd(4)?, crowd(1)?);
    bench.compare("queue_4_to_4", 11, || run(&many), || run(&one))
}

// ---- there and back ---------------------------------------------------------------------------------------------------

const CALLS: u32 = 500;

fn add_one(there: Queue<u64>, back: Queue<u64>) {
    for number in there.iter().flatten() {
        if back.put(number + 1).is_err() {
            return;
        }
    }
}

fn ping(bench: &Bench, name: &str, cpu: u32) -> Outcome {
    let (there, back) = (Queue::new(), Queue::new());
    let _ours = opposite(Process::new(add_one, (there.clone(), back.clone())), cpu)?;
    let (mut bare, end) = bare_pair()?;
    let _bare = opposite(Process::new(bare_add_one, (end,)), cpu)?;
    bench.compare(
        name,
        101,
        || {
            per_call(CALLS, |x| {
                there.put(x)?;
                expect(back.get()?, x + 1)
            })
        },
        || {
            per_call(CALLS, |x| {
                bare.write_all(&x.to_ne_bytes())?;
                let mut answer = [0; 8];
                bare.read_exact(&mut answer)?;
                expect(u64::from_ne_bytes(answer), x + 1)
            })
        },
    )
}

/// A queue of at most ten, against one without a limit.
fn queue_bounded(bench: &Bench) -> Outcome {
    let flow = |items: Queue<u64>| -> Outcome<_> {
        let done = Queue::new();
        let child = Process::new(swallow, (items.clone(), done.clone(), ITEMS / 10)).start()?;
        Ok((items, done, child))
    };
    let run = |(items, done, _): &(Queue<u64>, Queue<u64>, Child<()>)| {
        let all = timed(|| {
            (0..ITEMS / 10).try_for_each(|n| items.put(n))?;
            expect(done.get()?, ITEMS / 10)
        });
        all.map(|all| all / (ITEMS / 10) as f64)
    };
    let (bounded, free) = (flow(Queue::bounded(10))?, flow(Queue::new())?);
    bench.compare("queue_bounded", 21, || run(&bounded), || run(&free))
}

// ---- large ------------------------------------------------------------------------------------------------------------

fn swallow_large(items: Queue<Bytes>, done: Queue<u64>) {
    loop {
        for _ in 0..LARGE_ONES {
            if items.get().map(|bytes| bytes.len()).ok() != Some(LARGE) {
                return;
            }
        }
        if done.put(1).is_err() {
            return;
        }
    }
}

/// The time of 1 MiB, made and put, got and dropped, against the bare pipe.
fn queue_1mib(bench: &Bench) -> Outcome {
    let (items, done) = (Queue::builder().max_bytes(8 << 20).build(), Queue::new());
    let _ours = Process::new(swallow_large, (items.clone(), done.clone())).start()?;
    let (input, mut to) = std::io::pipe()?;
    let (mut from, output) = std::io::pipe()?;
    let _bare = Process::new(bare_swallow, (Handle(input), Handle(output))).start()?;
    let bytes = vec![7; LARGE];
    let each = |all: f64| all / f64::from(LARGE_ONES);
    bench.compare(
        "queue_1mib",
        21,
        || {
            let all = timed(|| {
                (0..LARGE_ONES).try_for_each(|_| items.put(Bytes::from(vec![7; LARGE])))?;
                expect(done.get()?, 1)
            });
            all.map(each)
        },
        || {
            let all = timed(|| {
                (0..LARGE_ONES).try_for_each(|_| to.write_all(&bytes))?;
                Ok(from.read_exact(&mut [0])?)
            });
            all.map(each)
        },
    )
}
