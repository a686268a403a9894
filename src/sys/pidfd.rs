//! A process by descriptor: it cannot be mistaken for another that got its number later.
#![allow(unsafe_code, reason = "the cellar")]

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `PIDFD_SIGNAL_PROCESS_GROUP`, Linux 6.9.
const PROCESS_GROUP: libc::c_uint = 1 << 2;

/// What the system says of a process that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Killed(i32),
}

impl Ended {
    /// A status as wait(2) has it, and whether a core was dumped.
    pub(crate) fn from_status(status: i32) -> (Self, bool) {
        if libc::WIFSIGNALED(status) {
            (Self::Killed(libc::WTERMSIG(status)), libc::WCOREDUMP(status))
        } else {
            (Self::Exited(libc::WEXITSTATUS(status)), false)
        }
    }
}

/// A child of this process that is the leader of a process group; or a keeper's.
#[derive(Debug)]
pub(crate) struct PidFd {
    fd: OwnedFd,
    pid: u32,
}

impl PidFd {
    /// Opens a child that has not been waited for. Should that fail, the child is ended: nobody could supervise it.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        Self::try_open(pid).inspect_err(|_| {
            if let Ok(pid) = i32::try_from(pid) {
                // SAFETY: integers only. The number is certain here: a child keeps it until its parent waits for it.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            }
        })
    }

    /// The descriptor of somebody else's child, as that one has sent it.
    pub(crate) const fn adopt(fd: OwnedFd, pid: u32) -> Self {
        Self { fd, pid }
    }

    fn try_open(pid: u32) -> io::Result<Self> {
        // SAFETY: takes two integers, touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match RawFd::try_from(fd) {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(fd) if fd >= 0 => Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, pid }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    fn send(&self, signal: i32, flags: libc::c_uint) -> io::Result<()> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: integers and a null pointer, which asks for the signal information that kill(2) would make.
        let done = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), flags)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Signals the process alone. One that has ended is no error: it needs no signal any more.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        self.send(signal, 0).or_else(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(()),
            _ => Err(error),
        })
    }

    /// Kills the process and all of its group: what its task started and did not move elsewhere.
    pub(crate) fn kill_group(&self) {
        if self.send(libc::SIGKILL, PROCESS_GROUP).is_ok() {
            return;
        }
        // An older kernel, or the leader is a zombie already. Its number, and with it the group's, stays taken until
        // it is reaped, and we alone reap it.
        if self.is_unreaped()
            && let Ok(group) = i32::try_from(self.pid)
        {
            // SAFETY: takes two integers, touches no memory.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = self.send(libc::SIGKILL, 0);
    }

    fn is_unreaped(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::PIDFd(self.fd.as_fd()), flags).is_ok()
    }

    /// How the process ended, once; `None` while it lives.
    ///
    /// # Errors
    /// ECHILD: somebody else in this program has waited for it, or the program ignores SIGCHLD.
    pub(crate) fn reap(&self) -> io::Result<Option<Ended>> {
        loop {
            return match waitid(Id::PIDFd(self.fd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
                Ok(WaitStatus::Exited(_, code)) => Ok(Some(Ended::Exited(code))),
                Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Some(Ended::Killed(signal as i32))),
                Ok(_) => Ok(None),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }
}

/// Opens any process, to be told of its end and for nothing else.
///
/// # Errors
/// ESRCH: there is none of that number. EMFILE, ENFILE, ENOMEM.
pub(crate) fn open_stranger(pid: u32) -> io::Result<OwnedFd> {
    PidFd::try_open(pid).map(|process| process.fd)
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A signal's name, if it has one.
pub(crate) fn signal_name(number: i32) -> Option<&'static str> {
    nix::sys::signal::Signal::try_from(number).ok().map(nix::sys::signal::Signal::as_str)
}
