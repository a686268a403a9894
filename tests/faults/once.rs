//! A death costs exactly one task, and nothing runs twice: counted by what the tasks did, not by what we were told.

use crate::support::{cells, robust};
use crate::table::MINUTE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::drill::{AT_WORK, mark};
use procession::{Exit, Pool, PoolBuilder, TaskError};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A file in which each item adds 1 to the byte that bears its number.
struct Marks {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Marks {
    fn new(items: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        fs::write(&path, vec![0; usize::try_from(items).unwrap()]).unwrap();
        Self { _dir: dir, path }
    }

    fn items(&self, items: u64, fatal: u64) -> impl Iterator<Item = (String, u64, u64)> + use<> {
        let path = self.path.to_str().unwrap().to_owned();
        (0..items).map(move |index| (path.clone(), index, fatal))
    }

    fn counts(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

const NONE: u64 = u64::MAX;

/// Runs the items; those that have no result, with the reason.
fn run(pool: &Pool, marks: &Marks, items: u64, fatal: u64) -> BTreeMap<u64, TaskError> {
    let mut failed = BTreeMap::new();
    let mut count = 0;
    let results = pool
        .imap(|(path, index, fatal): (String, u64, u64)| mark(path, index, fatal), marks.items(items, fatal));
    for (n, result) in (0..).zip(results) {
        count += 1;
        match result {
            Ok(index) => assert_eq!(index, n, "another item's result"),
            Err(error) => {
                assert_eq!(error.index(), Some(n), "another item's index: {error}");
                failed.insert(n, error);
            }
        }
    }
    assert_eq!(count, items, "an item without an outcome");
    failed
}

#[test]
fn a_worker_killed_in_the_middle_of_a_chunk_of_10_000_loses_one_item_and_nothing_runs_twice() {
    const ITEMS: u64 = 10_000;
    robust(MINUTE, || {
        let cases = [(1, 0), (1, 1), (1, 4_999), (2, 5_000), (3, 7_777), (2, ITEMS - 1)];
        cells(cases, |&(workers, fatal)| {
            let size = u32::try_from(ITEMS).unwrap().try_into().unwrap();
            let pool = Pool::builder().workers(workers).chunk_size(size).build().unwrap();
            let marks = Marks::new(ITEMS);
            let failed = run(&pool, &marks, ITEMS, fatal);
            assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [fatal], "{failed:?}");
            let TaskError::Lost(lost) = &failed[&fatal] else { panic!("{failed:?}") };
            assert_eq!((lost.index(), lost.exit()), (Some(fatal), Exit::Signal(9)));
            assert!(marks.counts().iter().all(|&count| count == 1), "each item ran once");
        });
    });
}

/// A pool whose workers are killed from outside at random moments.
struct Targets {
    pool: Pool,
    at_work: tempfile::NamedTempFile,
}

impl Targets {
    fn new(settings: impl FnOnce(PoolBuilder) -> PoolBuilder) -> Self {
        let at_work = tempfile::NamedTempFile::new().unwrap();
        let builder = Pool::builder().workers(3).env(AT_WORK, at_work.path());
        Self { pool: settings(builder).build().unwrap(), at_work }
    }

    /// Those who live and have run something. Five failed births in a row end a pool, and rightly so.
    fn at_work(&self) -> Vec<u32> {
        let signed = fs::read(self.at_work.path()).unwrap();
        let mut pids = self.pool.worker_pids();
        pids.retain(|pid| signed.chunks(4).any(|signed| signed == pid.to_ne_bytes()));
        pids
    }

    fn kill_one(&self, random: impl Fn(u64) -> u64) -> bool {
        let pids = self.at_work();
        let Some(&pid) = pids.get(usize::try_from(random(pids.len().max(1) as u64)).unwrap()) else {
            return false;
        };
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).is_ok()
    }

    /// Runs `body`, which says how many tasks it lost, again and again until so many workers have been killed.
    fn under_fire(&self, kills: usize, body: impl Fn(&Pool) -> usize) {
        let over = AtomicBool::new(false);
        let random = |below: u64| RandomState::new().build_hasher().finish() % below;
        thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let mut killed = 0;
                while killed < kills && !over.load(Ordering::Relaxed) {
                    // What no event tells of is the moment at which it hurts most.
                    thread::sleep(Duration::from_micros(random(10_000)));
                    killed += usize::from(self.kill_one(random));
                }
                killed
            });
            let mut lost = 0;
            while !killer.is_finished() {
                let round = catch_unwind(AssertUnwindSafe(|| body(&self.pool)));
                over.store(round.is_err(), Ordering::Relaxed);
                lost += round.unwrap_or_else(|payload| resume_unwind(payload));
            }
            let killed = killer.join().unwrap();
            assert!(lost <= killed, "{lost} tasks lost by {killed} deaths");
        });
    }
}

#[test]
fn workers_killed_at_random_moments_lose_one_item_each_at_most_and_nothing_runs_twice() {
    const ITEMS: u64 = 10_000;
    robust(MINUTE, || {
        let sizes = [None, Some(1), Some(100), Some(3_000)];
        cells(sizes, |&size: &Option<u32>| {
            let targets = Targets::new(|builder| match size {
                Some(size) => builder.chunk_size(size.try_into().unwrap()),
                None => builder,
            });
            targets.under_fire(20, |pool| {
                let marks = Marks::new(ITEMS);
                let failed = run(pool, &marks, ITEMS, NONE);
                for error in failed.values() {
                    let killed = matches!(error, TaskError::Lost(lost) if lost.exit() == Exit::Signal(9));
                    assert!(killed, "{error}");
                }
                for (index, count) in (0..).zip(marks.counts()) {
                    match failed.contains_key(&index) {
                        true => assert!(count <= 1, "item {index} was lost, and ran {count} times"),
                        false => assert_eq!(count, 1, "item {index} has a result, and ran {count} times"),
                    }
                }
                failed.len()
            });
        });
    });
}

#[test]
fn single_tasks_under_fire_are_each_told_their_own_fate() {
    robust(MINUTE, || {
        Targets::new(|builder| builder).under_fire(20, |pool| {
            let marks = Marks::new(2_000);
            let items = marks.items(2_000, NONE);
            let promises: Vec<_> = items.map(|item| pool.apply_async(mark, item)).collect();
            let mut lost = 0;
            for (n, promise) in (0..).zip(promises) {
                match promise.get() {
                    Ok(index) => assert_eq!(index, n),
                    Err(TaskError::Lost(_)) => lost += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            let ran: usize = marks.counts().iter().map(|&count| usize::from(count)).sum();
            assert!(marks.counts().iter().all(|&count| count <= 1) && ran >= 2_000 - lost, "{ran}");
            lost
        });
    });
}

#[test]
fn with_retries_no_item_is_lost_under_fire() {
    robust(MINUTE, || {
        Targets::new(|builder| builder.retries(1_000)).under_fire(20, |pool| {
            let marks = Marks::new(5_000);
            let failed = run(pool, &marks, 5_000, NONE);
            assert!(failed.is_empty(), "{failed:?}");
            assert!(marks.counts().iter().all(|&count| count >= 1));
            0
        });
    });
}
