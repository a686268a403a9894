//! Memory that somebody has spoiled: errors, late answers or wrong ones, but no panic and nothing that never ends. The words
//! of a mutex that is held at that moment are the exception: see src/sync/README.md.

use crate::parts::{MINUTE, random};
use crate::support::robust;
use procession::{Barrier, Condition, Event, Lock, RLock, Semaphore};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(20);
/// Where a monitor's gate lies.
const GATE: std::ops::Range<usize> = 64..128;

/// The memory files of objects in this process, to be written by hand.
fn memories() -> Vec<File> {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let ours = open.filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().contains("memfd:procession-sync"))
    });
    ours.map(|entry| OpenOptions::new().write(true).open(entry.path()).unwrap()).collect()
}

fn garbage(len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random(u64::MAX).to_ne_bytes()).flatten().take(len).collect()
}

/// Overwrites the first pages, all but the magic and the kind; the gate only if asked to.
fn spoil(with_gate: bool) {
    for memory in memories() {
        let len = usize::try_from(memory.metadata().unwrap().len()).unwrap();
        for part in [16..GATE.start, GATE, GATE.end..len] {
            if part != GATE || with_gate {
                memory.write_all_at(&garbage(part.len()), part.start as u64).unwrap();
            }
        }
    }
}

#[test]
fn spoiled_locks_end_in_answers() {
    robust(MINUTE, || {
        for _ in 0..50 {
            let (lock, again) = (Lock::new().unwrap(), RLock::new().unwrap());
            spoil(true);
            let _ = lock.locked();
            drop(lock.acquire_timeout(MOMENT));
            drop(again.acquire_timeout(MOMENT));
            drop(lock.try_acquire());
        }
    });
}

#[test]
fn spoiled_monitors_end_in_answers() {
    robust(MINUTE, || {
        for _ in 0..10 {
            let event = Event::new().unwrap();
            let semaphore = Semaphore::new(1).unwrap();
            let (condition, barrier) = (Condition::new().unwrap(), Barrier::new(2).unwrap());
            thread::scope(|scope| {
                let _held = semaphore.acquire();
                scope.spawn(|| drop(semaphore.acquire_timeout(MOMENT)));
                scope.spawn(|| barrier.wait_timeout(MOMENT));
                scope.spawn(|| event.wait_timeout(MOMENT));
                thread::sleep(MOMENT / 4);
                spoil(false);
            });
            let _ = (event.wait_timeout(MOMENT), event.is_set());
            event.set();
            event.clear();
            drop(semaphore.try_acquire());
            drop(semaphore.acquire_timeout(MOMENT));
            let _ = (semaphore.release(), semaphore.value());
            let _ = (condition.notify(1), condition.notify_all());
            if let Ok(Some(mut guard)) = condition.acquire_timeout(MOMENT) {
                let _ = condition.wait_timeout(&mut guard, MOMENT);
            }
            let _ = (barrier.wait_timeout(MOMENT), barrier.n_waiting(), barrier.broken());
            let _ = (barrier.reset(), barrier.wait_timeout(MOMENT), barrier.abort());
        }
    });
}
