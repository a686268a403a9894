//! What every robustness test stands on: a watchdog over it, and the proof that it left nothing behind.
#![allow(dead_code, reason = "each test binary uses its own part")]

mod birth;
mod left;
mod start;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::abort;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often each robustness test is to be run: `PROCESSION_REPEAT`, 1 unless set.
pub(crate) fn repeats() -> u32 {
    std::env::var("PROCESSION_REPEAT").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Runs a test's body as often as asked for, each time alone in this process, in at most `limit`, and so that nothing
/// is left: no child, no zombie, no orphan, no descriptor, no change of a signal's mask or disposition.
pub(crate) fn robust(limit: Duration, body: impl Fn()) {
    static ALONE: Mutex<()> = Mutex::new(());
    static WARM: Once = Once::new();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    WARM.call_once(left::warm_up);
    for _ in 0..repeats() {
        let before = left::Standing::now();
        let result = guarded(limit, &body);
        if let Err(payload) = result {
            drop(alone);
            resume_unwind(payload);
        }
        guarded(limit, || before.assert_unchanged()).unwrap_or_else(|payload| resume_unwind(payload));
    }
}

/// A hang is told, by name, and ends the test process: no test may hang the whole run.
fn guarded(limit: Duration, body: impl FnOnce()) -> thread::Result<()> {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let (done, wait) = channel::<()>();
    let dog = thread::spawn(move || {
        if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            // Not eprintln: the harness captures that, and will not come to show it.
            let text = format!("\nwatchdog: {name} has not ended within {limit:?}\n{}", left::stacks());
            let _ = std::io::stderr().write_all(text.as_bytes());
            abort();
        }
    });
    let result = catch_unwind(AssertUnwindSafe(body));
    drop(done);
    let _ = dog.join();
    result
}

/// Runs one cell after the other, and names all that failed.
pub(crate) fn cells<C: std::fmt::Debug>(all: impl IntoIterator<Item = C>, cell: impl Fn(&C)) {
    let mut failed = Vec::new();
    for one in all {
        let start = Instant::now();
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| cell(&one))) {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
            failed.push(format!("{one:?}: {}", text.unwrap_or_default()));
        }
        if std::env::var_os("PROCESSION_TIMES").is_some() {
            eprintln!("{:>8.1?}  {one:?}", start.elapsed());
        }
    }
    assert!(failed.is_empty(), "{} cells failed:\n{}", failed.len(), failed.join("\n"));
}

/// Waits for what no event tells of.
pub(crate) fn poll(what: &str, limit: Duration, ready: impl Fn() -> bool) {
    poll_or(what, limit, || if ready() { Ok(()) } else { Err(String::new()) });
}

/// As [`poll`], with a word on why it is not ready.
pub(crate) fn poll_or(what: &str, limit: Duration, ready: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + limit;
    while let Err(why) = ready() {
        assert!(Instant::now() < deadline, "{what} after {limit:?}: {why}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use left::{is_gone, orphans, reap_orphan, state_of};
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use start::{few_processes, fresh, on_terminal};
