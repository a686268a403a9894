//! Condition.

use crate::parts::{MINUTE, SOON, random, signal, slay, start};
use crate::support::{poll, robust};
use nix::sys::signal::Signal;
use procession::{Abandoned, AcquireError, Condition, Event, Lock, RLock, SyncError};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Says that it is about to sleep, with the lock held; and that it was woken.
fn sleeper(condition: Condition, asleep: Event, woken: Event) {
    let mut guard = condition.acquire().unwrap_or_else(Abandoned::into_inner);
    asleep.set();
    let _ = condition.wait(&mut guard);
    woken.set();
}

/// Whoever gets the lock after a sleeper has said that it has it finds it asleep.
fn until_asleep(condition: &Condition, asleep: &Event) {
    asleep.wait();
    drop(condition.acquire().unwrap_or_else(Abandoned::into_inner));
}

#[test]
fn notify_wakes_as_many_as_it_says() {
    robust(MINUTE, || {
        for condition in [Condition::new().unwrap(), Condition::with_lock(Lock::new().unwrap()).unwrap()] {
            let (asleep, woken) = (AtomicUsize::new(0), AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..10 {
                    scope.spawn(|| {
                        let mut guard = condition.acquire().unwrap();
                        asleep.fetch_add(1, Ordering::Relaxed);
                        condition.wait(&mut guard).unwrap();
                        woken.fetch_add(1, Ordering::Relaxed);
                    });
                }
                poll("asleep", SOON, || asleep.load(Ordering::Relaxed) == 10);
                let guard = condition.acquire().unwrap();
                assert_eq!(condition.notify(0).unwrap(), 0);
                assert_eq!(condition.notify(3).unwrap(), 3);
                drop(guard);
                poll("woken", SOON, || woken.load(Ordering::Relaxed) == 3);
                thread::sleep(Duration::from_millis(20));
                assert_eq!(woken.load(Ordering::Relaxed), 3);
                assert_eq!(condition.notify_all().unwrap(), 7);
            });
            assert_eq!(condition.notify_all().unwrap(), 0, "nobody sleeps");
        }
    });
}

#[test]
fn a_wait_ends_with_its_time_and_has_the_lock_again() {
    robust(MINUTE, || {
        let condition = Condition::with_lock(Lock::new().unwrap()).unwrap();
        let mut guard = condition.acquire().unwrap();
        let begin = Instant::now();
        assert!(!condition.wait_timeout(&mut guard, Duration::from_millis(30)).unwrap());
        assert!(begin.elapsed() >= Duration::from_millis(30));
        thread::scope(|scope| {
            scope.spawn(|| assert!(condition.try_acquire().unwrap().is_none()));
        });
        let mut asked = 0;
        let limit = Duration::from_millis(10);
        let never = condition.wait_for_timeout(&mut guard, limit, || {
            asked += 1;
            false
        });
        assert!(!never.unwrap() && asked == 2);
        assert!(condition.wait_for_timeout(&mut guard, Duration::ZERO, || true).unwrap());
        condition.wait_for(&mut guard, || true).unwrap();
    });
}

#[test]
fn sleeping_releases_all_levels_of_a_recursive_lock() {
    robust(MINUTE, || {
        let lock = RLock::new().unwrap();
        let condition = Condition::with_rlock(lock.clone()).unwrap();
        let _outer = lock.acquire().unwrap();
        let mut inner = condition.acquire().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _guard = condition.acquire().unwrap();
                condition.notify(1).unwrap();
            });
            condition.wait(&mut inner).unwrap();
            drop(inner);
            scope.spawn(|| assert!(lock.try_acquire().unwrap().is_none()));
        });
    });
}

#[test]
fn the_guard_of_another_lock_is_refused() {
    let (condition, other) = (Condition::new().unwrap(), RLock::new().unwrap());
    let mut guard = other.acquire().unwrap();
    let error = condition.wait(&mut guard).unwrap_err();
    assert!(matches!(error, AcquireError::Failed(SyncError::ForeignGuard)), "{error}");
}

#[test]
fn killed_and_stopped_sleepers_neither_block_a_notifier_nor_eat_a_notice() {
    robust(MINUTE, || {
        let condition = Condition::new().unwrap();
        let events = || (Event::new().unwrap(), Event::new().unwrap());
        let sleepers: Vec<_> = (0..4)
            .map(|_| {
                let (asleep, woken) = events();
                let child = start(sleeper, (condition.clone(), asleep.clone(), woken.clone()));
                until_asleep(&condition, &asleep);
                (child, woken)
            })
            .collect();
        signal(sleepers[1].0.pid(), Signal::SIGSTOP);
        slay(&sleepers[0].0);
        let begin = Instant::now();
        {
            let _guard = condition.acquire().unwrap_or_else(Abandoned::into_inner);
            condition.notify(1).unwrap();
            condition.notify(1).unwrap();
        }
        assert!(begin.elapsed() < SOON);
        // The dead one's notice goes to the stopped one or past it; when that is dead too, both are the others'.
        slay(&sleepers[1].0);
        for (_, woken) in &sleepers[2..] {
            assert!(woken.wait_timeout(SOON));
        }
        for (child, _) in sleepers.into_iter().skip(2) {
            child.join().unwrap();
        }
    });
}

#[test]
fn a_notice_is_never_lost_with_the_one_it_was_for() {
    robust(MINUTE, || {
        for _ in 0..10 {
            let condition = Condition::new().unwrap();
            let (asleep, woken) = (Event::new().unwrap(), Event::new().unwrap());
            let child = start(sleeper, (condition.clone(), asleep.clone(), woken.clone()));
            until_asleep(&condition, &asleep);
            thread::scope(|scope| {
                let next = scope.spawn(|| {
                    let mut guard = condition.acquire().unwrap_or_else(Abandoned::into_inner);
                    // Behind the child, by now.
                    asleep.clear();
                    condition.wait_timeout(&mut guard, SOON)
                });
                poll("next in line", SOON, || !asleep.is_set());
                drop(condition.acquire().unwrap());
                condition.notify(1).unwrap();
                thread::sleep(Duration::from_micros(random(200)));
                slay(&child);
                // It had it if it said so, or died with the lock on the way to say so.
                let told = condition.acquire().is_err();
                if woken.is_set() || told {
                    condition.notify_all().unwrap();
                }
                assert!(!matches!(next.join().unwrap(), Ok(false)), "nobody got it");
            });
        }
    });
}

#[test]
fn a_lock_abandoned_during_the_sleep_is_told_to_the_sleeper() {
    robust(MINUTE, || {
        let condition = Condition::with_lock(Lock::new().unwrap()).unwrap();
        let mut guard = condition.acquire().unwrap();
        let child = start(notify_and_die, (condition.clone(),));
        let error = condition.wait(&mut guard).unwrap_err();
        assert!(matches!(error, AcquireError::Abandoned(_)), "{error}");
        drop(guard);
        child.wait().unwrap();
        drop(condition.acquire().unwrap());
    });
}

fn notify_and_die(condition: Condition) {
    let _guard = condition.acquire().unwrap();
    condition.notify(1).unwrap();
    std::process::abort()
}
