//! The keeper's own life: one thread that sleeps until a child dies, its owner speaks, or its owner dies.
#![allow(unsafe_code, reason = "the cellar")]

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a process has used, with the descendants it has waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Microseconds of processor time in the program itself.
    pub user: u64,
    /// Microseconds of processor time in the kernel.
    pub sys: u64,
    /// The most memory it had, in KiB.
    pub max_rss: u64,
}

static CHILD_DIED: AtomicBool = AtomicBool::new(true);

extern "C" fn note_death(_signal: libc::c_int) {
    CHILD_DIED.store(true, Ordering::Relaxed);
}

/// Every signal as a program expects it at its start, for those who will inherit it; and blocked here, all of them: whoever is
/// to end a keeper ends its owner.
///
/// # Errors
/// None is known.
pub fn deafen() -> io::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    // By hand, since the C library keeps two signals for itself, which somebody may have ignored all the same.
    let default = [0_u64; 4];
    for number in 1..=64 {
        // SAFETY: all zero is the kernel's own form of the default disposition; numbers that cannot be set are refused.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), std::ptr::null::<u64>(), 8)
        };
    }
    let action = SigAction::new(SigHandler::Handler(note_death), SaFlags::SA_NOCLDSTOP, SigSet::empty());
    // SAFETY: the handler stores one atomic. It is called in this process while it sleeps, or in a child before exec, which
    // shares this memory.
    unsafe { sigaction(Signal::SIGCHLD, &action) }?;
    Ok(())
}

/// Leads a session, adopts every descendant that loses its parent, and is called "keeper".
///
/// # Errors
/// EPERM: this process leads a group.
pub fn settle() -> io::Result<()> {
    nix::unistd::setsid()?;
    super::tree::adopt_orphans()?;
    // SAFETY: reads a string of at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"keeper".as_ptr()) };
    Ok(())
}

/// Puts /dev/null in place of the standard streams, and closes everything else except `keep`.
///
/// # Errors
/// No /dev/null; EMFILE.
pub fn close_all_but(keep: &OwnedFd) -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for number in 0..=2 {
        // SAFETY: nothing of this process uses its standard streams.
        if unsafe { libc::dup2(null.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    drop(null);
    let keep = keep.as_raw_fd();
    for (first, last) in [(3, keep - 1), (keep + 1, RawFd::MAX)] {
        if first <= last {
            // SAFETY: this process has only begun, and owns nothing but `keep`.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
    Ok(())
}

/// Is this a socket that keeps the bounds of messages, made by that process?
#[must_use]
pub fn is_socket_of(fd: &OwnedFd, maker: u32) -> bool {
    use nix::sys::socket::{SockType, getsockopt, sockopt};
    getsockopt(fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket)
        && getsockopt(fd, sockopt::PeerCredentials).is_ok_and(|peer| u32::try_from(peer.pid()) == Ok(maker))
}

/// Is that process this one's parent, still?
#[must_use]
pub fn is_child_of(parent: u32) -> bool {
    nix::unistd::Pid::parent().as_raw().unsigned_abs() == parent
}

/// What ended a sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Woken {
    /// The socket has a message, has hung up, or (if that was asked) takes one.
    pub socket: bool,
    /// The owner has ended.
    pub owner_died: bool,
}

/// Sleeps until something happens. A child that has died since the last [`death`] ends it at once.
#[must_use]
pub fn sleep(socket: &OwnedFd, read: bool, write: bool, owner: &OwnedFd) -> Woken {
    let wanted = if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 };
    let mut fds = [
        libc::pollfd { fd: socket.as_raw_fd(), events: wanted, revents: 0 },
        libc::pollfd { fd: owner.as_raw_fd(), events: libc::POLLIN, revents: 0 },
    ];
    let mut mask = SigSet::all();
    mask.remove(Signal::SIGCHLD);
    // SAFETY: two structs of our own, no deadline, and a mask that lives here.
    let count =
        unsafe { libc::ppoll(fds.as_mut_ptr(), 2, std::ptr::null(), std::ptr::from_ref(mask.as_ref())) };
    match count {
        ..=0 => Woken::default(),
        _ => Woken { socket: fds[0].revents != 0, owner_died: fds[1].revents != 0 },
    }
}

/// A child that has died: its number, its status as wait(2) has it, and what it used. Waits for one if `wait`.
///
/// This process has no children but programs it has started and orphans it has adopted, so whoever dies is its to reap.
pub fn death(wait: bool) -> Option<(u32, i32, Usage)> {
    if !wait && !CHILD_DIED.swap(false, Ordering::Relaxed) {
        return None;
    }
    let mut status = 0;
    // SAFETY: all zero is a usage of nothing.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let flags = if wait { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: writes to two places of our own.
        let pid = unsafe { libc::wait4(-1, &raw mut status, flags, &raw mut usage) };
        if pid > 0 {
            // There may be another one.
            CHILD_DIED.store(true, Ordering::Relaxed);
            let micros =
                |time: libc::timeval| time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_usec.unsigned_abs();
            let usage = Usage {
                user: micros(usage.ru_utime),
                sys: micros(usage.ru_stime),
                max_rss: usage.ru_maxrss.unsigned_abs(),
            };
            return Some((pid.unsigned_abs(), status, usage));
        }
        if pid == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}
