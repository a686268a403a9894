//! What the processes of these tests do, and how they come to be and end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::{Abandoned, Child, Event, Lock, Process, Task};
use std::time::Duration;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// What is prompt, on a machine that has other things to do.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn start<A, R, F>(f: F, args: A) -> Child<R>
where
    F: Task<A, Output = R> + Copy + Send + Sync + 'static,
    A: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    R: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    Process::new(f, args).start().unwrap()
}

/// Who has ended by itself needs none.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// SIGKILL; returns when it is dead.
pub(crate) fn slay<R>(child: &Child<R>) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Up to so much, of no pattern.
pub(crate) fn random(below: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() % below
}

pub(crate) fn pause(most: Duration) {
    std::thread::sleep(Duration::from_nanos(random(u64::try_from(most.as_nanos()).unwrap())));
}

/// Takes the lock, says so, and holds it until killed.
pub(crate) fn hold(lock: Lock, held: Event) {
    let _guard = lock.acquire().unwrap_or_else(Abandoned::into_inner);
    held.set();
    procession::drill::hang();
}

/// Until a thread of any process, of which it is known that it is about to wait for nothing else, sleeps.
pub(crate) fn until_asleep(pid: u32, thread: u32) {
    let path = format!("/proc/{pid}/task/{thread}/stat");
    let sleeps = || {
        let stat = std::fs::read_to_string(&path).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    };
    crate::support::poll("asleep", SOON, || {
        sleeps() && {
            std::thread::sleep(Duration::from_millis(1));
            sleeps()
        }
    });
}

/// The calling thread's number.
pub(crate) fn this_thread() -> u32 {
    nix::unistd::gettid().as_raw().unsigned_abs()
}
