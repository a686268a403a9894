//! Waiting for descriptors, and the reactor thread's own calls.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::time::TimeSpec;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rounds up to whole milliseconds, so that a wait never ends just before its time.
pub(crate) fn millis_until(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.saturating_add(Duration::from_micros(999)).as_millis()).unwrap_or(u32::MAX)
}

/// Sleeps until the bell rings, or the deadline; false at the deadline. As with every bell, it may ring for nothing.
pub(crate) fn sleep<'a, T>(
    bell: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
        None => (bell.wait(guard).unwrap_or_else(PoisonError::into_inner), true),
        Some(Duration::ZERO) => (guard, false),
        Some(left) => (bell.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0, true),
    }
}

/// Waits until one of the descriptors can be read (or written, if its flag says so) or has hung up, or the deadline has
/// passed. Which of them are ready; all false at the deadline or after a signal.
pub(crate) fn ready<const N: usize>(
    fds: [(BorrowedFd<'_>, bool); N],
    deadline: Option<Instant>,
) -> [bool; N] {
    let mut polled =
        fds.map(|(fd, write)| PollFd::new(fd, if write { PollFlags::POLLOUT } else { PollFlags::POLLIN }));
    let timeout = match deadline {
        None => PollTimeout::NONE,
        Some(deadline) => PollTimeout::try_from(millis_until(deadline)).unwrap_or(PollTimeout::MAX),
    };
    match poll(&mut polled, timeout) {
        Ok(_) => polled.map(|fd| fd.any().unwrap_or(true)),
        Err(_) => [false; N],
    }
}

/// Waits until at least one of them can be read or has hung up; their indices, none at the deadline.
pub(crate) fn any_ready(objects: &[&dyn AsFd], deadline: Option<Instant>) -> io::Result<Vec<usize>> {
    let mut polled: Vec<_> =
        objects.iter().map(|object| PollFd::new(object.as_fd(), PollFlags::POLLIN)).collect();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match ppoll(&mut polled, left.map(TimeSpec::from), None) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let ready = |(at, fd): (usize, &PollFd<'_>)| fd.any().unwrap_or(true).then_some(at);
                return Ok(polled.iter().enumerate().filter_map(ready).collect());
            }
        }
    }
}

/// Runs `body` with every signal blocked in this thread, and puts the mask back as it was: threads started by `body`
/// never run a handler of the program's.
pub(crate) fn with_signals_blocked<R>(body: impl FnOnce() -> R) -> R {
    let mut before = SigSet::empty();
    let blocked = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before)).is_ok();
    let result = body();
    if blocked {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    result
}
