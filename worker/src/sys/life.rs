//! Life and death of this process: whose child it is, what ends it, and the signals it hears.
#![allow(unsafe_code, reason = "the cellar")]

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Was this program started with more rights than its caller (setuid, file capabilities)?
#[must_use]
pub fn is_privileged() -> bool {
    // SAFETY: reads a word that the kernel left on the stack; no precondition.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The kernel kills this process when the thread that spawned it ends. False if the parent is gone already.
#[must_use]
pub fn die_with_parent(parent: u32) -> bool {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // Death before the line above went unnoticed; a parent outside our pid namespace shows as 0.
    let now = Pid::parent().as_raw();
    now == 0 || u32::try_from(now) == Ok(parent)
}

/// `F_SETSIG`, which libc does not name for Linux with glibc.
const F_SETSIG: libc::c_int = 10;

/// The kernel kills this process when the last write end of `lifeline`, a pipe, is closed: without a thread, even while
/// the process is busy or stopped. False if that has happened already.
///
/// The signal's owner and number belong to the open file, so each process needs one of its own.
#[must_use]
pub fn die_with_lifeline(lifeline: BorrowedFd<'_>) -> bool {
    let fd = lifeline.as_raw_fd();
    // SAFETY: these three commands take integers and touch no memory.
    unsafe { libc::fcntl(fd, libc::F_SETOWN, libc::getpid()) };
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGKILL) };
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_ASYNC) };
    !hung_up(lifeline)
}

/// Has the last write end of this pipe been closed?
#[must_use]
pub fn hung_up(pipe: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(pipe, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Signals as a program expects them at its start: none blocked, none ignored, but SIGPIPE (as std's runtime has it)
/// and SIGTTOU (a worker is a background group of its terminal and must be able to print).
///
/// Handlers that constructors installed stay: exec has already reset every inherited one.
pub fn reset_signals() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for number in 1..=libc::SIGRTMAX() {
        let mut old = std::mem::MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: asks only; `old` has room for the answer.
        if unsafe { libc::sigaction(number, std::ptr::null(), old.as_mut_ptr()) } != 0 {
            continue;
        }
        // SAFETY: the call above succeeded and filled it.
        let handler = unsafe { old.assume_init() }.sa_sigaction;
        if handler == libc::SIG_IGN {
            // SAFETY: the default disposition is no function of ours.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    for signal in [Signal::SIGPIPE, Signal::SIGTTOU] {
        // SAFETY: ignoring runs no code of ours.
        let _ = unsafe { sigaction(signal, &ignore) };
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Writes to standard error without any of std's machinery, for before `main`.
pub fn complain(text: &[u8]) {
    let _ = nix::unistd::write(io::stderr(), text);
}

/// Leaves at once: no destructors, no exit handlers, nothing flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

/// Nanoseconds on the monotonic clock.
#[must_use]
#[inline]
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec to the place given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Sends a signal to this very process: what a fault looks like from inside.
///
/// # Errors
/// What kill(2) says.
pub fn signal_self(signal: i32) -> io::Result<()> {
    // SAFETY: signals this process only; no memory is touched.
    if unsafe { libc::kill(libc::getpid(), signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
