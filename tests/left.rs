//! Ten thousand of each come and go, and leave the process, `/dev/shm` and `/tmp` as they were.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use procession::{Actor, Event, Lock, Process, Queue, SharedMemory, active_children, duplex};
use std::path::Path;
use std::time::Duration;
use support::{poll, poll_or, robust};

const LIMIT: Duration = Duration::from_secs(120);
const MANY: u64 = 10_000;

fn count(dir: impl AsRef<Path>) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

/// What is named after us, or this process; others use these directories, too.
fn ours(dir: &str, name: &str) -> usize {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().contains(name)).count()
}

fn queue(n: u64) {
    let queue = Queue::new();
    queue.put(vec![1_u8; if n.is_multiple_of(10) { 20_000 } else { 10 }]).unwrap();
    if n.is_multiple_of(2) {
        queue.get().unwrap();
    }
}

/// It travels, so that there are tickets and doors.
fn travelling_queue(n: u64) {
    let (outer, inner) = (Queue::new(), Queue::new());
    inner.put(n).unwrap();
    outer.put(inner).unwrap();
    if n.is_multiple_of(2) {
        let inner: Queue<u64> = outer.get().unwrap();
        assert_eq!(inner.get().unwrap(), n);
    }
}

fn lock(_: u64) {
    drop(Lock::new().unwrap().acquire().unwrap());
}

fn event(_: u64) {
    Event::new().unwrap().set();
}

fn connection(n: u64) {
    let (one, other) = duplex::<u64, u64>().unwrap();
    one.send(n).unwrap();
    if n.is_multiple_of(2) {
        assert_eq!(other.recv().unwrap(), Some(n));
    }
}

fn memory(n: u64) {
    let memory = SharedMemory::new(5000).unwrap();
    memory.write_at(0, &n.to_le_bytes()).unwrap();
}

fn actor(n: u64) {
    let actor = Actor::builder().start(|n: u64| n, (n,)).unwrap();
    assert_eq!(actor.call(|state: &mut u64| *state, ()).unwrap(), n);
}

fn take_and_drop(hub: Queue<Queue<u64>>) -> u64 {
    hub.iter().map(|queue| queue.unwrap().get().unwrap()).sum()
}

/// Entered by another process, which drops each.
fn entered_queues(_: u64) {
    let hub = Queue::bounded(20);
    let child = Process::new(take_and_drop, (hub.clone(),)).start().unwrap();
    for n in 0..500 {
        let queue = Queue::new();
        queue.put(n).unwrap();
        hub.put(queue).unwrap();
    }
    hub.close();
    assert_eq!(child.join().unwrap(), 500 * 499 / 2);
}

/// What it is, how often, and once of it.
type Cell = (&'static str, u64, fn(u64));

#[test]
fn what_comes_and_goes_by_the_thousand_leaves_nothing() {
    let all: [Cell; 8] = [
        ("queue", MANY, queue),
        ("travelling queue", MANY, travelling_queue),
        ("queues that others enter", 20, entered_queues),
        ("lock", MANY, lock),
        ("event", MANY, event),
        ("connection", MANY, connection),
        ("memory", MANY, memory),
        ("actor", 30, actor),
    ];
    for (what, times, cycle) in all {
        robust(LIMIT, || {
            // What is made on first use.
            cycle(0);
            poll("an actor is left", Duration::from_secs(10), || active_children().is_empty());
            let me = format!("procession-{}", std::process::id());
            let look = || {
                let dirs = [count("/proc/self/fd"), count("/proc/self/task")];
                [dirs[0], dirs[1], ours("/dev/shm", "procession"), ours("/tmp", &me)]
            };
            let (before, maps) = (look(), count("/proc/self/map_files"));
            (0..times).for_each(cycle);
            poll_or(what, Duration::from_secs(10), || {
                let now = look();
                // What came before may have been on its way out.
                let is_clean = now.iter().zip(&before).all(|(now, before)| now <= before);
                if is_clean { Ok(()) } else { Err(format!("{now:?}, {before:?} before")) }
            });
            let after = count("/proc/self/map_files");
            assert!(after <= maps + 16, "{what}: {after} mappings, {maps} before");
        });
    }
}
