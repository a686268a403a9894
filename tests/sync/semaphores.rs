//! Semaphore and BoundedSemaphore.

use crate::parts::{MINUTE, SOON, signal, slay, start, this_thread, until_asleep};
use crate::support::robust;
use nix::sys::signal::Signal;
use procession::{AcquireError, BoundedSemaphore, Event, Permit, Semaphore, SyncError};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

fn take(semaphore: Semaphore, held: Event) {
    let _permit = semaphore.acquire().or_else(AcquireError::into_inner).unwrap();
    held.set();
    procession::drill::hang();
}

fn is_abandoned<T>(result: Result<T, AcquireError<Permit<'_>>>) -> bool {
    matches!(result, Err(AcquireError::Abandoned(_)))
}

#[test]
fn so_many_and_no_more() {
    robust(MINUTE, || {
        let semaphore = Semaphore::new(3).unwrap();
        let permits: Vec<_> = (0..3).map(|_| semaphore.acquire().unwrap()).collect();
        assert!(semaphore.locked() && semaphore.value() == 0);
        assert!(semaphore.try_acquire().unwrap().is_none());
        let begin = Instant::now();
        assert!(semaphore.acquire_timeout(Duration::from_millis(30)).unwrap().is_none());
        assert!(begin.elapsed() >= Duration::from_millis(30));
        drop(permits);
        assert_eq!(semaphore.value(), 3);
    });
}

#[test]
fn it_serves_for_signals_as_pythons_does() {
    robust(MINUTE, || {
        let semaphore = Semaphore::new(0).unwrap();
        let ring = |semaphore: Semaphore, times: u32| (0..times).for_each(|_| semaphore.release().unwrap());
        let child = start(ring, (semaphore.clone(), 5));
        for _ in 0..5 {
            semaphore.acquire().unwrap().forget().unwrap();
        }
        child.join().unwrap();
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn a_bounded_one_says_when_it_is_released_too_often() {
    let semaphore = BoundedSemaphore::new(2).unwrap();
    assert_eq!(semaphore.release(), Err(SyncError::ReleasedTooOften));
    let permit = semaphore.acquire().unwrap();
    assert_eq!(semaphore.release(), Err(SyncError::ReleasedTooOften));
    permit.forget().unwrap();
    assert_eq!(semaphore.value(), 1);
    semaphore.release().unwrap();
    assert_eq!((semaphore.value(), semaphore.release()), (2, Err(SyncError::ReleasedTooOften)));
}

#[test]
fn first_come_first_served() {
    robust(MINUTE, || {
        let semaphore = Semaphore::new(1).unwrap();
        let served = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let first = semaphore.acquire().unwrap();
            for n in 0..10 {
                let (semaphore, served) = (&semaphore, &served);
                let (tell, told) = std::sync::mpsc::channel();
                scope.spawn(move || {
                    tell.send(this_thread()).unwrap();
                    let _permit = semaphore.acquire().unwrap();
                    served.lock().unwrap().push(n);
                });
                until_asleep(std::process::id(), told.recv().unwrap());
            }
            drop(first);
        });
        assert_eq!(served.into_inner().unwrap(), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn a_killed_holders_permit_comes_back_and_is_told_of_whether_one_waits_or_comes_later() {
    robust(MINUTE, || {
        let semaphore = Semaphore::new(2).unwrap();
        for waits in [true, false] {
            let holders: Vec<_> = (0..2)
                .map(|_| {
                    let held = Event::new().unwrap();
                    let child = start(take, (semaphore.clone(), held.clone()));
                    held.wait();
                    child
                })
                .collect();
            assert!(semaphore.try_acquire().unwrap().is_none());
            thread::scope(|scope| {
                let waiter = waits.then(|| scope.spawn(|| is_abandoned(semaphore.acquire_timeout(SOON))));
                if waits {
                    thread::sleep(Duration::from_millis(20));
                }
                slay(&holders[0]);
                match waiter {
                    Some(waiter) => assert!(waiter.join().unwrap()),
                    None => assert!(is_abandoned(semaphore.try_acquire())),
                }
                // What was told is told, and the other one is still taken.
                assert_eq!(semaphore.value(), 1);
                drop(semaphore.acquire().unwrap());
            });
            slay(&holders[1]);
            let both = [semaphore.try_acquire(), semaphore.acquire().map(Some)];
            assert_eq!(both.into_iter().filter(|taken| is_abandoned_ref(taken)).count(), 1);
            assert_eq!(semaphore.value(), 2);
        }
    });
}

fn is_abandoned_ref<T>(result: &Result<T, AcquireError<Permit<'_>>>) -> bool {
    matches!(result, Err(AcquireError::Abandoned(_)))
}

#[test]
fn waiters_that_are_killed_or_stopped_cost_nobody_his_turn() {
    robust(MINUTE, || {
        let (semaphore, held) = (Semaphore::new(1).unwrap(), Event::new().unwrap());
        let first = semaphore.acquire().unwrap();
        let in_line = || {
            let ready = Event::new().unwrap();
            let child = start(line_up, (semaphore.clone(), ready.clone(), held.clone()));
            ready.wait();
            until_asleep(child.pid(), child.pid());
            child
        };
        let (killed, stopped) = (in_line(), in_line());
        thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let semaphore = &semaphore;
            let waiter = scope.spawn(move || {
                tell.send(this_thread()).unwrap();
                semaphore.acquire_timeout(SOON).or_else(AcquireError::into_some).unwrap().is_some()
            });
            until_asleep(std::process::id(), told.recv().unwrap());
            // Before there is a death to see to: who is stopped in the gate holds up everybody, as the README says.
            signal(stopped.pid(), Signal::SIGSTOP);
            slay(&killed);
            drop(first);
            // The stopped one is slow, not dead: the permit is its own until it is.
            thread::sleep(Duration::from_millis(50));
            assert!(!waiter.is_finished());
            slay(&stopped);
            assert!(waiter.join().unwrap());
        });
        assert!(!held.is_set());
    });
}

fn line_up(semaphore: Semaphore, ready: Event, held: Event) {
    ready.set();
    take(semaphore, held);
}

trait IntoSome<'a> {
    fn into_some(self) -> Result<Option<Permit<'a>>, SyncError>;
}

impl<'a> IntoSome<'a> for AcquireError<Permit<'a>> {
    fn into_some(self) -> Result<Option<Permit<'a>>, SyncError> {
        self.into_inner().map(Some)
    }
}

#[test]
fn a_permit_goes_from_thread_to_thread() {
    let semaphore = Semaphore::new(1).unwrap();
    thread::scope(|scope| {
        let permit = semaphore.acquire().unwrap();
        scope.spawn(move || drop(permit));
    });
    assert_eq!(semaphore.value(), 1);
}

#[test]
fn more_sleepers_and_holders_than_there_is_room_for_are_told() {
    let semaphore = Semaphore::new(5_000).unwrap();
    let permits: Vec<_> = std::iter::repeat_with(|| semaphore.acquire()).take_while(Result::is_ok).collect();
    assert_eq!(permits.len(), 4_096);
    let error = semaphore.acquire().unwrap_err().to_string();
    assert!(error.starts_with("4096 sleep at this object or hold a permit of it already"), "{error}");
    drop(permits);
    assert_eq!(semaphore.value(), 5_000);
}
