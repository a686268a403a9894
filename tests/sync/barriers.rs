//! Barrier.

use crate::parts::{MINUTE, SOON, signal, slay, start, until_asleep};
use crate::support::{poll, robust};
use nix::sys::signal::Signal;
use procession::{Barrier, BarrierError};
use std::thread;
use std::time::{Duration, Instant};

fn barrier(parties: usize) -> Barrier {
    Barrier::new(parties).unwrap()
}

/// Passes so many times; the numbers that it had.
fn pass(barrier: Barrier, rounds: usize) -> Vec<usize> {
    (0..rounds).map(|_| barrier.wait().unwrap().index()).collect()
}

/// Waits, and says whether it was told that the barrier broke.
fn is_broken(barrier: Barrier) -> bool {
    barrier.wait() == Err(BarrierError::Broken)
}

#[test]
fn all_pass_together_again_and_again_each_with_a_number_of_its_own() {
    const ROUNDS: usize = 100;
    robust(MINUTE, || {
        let barrier = barrier(5);
        assert_eq!((barrier.parties(), barrier.n_waiting(), barrier.broken()), (5, 0, false));
        let children: Vec<_> = (0..3).map(|_| start(pass, (barrier.clone(), ROUNDS))).collect();
        let mut numbers: Vec<Vec<usize>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| pass(barrier.clone(), ROUNDS))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        numbers.extend(children.into_iter().map(|child| child.join().unwrap()));
        for round in 0..ROUNDS {
            let mut of_round: Vec<usize> = numbers.iter().map(|numbers| numbers[round]).collect();
            of_round.sort_unstable();
            assert_eq!(of_round, [0, 1, 2, 3, 4]);
        }
    });
}

#[test]
fn a_barrier_for_nobody_is_an_error() {
    assert_eq!(Barrier::new(0).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    assert!(Barrier::new(procession::cpu_count()).is_ok());
}

#[test]
fn one_party_passes_by_itself_and_leads() {
    let barrier = barrier(1);
    assert!(barrier.wait().unwrap().is_leader() && barrier.wait().unwrap().is_leader());
}

#[test]
fn who_runs_out_of_time_breaks_it_until_it_is_reset() {
    robust(MINUTE, || {
        let barrier = barrier(3);
        let child = start(is_broken, (barrier.clone(),));
        poll("waiting", SOON, || barrier.n_waiting() == 1);
        let begin = Instant::now();
        assert_eq!(barrier.wait_timeout(Duration::from_millis(30)), Err(BarrierError::Broken));
        assert!(begin.elapsed() >= Duration::from_millis(30));
        assert!(child.join().unwrap() && barrier.broken());
        assert_eq!(barrier.wait(), Err(BarrierError::Broken));
        barrier.reset().unwrap();
        assert!(!barrier.broken());
        let children: Vec<_> = (0..2).map(|_| start(is_broken, (barrier.clone(),))).collect();
        barrier.wait().unwrap();
        assert!(children.into_iter().all(|child| !child.join().unwrap()));
    });
}

#[test]
fn aborted_or_reset_it_is_broken_for_those_who_wait() {
    robust(MINUTE, || {
        let barrier = barrier(3);
        for reset in [false, true] {
            let children: Vec<_> = (0..2).map(|_| start(is_broken, (barrier.clone(),))).collect();
            poll("waiting", SOON, || barrier.n_waiting() == 2);
            if reset { barrier.reset() } else { barrier.abort() }.unwrap();
            assert_eq!(barrier.broken(), !reset);
            assert!(children.into_iter().all(|child| child.join().unwrap()));
            barrier.reset().unwrap();
        }
    });
}

#[test]
fn a_party_killed_while_it_waits_breaks_it_for_those_before_and_after_it() {
    robust(MINUTE, || {
        let barrier = barrier(4);
        thread::scope(|scope| {
            let before = start(is_broken, (barrier.clone(),));
            let here = scope.spawn(|| is_broken(barrier.clone()));
            poll("waiting", SOON, || barrier.n_waiting() == 2);
            let victim = start(is_broken, (barrier.clone(),));
            poll("waiting", SOON, || barrier.n_waiting() == 3);
            slay(&victim);
            assert!(here.join().unwrap() && before.join().unwrap() && barrier.broken());
        });
        barrier.reset().unwrap();
        // One that nobody was there to see die.
        let victim = start(is_broken, (barrier.clone(),));
        poll("waiting", SOON, || barrier.n_waiting() == 1);
        slay(&victim);
        assert_eq!(barrier.wait_timeout(SOON), Err(BarrierError::Broken));
        barrier.reset().unwrap();
        // Nor do the dead help to open it.
        let victims: Vec<_> = (0..3).map(|_| start(is_broken, (barrier.clone(),))).collect();
        poll("waiting", SOON, || barrier.n_waiting() == 3);
        victims.iter().for_each(|victim| signal(victim.pid(), Signal::SIGKILL));
        victims.iter().for_each(slay);
        assert_eq!(barrier.wait(), Err(BarrierError::Broken));
    });
}

#[test]
fn a_stopped_party_holds_nobody_up_who_has_a_deadline() {
    robust(MINUTE, || {
        let barrier = barrier(2);
        let child = start(is_broken, (barrier.clone(),));
        poll("waiting", SOON, || barrier.n_waiting() == 1);
        until_asleep(child.pid(), child.pid());
        signal(child.pid(), Signal::SIGSTOP);
        // It has come, so the barrier opens.
        assert_eq!(barrier.wait().unwrap().index(), 1);
        assert_eq!(barrier.wait_timeout(Duration::from_millis(20)), Err(BarrierError::Broken));
        signal(child.pid(), Signal::SIGCONT);
        assert!(!child.join().unwrap());
    });
}
