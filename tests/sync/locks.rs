//! Lock and RLock.

use crate::parts::{MINUTE, SOON, hold, slay, start};
use crate::support::robust;
use procession::{Event, Guard, Lock, Pool, RLock, Semaphore, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::error::Error;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn calm(lock: &Lock) -> Guard<'_> {
    lock.acquire_timeout(SOON).expect("nobody died").expect("it is free")
}

/// Adds 1 to the number in a file, in a way that loses some unless alone.
fn add(lock: Lock, path: String, times: u32) {
    for _ in 0..times {
        let _guard = lock.acquire().unwrap();
        let before: u32 = fs::read_to_string(&path).unwrap().parse().unwrap();
        fs::write(&path, (before + 1).to_string()).unwrap();
    }
}

#[test]
fn one_at_a_time_in_processes_and_threads() {
    robust(MINUTE, || {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "0").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let lock = Lock::new().unwrap();
        let children: Vec<_> = (0..3).map(|_| start(add, (lock.clone(), path.clone(), 200))).collect();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| add(lock.clone(), path.clone(), 200));
            }
        });
        children.into_iter().for_each(|child| child.join().unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "1200");
        assert!(!lock.locked());
    });
}

/// As a function of a program's own has it, that knows no better.
fn guarded(lock: &Lock, rooms: &Semaphore) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let _guard = lock.acquire()?;
    let _permit = rooms.acquire()?;
    Ok(rooms.value())
}

fn guarded_by_hand(lock: &Lock) -> Result<(), Box<dyn Error>> {
    drop(lock.try_acquire()?);
    Ok(())
}

#[test]
fn a_question_mark_lets_go_of_the_guard_and_passes_on_the_news() {
    robust(MINUTE, || {
        let (lock, rooms, held) = (Lock::new().unwrap(), Semaphore::new(1).unwrap(), Event::new().unwrap());
        assert_eq!(guarded(&lock, &rooms).unwrap(), 0);
        let kill_a_holder = || {
            held.clear();
            let child = start(hold, (lock.clone(), held.clone()));
            held.wait();
            slay(&child);
        };
        kill_a_holder();
        let error = guarded(&lock, &rooms).unwrap_err();
        assert!(error.to_string().contains("acquire_anyway"), "{error}");
        assert_eq!(guarded(&lock, &rooms).unwrap(), 0);
        kill_a_holder();
        assert!(guarded_by_hand(&lock).is_err());
        kill_a_holder();
        drop(lock.acquire_anyway());
        drop(rooms.acquire_anyway().unwrap());
        assert!(!lock.locked() && rooms.value() == 1);
    });
}

#[test]
fn a_pool_hands_a_lock_to_its_workers() {
    robust(MINUTE, || {
        let (pool, lock) = (Pool::new(2).unwrap(), Lock::new().unwrap());
        let seen = pool.starmap(
            |lock: Lock, n: u64| lock.acquire().map(|_guard| n).unwrap(),
            (0..100).map(|n| (lock.clone(), n)),
        );
        assert_eq!(seen.unwrap(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn try_and_deadlines_say_not_yet() {
    robust(MINUTE, || {
        let (lock, held) = (Lock::new().unwrap(), Event::new().unwrap());
        drop(lock.try_acquire().unwrap().expect("it is free"));
        drop(calm(&lock));
        let child = start(hold, (lock.clone(), held.clone()));
        held.wait();
        assert!(lock.locked());
        assert!(lock.try_acquire().unwrap().is_none());
        let begin = Instant::now();
        assert!(lock.acquire_timeout(Duration::from_millis(50)).unwrap().is_none());
        assert!(begin.elapsed() >= Duration::from_millis(50) && begin.elapsed() < SOON);
        assert!(lock.acquire_timeout(Duration::ZERO).unwrap().is_none());
        slay(&child);
        assert!(!lock.locked());
    });
}

#[test]
fn a_killed_holder_is_told_of_once_whether_one_waits_or_comes_later() {
    robust(MINUTE, || {
        let (lock, held) = (Lock::new().unwrap(), Event::new().unwrap());
        for waits in [true, false] {
            held.clear();
            let child = start(hold, (lock.clone(), held.clone()));
            held.wait();
            thread::scope(|scope| {
                let waiter =
                    waits.then(|| scope.spawn(|| drop(lock.acquire().expect_err("its holder was killed"))));
                if waits {
                    thread::sleep(Duration::from_millis(20));
                }
                slay(&child);
                match waiter {
                    Some(waiter) => waiter.join().unwrap(),
                    None => {
                        let told = lock.try_acquire().expect_err("its holder was killed");
                        assert!(told.to_string().contains("died with it"), "{told}");
                        assert!(lock.locked());
                        drop(told.into_inner());
                    }
                }
            });
            drop(calm(&lock));
        }
    });
}

/// Waits by so many threads, and says how many of them were told; nobody else may be in `inside`.
fn crowd(lock: Lock, inside: Event, ready: Semaphore, threads: usize) -> usize {
    let told = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                ready.release().unwrap();
                let guard = lock.acquire().unwrap_or_else(|abandoned| {
                    told.fetch_add(1, Ordering::Relaxed);
                    abandoned.into_inner()
                });
                assert!(!inside.is_set(), "two at a time");
                inside.set();
                thread::yield_now();
                inside.clear();
                drop(guard);
            });
        }
    });
    told.into_inner()
}

#[test]
fn when_the_holder_is_killed_a_hundred_waiters_go_one_at_a_time_and_one_is_told() {
    robust(MINUTE, || {
        let (lock, held, inside) = (Lock::new().unwrap(), Event::new().unwrap(), Event::new().unwrap());
        let ready = Semaphore::new(0).unwrap();
        let holder = start(hold, (lock.clone(), held.clone()));
        held.wait();
        let crowds: Vec<_> =
            (0..4).map(|_| start(crowd, (lock.clone(), inside.clone(), ready.clone(), 25))).collect();
        for _ in 0..100 {
            ready.acquire().unwrap().forget().unwrap();
        }
        slay(&holder);
        let told: usize = crowds.into_iter().map(|child| child.join().unwrap()).sum();
        assert_eq!(told, 1);
    });
}

#[test]
fn a_thread_that_has_the_lock_is_told_rather_than_left_to_wait_for_itself() {
    let lock = Lock::new().unwrap();
    let guard = lock.acquire().unwrap();
    assert!(lock.try_acquire().unwrap().is_none());
    let panic = std::panic::catch_unwind(|| drop(lock.acquire())).unwrap_err();
    assert!(panic.downcast_ref::<&str>().unwrap().contains("this thread has the lock already"));
    drop(guard);
    drop(lock.acquire().unwrap());
}

#[test]
fn a_recursive_lock_is_free_when_its_last_guard_is_gone() {
    let lock = RLock::new().unwrap();
    let is_free_elsewhere =
        || thread::scope(|scope| scope.spawn(|| lock.try_acquire().unwrap().is_some()).join().unwrap());
    let guards: Vec<_> = (0..100).map(|_| lock.acquire().unwrap()).collect();
    for guard in guards {
        assert!(!is_free_elsewhere() && lock.locked());
        drop(guard);
    }
    assert!(is_free_elsewhere() && !lock.locked());
}

#[test]
#[allow(clippy::mem_forget, reason = "it is what is tested")]
fn a_thread_that_ends_with_a_forgotten_guard_counts_as_dead() {
    robust(MINUTE, || {
        let lock = RLock::new().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    std::mem::forget(lock.acquire().unwrap());
                }
            });
        });
        drop(lock.acquire().expect_err("its thread ended").into_inner());
        drop(lock.acquire().unwrap());
        assert!(!lock.locked());
        // The memory of what is forgotten stays mapped: the kernel and the C library will look there again.
        thread::spawn(|| {
            let lost = Lock::new().unwrap();
            std::mem::forget(lost.acquire().unwrap());
            drop(lost);
            let other = Lock::new().unwrap();
            drop(other.acquire().unwrap());
        })
        .join()
        .unwrap();
    });
}

#[test]
fn a_handle_may_come_from_a_child_and_is_the_same_lock_however_often_it_comes() {
    robust(MINUTE, || {
        let lock = start(|| Lock::new().unwrap(), ()).join().unwrap();
        let there_and_back = |locks: Vec<Lock>| start(|locks: Vec<Lock>| locks, (locks,)).join().unwrap();
        let copies = there_and_back(vec![lock.clone(), lock.clone()]);
        let guard = lock.acquire().unwrap();
        assert!(copies.iter().all(|copy| copy.locked() && copy.try_acquire().unwrap().is_none()));
        drop(guard);
        drop(lock);
        drop(copies[1].acquire().unwrap());
        // A thread may hold one level by each of the copies, and let them go in any order.
        let lock = RLock::new().unwrap();
        let copy = start(|lock: RLock| lock, (lock.clone(),)).join().unwrap();
        let (first, second) = (lock.acquire().unwrap(), copy.acquire().unwrap());
        drop(first);
        drop(lock);
        drop(second);
        assert!(!copy.locked());
    });
}

/// Says that it is a lock, and sends an event.
struct Liar(Event);

impl Serialize for Liar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Liar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Lock::deserialize(deserializer).map(|_| panic!("it is no lock"))
    }
}

#[test]
fn another_descriptor_than_a_locks_is_an_error_that_says_so() {
    robust(MINUTE, || {
        let error = start(|liar: Liar| drop(liar), (Liar(Event::new().unwrap()),)).join().unwrap_err();
        let TaskError::Decode(codec) = &error else { panic!("{error}") };
        assert!(codec.message().contains("the descriptor that came for a lock is none"), "{error}");
        let known = Event::new().unwrap();
        let error = start(|event: Event| Liar(event), (known.clone(),)).join().err().unwrap();
        assert!(error.to_string().contains("the descriptor that came for a lock is none"), "{error}");
    });
}
