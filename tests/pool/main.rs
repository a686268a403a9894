//! What a pool does: one suite for both kinds, what only processes can, and the same in other worlds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::exit,
    reason = "tests, and tasks that end their worker on purpose"
)]

#[path = "../again/mod.rs"]
mod again;
#[macro_use]
mod suite;
mod workers;
mod worlds;

use again::{
    Gate, LONG, again, again_after, children_of, finish, has, is_again, is_running, note, notes, open_files,
    signal, stand, succeeds, until, within,
};
use procession::{
    Exit, Half, Lost, Pool, Process, SpawnError, TaskError, ThreadPool, active_children, current_process,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

fn square(x: u64) -> u64 {
    x * x
}

fn picky(x: u64) -> u64 {
    assert!(x % 10 != 7, "{x} ends in 7");
    x + 1
}

fn snooze(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    millis
}

fn no_database() {
    panic!("no database")
}

fn quiet() {
    std::panic::resume_unwind(Box::new("quiet"))
}

fn leave(code: i32) {
    std::process::exit(code)
}

fn pid_of_worker(_: u64) -> u32 {
    std::process::id()
}

struct Unparker(Thread);

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is, with a limit.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unparker(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let end = Instant::now() + LONG;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "the future was not woken within {LONG:?}");
        std::thread::park_timeout(left);
    }
}

suite!(Pool, processes);
suite!(ThreadPool, threads);
