//! Killed by the hundred, at random instants; the rest go on.

use crate::parts::{MINUTE, SOON, pause, random, slay, start};
use crate::support::robust;
use procession::{Abandoned, AcquireError, Barrier, BarrierError, Child, Condition, Event, Lock, Semaphore};
use std::thread;
use std::time::{Duration, Instant};

const KILLS: usize = 60;
const CREW: usize = 3;

/// A crew that works until killed, and its members are replaced.
struct Crew<S: Fn() -> Child<()>> {
    members: Vec<Child<()>>,
    hire: S,
}

impl<S: Fn() -> Child<()>> Crew<S> {
    fn new(hire: S) -> Self {
        Self { members: (0..CREW).map(|_| hire()).collect(), hire }
    }

    fn kill_one(&mut self) {
        pause(Duration::from_millis(4));
        let one = usize::try_from(random(CREW as u64)).unwrap();
        slay(&self.members[one]);
        self.members[one] = (self.hire)();
    }

    fn end(self) {
        self.members.iter().for_each(slay);
    }
}

fn lock_again_and_again(lock: Lock, inside: Event) {
    loop {
        let guard = match lock.acquire() {
            Ok(guard) => {
                assert!(!inside.is_set(), "two at a time");
                guard
            }
            Err(abandoned) => abandoned.into_inner(),
        };
        inside.set();
        inside.clear();
        drop(guard);
    }
}

#[test]
fn a_lock_goes_on_whoever_is_killed() {
    robust(2 * MINUTE, || {
        let (lock, inside) = (Lock::new().unwrap(), Event::new().unwrap());
        let mut crew = Crew::new(|| start(lock_again_and_again, (lock.clone(), inside.clone())));
        for _ in 0..KILLS {
            crew.kill_one();
            let taken = lock.acquire_timeout(SOON);
            let is_clean = taken.is_ok();
            let guard = taken.or_else(|abandoned| Ok::<_, ()>(Some(abandoned.into_inner())));
            let guard = guard.unwrap().expect("wedged");
            assert!(!is_clean || !inside.is_set(), "half done, and nobody told");
            inside.clear();
            drop(guard);
        }
        crew.end();
        assert!(
            lock.acquire_timeout(SOON).unwrap_or_else(|abandoned| Some(abandoned.into_inner())).is_some()
        );
        assert!(lock.try_acquire().unwrap().is_some(), "told twice");
    });
}

fn permit_again_and_again(semaphore: Semaphore) {
    loop {
        let limit = Duration::from_micros(random(300));
        match semaphore.acquire_timeout(limit) {
            Ok(permit) => drop(permit),
            Err(error) => drop(error.into_inner().unwrap()),
        }
        drop(semaphore.acquire().or_else(AcquireError::into_inner).unwrap());
    }
}

#[test]
fn a_semaphore_goes_on_whoever_is_killed_and_no_permit_is_lost_or_doubled() {
    robust(2 * MINUTE, || {
        let semaphore = Semaphore::new(2).unwrap();
        let mut crew = Crew::new(|| start(permit_again_and_again, (semaphore.clone(),)));
        for _ in 0..KILLS {
            crew.kill_one();
            match semaphore.acquire_timeout(SOON) {
                Ok(permit) => drop(permit.expect("wedged")),
                Err(error) => drop(error.into_inner().unwrap()),
            }
        }
        crew.end();
        let permits: Vec<_> =
            (0..2).map(|_| semaphore.acquire().or_else(AcquireError::into_inner).unwrap()).collect();
        assert!(semaphore.try_acquire().unwrap().is_none(), "a third permit");
        drop(permits);
        assert_eq!(semaphore.value(), 2);
    });
}

fn sleep_and_notify(condition: Condition) {
    loop {
        let mut guard = condition.acquire().unwrap_or_else(Abandoned::into_inner);
        condition.notify(usize::try_from(random(3)).unwrap()).unwrap();
        let _ = condition.wait_timeout(&mut guard, Duration::from_micros(random(500)));
    }
}

#[test]
fn a_condition_goes_on_whoever_is_killed() {
    robust(2 * MINUTE, || {
        let condition = Condition::new().unwrap();
        let mut crew = Crew::new(|| start(sleep_and_notify, (condition.clone(),)));
        for _ in 0..KILLS {
            crew.kill_one();
            let begin = Instant::now();
            let mut guard = condition.acquire().unwrap_or_else(Abandoned::into_inner);
            condition.notify_all().unwrap();
            let _ = condition.wait_timeout(&mut guard, Duration::from_micros(random(500)));
            assert!(begin.elapsed() < SOON, "wedged");
        }
        crew.end();
        // Nor does what a death has left hold up those who come after it; one of them may wake for nothing.
        thread::scope(|scope| {
            let mut guard = condition.acquire().unwrap_or_else(Abandoned::into_inner);
            scope.spawn(|| {
                let _guard = condition.acquire().unwrap();
                condition.notify_all().unwrap();
            });
            condition.wait(&mut guard).unwrap();
        });
    });
}

fn pass_again_and_again(barrier: Barrier) {
    loop {
        if barrier.wait_timeout(Duration::from_micros(200 + random(20_000))).is_err() {
            let _ = barrier.reset();
        }
    }
}

#[test]
fn a_barrier_opens_or_breaks_whoever_is_killed() {
    robust(2 * MINUTE, || {
        let barrier = Barrier::new(CREW + 1).unwrap();
        let mut crew = Crew::new(|| start(pass_again_and_again, (barrier.clone(),)));
        for _ in 0..KILLS {
            crew.kill_one();
            match barrier.wait_timeout(SOON) {
                Ok(passage) => assert!(passage.index() <= CREW),
                Err(BarrierError::Broken) => barrier.reset().unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        crew.end();
        assert_eq!(barrier.wait_timeout(Duration::from_millis(1)), Err(BarrierError::Broken));
        assert_eq!(barrier.n_waiting(), 0);
    });
}

fn set_and_wait(mine: Event, yours: Event) {
    loop {
        mine.wait();
        mine.clear();
        yours.set();
    }
}

#[test]
fn an_event_goes_on_whoever_is_killed() {
    robust(2 * MINUTE, || {
        let (there, back) = (Event::new().unwrap(), Event::new().unwrap());
        let mut crew = Crew::new(|| start(set_and_wait, (there.clone(), back.clone())));
        for _ in 0..KILLS {
            crew.kill_one();
            // Who had just cleared it and was killed has not answered: ask again.
            let answered = (0..20).any(|_| {
                there.set();
                back.wait_timeout(SOON / 20)
            });
            assert!(answered, "wedged");
            back.clear();
        }
        crew.end();
    });
}
