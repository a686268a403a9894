//! Nothing is left behind.

use crate::parts::{MINUTE, start};
use crate::support::robust;
use procession::{Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore};
use std::fs;

fn entries(dir: &str) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn ten_thousand_that_come_and_go_leave_nothing() {
    robust(MINUTE, || {
        let before = (entries("/dev/shm"), entries("/proc/self/fd"), entries("/proc/self/map_files"));
        for _ in 0..10_000 {
            drop(Lock::new().unwrap().acquire().unwrap());
            drop(RLock::new().unwrap().acquire().unwrap());
            Event::new().unwrap().set();
            drop(Semaphore::new(1).unwrap().acquire().unwrap());
            drop(BoundedSemaphore::new(1).unwrap().acquire().unwrap());
            Condition::new().unwrap().notify_all().unwrap();
            Barrier::new(1).unwrap().wait().unwrap();
        }
        let after = (entries("/dev/shm"), entries("/proc/self/fd"), entries("/proc/self/map_files"));
        assert_eq!(before.0, after.0);
        assert_eq!(before.1, after.1);
        assert!(after.2 <= before.2 + 8, "{} mappings, {} before", after.2, before.2);
    });
}

#[test]
fn whoever_has_come_and_gone_is_no_longer_watched() {
    robust(MINUTE, || {
        let semaphore = Semaphore::new(1).unwrap();
        let wait = |semaphore: Semaphore| drop(semaphore.acquire().unwrap());
        let permit = semaphore.acquire().unwrap();
        let children: Vec<_> = (0..8).map(|_| start(wait, (semaphore.clone(),))).collect();
        drop(permit);
        children.into_iter().for_each(|child| child.join().unwrap());
        drop(semaphore.acquire().unwrap());
        // The proof of `robust`: with the last handle here, all descriptors are gone.
    });
}
