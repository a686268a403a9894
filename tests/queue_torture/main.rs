//! Queues under sabotage: kills by the hundred, stopped peers, storms of signals, no descriptors, lies.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod corners;
mod hostile;
mod kills;
mod large;
mod scarce;
mod stopped;
#[path = "../support/mod.rs"]
mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::Child;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// Far more than any answer takes.
const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(30);

fn signal<R>(child: &Child<R>, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(child.pid()).unwrap()), signal);
}

/// SIGSTOP; returns when each of its threads has stopped.
fn stop<R>(child: &Child<R>) {
    signal(child, Signal::SIGSTOP);
    support::poll("stopped", SOON, || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.pid())).unwrap().flatten();
        threads
            .map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default())
            .all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't'])))
    });
}

/// SIGKILL; returns when it is dead.
fn slay<R>(child: &Child<R>) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Up to so much, of no pattern.
fn random(below: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() % below
}

fn pause(most: Duration) {
    std::thread::sleep(Duration::from_nanos(random(u64::try_from(most.as_nanos()).unwrap())));
}
