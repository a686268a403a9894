//! The table for a pool's workers.

use crate::support::{self, cells, poll, robust, state_of};
use crate::table::{
    DEADLINE, MINUTE, assert_blamed, assert_stillborn, is_of_the_process, is_silent, spares_the_result,
    spoils_the_page,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::drill::{self, Fault, echo};
use procession::{Exit, Pool, PoolBuilder, TaskError};
use std::fs::OpenOptions;
use std::ops::Range;
use std::path::PathBuf;

fn two_workers(fault: Fault) -> PoolBuilder {
    let builder = Pool::builder().workers(2);
    // Who is silent for ever is told from who is slow by a deadline only.
    if is_silent(fault) { builder.task_timeout(DEADLINE) } else { builder }
}

/// Sixteen items to a chunk, the guilty one in the middle of the second; its worker may hold the third in reserve.
fn assert_only_the_guilty_pays(
    fault: Fault,
    results: impl Iterator<Item = Result<u64, TaskError>>,
    (all, guilty, chunk): (u64, u64, Range<u64>),
) {
    let mut count = 0;
    for (n, result) in (0..).zip(results) {
        match result {
            Ok(value) => {
                assert_eq!(value, n, "a wrong result");
                assert!(n != guilty || fault == Fault::GarbageAndOn, "it misbehaved and has a result");
            }
            Err(error) => {
                assert_eq!(error.index(), Some(n), "blamed by another item's index: {error}");
                let may_have_run = spoils_the_page(fault) && chunk.contains(&n);
                assert!(n == guilty || may_have_run, "item {n} is innocent, and was told: {error}");
                assert_blamed(fault, &error);
            }
        }
        count += 1;
    }
    assert_eq!(count, all, "an item without an outcome");
}

fn assert_serves(pool: &Pool) {
    assert_serves_many(pool);
    assert_eq!(pool.apply(echo::<String>, ("still here".to_owned(),)).unwrap(), "still here");
}

fn assert_serves_many(pool: &Pool) {
    let pending: Vec<_> = (0..4).map(|n| pool.apply_async(echo::<u64>, (n,))).collect();
    assert_eq!(pool.map(echo::<u64>, 0..64).unwrap(), (0..64).collect::<Vec<_>>());
    for (n, result) in (0..).zip(pending) {
        assert_eq!(result.get().unwrap(), n);
    }
}

/// A worker whose second thread is late to strike may strike down what comes next.
fn assert_serves_in_the_end(pool: &Pool) {
    poll("served", MINUTE / 6, || pool.apply(echo::<u64>, (1,)).is_ok_and(|value| value == 1));
}

// ---- in a call --------------------------------------------------------------------------------------------------------

#[test]
fn a_fault_in_a_call_costs_that_call_alone() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let pool = two_workers(fault).build().unwrap();
            assert_serves(&pool);
            match pool.apply(drill::call, (Some(fault), 7)) {
                Ok(value) => assert_eq!((fault, value), (Fault::GarbageAndOn, 7)),
                Err(error) => assert_blamed(fault, &error),
            }
            assert_serves(&pool);
        });
    });
}

fn sixteen(fault: Fault) -> Pool {
    two_workers(fault).chunk_size(16.try_into().unwrap()).build().unwrap()
}

fn one_of_48(fault: Fault) -> impl Iterator<Item = (Option<Fault>, u64)> {
    (0..48).map(move |n| ((n == 21).then_some(fault), n))
}

#[test]
fn a_fault_in_a_chunk_costs_one_item_and_its_neighbours_are_answered() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let pool = sixteen(fault);
            let results =
                pool.imap(|(fault, n): (Option<Fault>, u64)| drill::call(fault, n), one_of_48(fault));
            assert_only_the_guilty_pays(fault, results, (48, 21, 16..48));
            assert_serves(&pool);
        });
    });
}

// ---- while encoding ---------------------------------------------------------------------------------------------------

#[test]
fn a_fault_while_its_result_is_encoded_costs_one_item() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let pool = sixteen(fault);
            let results =
                pool.imap(|(fault, n): (Option<Fault>, u64)| drill::encode(fault, n), one_of_48(fault));
            let results = results.map(|result| result.map(|value| value.value()));
            assert_only_the_guilty_pays(fault, results, (48, 21, 16..48));
            assert_serves(&pool);
        });
    });
}

// ---- while writing a large result -------------------------------------------------------------------------------------

#[test]
fn a_fault_in_the_middle_of_a_large_result_costs_that_result() {
    let whole = drill::eight_mib();
    robust(2 * MINUTE, || {
        cells(Fault::ALL.into_iter().filter(is_of_the_process), |&fault| {
            // The whole of a result may have been written before the second thread came to strike.
            let struck = (0..20).any(|_| {
                let mut builder = two_workers(fault).chunk_size(2.try_into().unwrap());
                if is_silent(fault) {
                    // The one before it is large, too, and is to be done in time on a busy machine.
                    builder = builder.task_timeout(15 * DEADLINE);
                }
                let pool = builder.build().unwrap();
                let results: Vec<_> = pool.imap(drill::large, [None, Some(fault)]).collect();
                assert_eq!(results.len(), 2);
                let mut struck = false;
                for (n, result) in (0..).zip(results) {
                    match result {
                        Ok(text) => assert!(text == whole, "a wrong result, item {n}"),
                        // The write that was under way filled the pipe, and there was no pipe for the rest.
                        Err(TaskError::Lost(lost)) if fault == Fault::ClosePipe && n == 1 => {
                            assert_eq!((lost.exit(), lost.reason()), (Exit::Code(0), None));
                        }
                        Err(error) => {
                            assert_eq!(error.index(), Some(n));
                            let unknown = spoils_the_page(fault);
                            assert!(n == 1 || unknown, "item {n} is innocent, and was told: {error}");
                            assert_blamed(fault, &error);
                            struck = true;
                        }
                    }
                }
                assert_serves_in_the_end(&pool);
                struck || spares_the_result(fault)
            });
            assert!(struck, "it never struck in time");
        });
    });
}

// ---- idle -------------------------------------------------------------------------------------------------------------

/// A named pipe: whoever opens it for writing wakes a thread in a worker that was opening it for reading.
struct Trigger {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Trigger {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("now");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { _dir: dir, path }
    }

    fn path(&self) -> String {
        self.path.to_str().unwrap().to_owned()
    }

    fn pull(&self) {
        drop(OpenOptions::new().write(true).open(&self.path).unwrap());
    }
}

#[test]
fn a_fault_in_an_idle_worker_costs_no_task_at_all() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let pool = two_workers(fault).build().unwrap();
            let trigger = Trigger::new();
            let pid = pool.apply_async(drill::idle, (fault, trigger.path())).get().unwrap();
            // By the way on which the reactor reads, which then goes on listening.
            assert_serves_many(&pool);
            trigger.pull();
            match fault {
                Fault::Panic | Fault::GarbageAndOn => {}
                Fault::Stop => poll("stopped", MINUTE / 6, || state_of(pid) == Some('T')),
                _ => poll("replaced", MINUTE / 6, || !pool.worker_pids().contains(&pid)),
            }
            if fault == Fault::GarbageAndOn {
                // Nothing tells when it has struck.
                assert_serves_in_the_end(&pool);
            } else {
                assert_serves(&pool);
            }
            poll("two workers again", MINUTE / 6, || pool.worker_pids().len() == 2);
        });
    });
}

/// After an `apply` that had the worker to itself nobody listens to that worker until it has something to do again: so
/// what it says in between is found then, and the task that is sent to it pays.
#[test]
fn bytes_from_an_idle_worker_that_nobody_listens_to_cost_its_next_task_and_no_other() {
    robust(MINUTE, || {
        cells([Fault::HalfFrameAndOn, Fault::FalseLength, Fault::VastLength], |&fault| {
            let pool = two_workers(fault).workers(1).build().unwrap();
            let trigger = Trigger::new();
            let pid = pool.apply(drill::idle, (fault, trigger.path())).unwrap();
            trigger.pull();
            poll("written", MINUTE / 6, || threads_of(pid) == 1);
            match pool.apply(echo::<u64>, (1,)) {
                // The reactor was still listening.
                Ok(value) => assert_eq!(value, 1),
                Err(error) => assert_blamed(fault, &error),
            }
            assert_serves(&pool);
        });
    });
}

fn threads_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(1, Iterator::count)
}

#[test]
fn two_pools_in_one_program_do_not_share_a_fault() {
    robust(MINUTE, || {
        let (one, other) = (Pool::new(1).unwrap(), Pool::new(1).unwrap());
        let slow = other.apply_async(echo::<Vec<u64>>, ((0..100_000).collect(),));
        assert!(one.apply(drill::call, (Some(Fault::Kill), 0)).is_err());
        assert_eq!(slow.get().unwrap().len(), 100_000);
        assert_serves(&one);
        assert_serves(&other);
    });
}

// ---- in shutdown ------------------------------------------------------------------------------------------------------

#[test]
fn a_fault_in_an_exit_handler_does_not_hold_up_the_end_of_a_pool() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let pool = Pool::new(2).unwrap();
            assert_eq!(pool.apply(drill::at_exit, (fault, 7)).unwrap(), 7);
            let late = pool.map_async(echo::<u64>, 0..1000);
            assert!(pool.join_timeout(MINUTE / 6), "the pool did not end");
            assert_eq!(late.get().unwrap().len(), 1000);
        });
    });
}

#[test]
fn a_fault_in_the_exit_handler_of_a_worker_that_has_served_its_time_costs_no_task() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let one = 1.try_into().unwrap();
            let pool = Pool::builder().workers(2).max_tasks_per_worker(one).build().unwrap();
            assert_eq!(pool.apply(drill::at_exit, (fault, 7)).unwrap(), 7);
            assert_eq!(pool.map(echo::<u64>, 0..8).unwrap(), (0..8).collect::<Vec<_>>());
        });
    });
}

// ---- before Hello -----------------------------------------------------------------------------------------------------

#[test]
fn a_pool_whose_workers_die_before_hello_says_so_once_to_each_caller() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let healthy = Pool::new(1).unwrap();
            let builder = Pool::builder().workers(2).env(drill::AT_BIRTH, format!("{fault:?}"));
            let pool = match is_silent(fault) {
                true => builder.birth_timeout(DEADLINE),
                false => builder,
            };
            let pool = pool.build().unwrap();
            let waiting = pool.map_async(echo::<u64>, 0..100);
            assert_stillborn(fault, &pool.apply(echo::<u64>, (1,)).unwrap_err());
            assert_stillborn(fault, &waiting.get().unwrap_err());
            assert_stillborn(fault, &pool.apply(echo::<u64>, (1,)).unwrap_err());
            assert_serves(&healthy);
        });
    });
}

// ---- beyond the table -------------------------------------------------------------------------------------------------

#[test]
fn a_grandchild_in_a_group_of_its_own_holds_the_pipe_and_nobody_waits_for_it() {
    robust(MINUTE, || {
        let pool = Pool::new(1).unwrap();
        let error = pool.apply(drill::desert, ()).unwrap_err();
        assert!(matches!(&error, TaskError::Lost(lost) if lost.exit() == Exit::Signal(9)), "{error}");
        assert_serves(&pool);
        pool.join();
        // It is beyond the reach of a process group: the keeper's job, once there is one. Here it is ours.
        let orphans = support::orphans();
        assert_eq!(orphans.len(), 1, "{orphans:?}");
        for pid in orphans {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    });
}
