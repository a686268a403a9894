//! What locks and their kin cost, against the bare semaphores of the C library.
//!
//! `cargo bench --bench sync -- lock` runs the rows whose names contain `lock`; `--quick` takes fewer rounds.

mod support;

#[path = "support/bare.rs"]
mod bare;
#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/peer.rs"]
mod peer;

use bare::Bare;
use cpu::{allowed, confined, move_to};
use peer::part;
use procession::{Abandoned, AcquireError, Child, Event, Lock, Process, Semaphore};
use std::process::Stdio;
use std::time::Instant;
use support::{Bench, Outcome, Row, per_call, timed};

/// The parts of the other process: to fight, and to answer.
const FIGHT: &str = "fight";
const ANSWER: &str = "answer";
/// One that is there to be killed.
const NOTHING: &str = "nothing";
/// The rows on chosen processors.
const ONE_CPU: &str = "one-cpu";
const TWO_CPUS: &str = "two-cpus";

const CALLS: u32 = 200_000;
const BLOWS: u32 = 200_000;
const TURNS: u32 = 5_000;

const ROWS: [Row; 7] = [
    ("lock_free", lock_free),
    ("lock_fight", lock_fight),
    ("semaphore_free", semaphore_free),
    ("event_wakes_one_cpu", |bench| confined(bench, "event_wakes_one_cpu", ONE_CPU)),
    ("event_wakes_two_cpus", |bench| confined(bench, "event_wakes_two_cpus", TWO_CPUS)),
    ("lock_holder_killed", lock_holder_killed),
    ("semaphore_holder_killed", semaphore_holder_killed),
];

fn main() -> Outcome {
    match part().as_deref() {
        Some(FIGHT) => return fight_bare(),
        Some(ANSWER) => return answer_bare(),
        Some(NOTHING) => loop {
            std::thread::park();
        },
        Some(other) => return measured(other),
        None => {}
    }
    Bench::from_args().map_or(Ok(()), |bench| bench.run(&ROWS))
}

fn measured(part: &str) -> Outcome {
    let bench = Bench::from_args().ok_or("it is a part of a benchmark")?;
    let (here, there) = allowed()?;
    move_to(here, std::process::id())?;
    match part {
        ONE_CPU => event_wakes(&bench, "event_wakes_one_cpu", here),
        TWO_CPUS => event_wakes(&bench, "event_wakes_two_cpus", there),
        _ => Err("an unknown part".into()),
    }
}

fn bare_call(bare: &Bare) -> Outcome<f64> {
    per_call(CALLS, |_| {
        bare.wait(0);
        bare.post(0);
        Ok(())
    })
}

fn lock_free(bench: &Bench) -> Outcome {
    let (lock, bare) = (Lock::new()?, Bare::new(&[1])?);
    let ours = || {
        per_call(CALLS, |_| {
            drop(lock.acquire().unwrap_or_else(Abandoned::into_inner));
            Ok(())
        })
    };
    bench.compare("lock_free", 41, ours, || bare_call(&bare))
}

fn semaphore_free(bench: &Bench) -> Outcome {
    let (semaphore, bare) = (Semaphore::new(1)?, Bare::new(&[1])?);
    let ours = || {
        per_call(CALLS, |_| {
            drop(semaphore.acquire().or_else(AcquireError::into_inner)?);
            Ok(())
        })
    };
    bench.compare("semaphore_free", 41, ours, || bare_call(&bare))
}

fn blows(lock: &Lock) {
    for _ in 0..BLOWS {
        drop(lock.acquire().unwrap_or_else(Abandoned::into_inner));
    }
}

/// The other fighter: a round whenever it is told to begin.
fn fight(lock: Lock, begin: Semaphore, done: Semaphore) {
    loop {
        begin.acquire().and_then(|permit| Ok(permit.forget()?)).expect("it is the bench's own");
        blows(&lock);
        done.release().expect("it is the bench's own");
    }
}

fn fight_bare() -> Outcome {
    let bare = Bare::inherited()?;
    loop {
        bare.wait(1);
        blows_bare(&bare);
        bare.post(2);
    }
}

fn blows_bare(bare: &Bare) {
    for _ in 0..BLOWS {
        bare.wait(0);
        bare.post(0);
    }
}

/// Two processes, each so many times; the time of one.
fn lock_fight(bench: &Bench) -> Outcome {
    let (lock, begin, done) = (Lock::new()?, Semaphore::new(0)?, Semaphore::new(0)?);
    let _other = Process::new(fight, (lock.clone(), begin.clone(), done.clone())).start()?;
    let bare = Bare::new(&[1, 0, 0])?;
    let mut bare_other = bare.shared_with(FIGHT)?;
    let ours = || {
        let time = timed(|| {
            begin.release()?;
            blows(&lock);
            Ok(done.acquire().or_else(AcquireError::into_inner)?.forget()?)
        })?;
        Ok(time / f64::from(BLOWS))
    };
    let baseline = || {
        let time = timed(|| {
            bare.post(1);
            blows_bare(&bare);
            bare.wait(2);
            Ok(())
        })?;
        Ok(time / f64::from(BLOWS))
    };
    let result = bench.compare("lock_fight", 41, ours, baseline);
    bare_other.kill()?;
    bare_other.wait()?;
    result
}

fn answer(there: Event, back: Event) {
    loop {
        there.wait();
        there.clear();
        back.set();
    }
}

fn answer_bare() -> Outcome {
    let bare = Bare::inherited()?;
    loop {
        bare.wait(0);
        bare.post(1);
    }
}

/// From one process's `set` to the other's next instruction: half of a turn there and back.
fn event_wakes(bench: &Bench, name: &str, cpu: u32) -> Outcome {
    let (there, back) = (Event::new()?, Event::new()?);
    let other = Process::new(answer, (there.clone(), back.clone())).start()?;
    move_to(cpu, other.pid())?;
    let bare = Bare::new(&[0, 0])?;
    let mut bare_other = bare.shared_with(ANSWER)?;
    move_to(cpu, bare_other.id())?;
    let ours = || {
        let turn = per_call(TURNS, |_| {
            there.set();
            back.wait();
            back.clear();
            Ok(())
        })?;
        Ok(turn / 2.0)
    };
    let baseline = || {
        let turn = per_call(TURNS, |_| {
            bare.post(0);
            bare.wait(1);
            Ok(())
        })?;
        Ok(turn / 2.0)
    };
    let result = bench.compare(name, 41, ours, baseline);
    bare_other.kill()?;
    bare_other.wait()?;
    result
}

/// From SIGKILL to the end of a bare process, as its parent sees it.
fn bare_death() -> Outcome<f64> {
    let mut child = peer::again(NOTHING)?.stdout(Stdio::null()).spawn()?;
    std::thread::sleep(std::time::Duration::from_millis(5));
    timed(|| {
        child.kill()?;
        child.wait()?;
        Ok(())
    })
}

fn hold_lock(lock: Lock, held: Event) {
    let _guard = lock.acquire().unwrap_or_else(Abandoned::into_inner);
    held.set();
    procession::drill::hang();
}

fn hold_permit(semaphore: Semaphore, held: Event) {
    let _permit = semaphore.acquire().or_else(AcquireError::into_inner).expect("it is the bench's own");
    held.set();
    procession::drill::hang();
}

/// From SIGKILL of the holder to the return of who waits for what it held.
fn until_next(holder: &Child<()>, wait: impl FnOnce() -> Outcome<bool>) -> Outcome<f64> {
    let begin = Instant::now();
    holder.kill()?;
    if wait()? { Ok(begin.elapsed().as_secs_f64()) } else { Err("nobody was told".into()) }
}

fn lock_holder_killed(bench: &Bench) -> Outcome {
    let (lock, held) = (Lock::new()?, Event::new()?);
    let ours = || {
        held.clear();
        let holder = Process::new(hold_lock, (lock.clone(), held.clone())).start()?;
        held.wait();
        until_next(&holder, || Ok(lock.acquire().is_err()))
    };
    bench.compare("lock_holder_killed", 41, ours, bare_death)
}

fn semaphore_holder_killed(bench: &Bench) -> Outcome {
    let (semaphore, held) = (Semaphore::new(1)?, Event::new()?);
    let ours = || {
        held.clear();
        let holder = Process::new(hold_permit, (semaphore.clone(), held.clone())).start()?;
        held.wait();
        until_next(&holder, || Ok(matches!(semaphore.acquire(), Err(AcquireError::Abandoned(_)))))
    };
    bench.compare("semaphore_holder_killed", 41, ours, bare_death)
}
