//! Birth, by `posix_spawn`: its cost does not grow with the parent's memory, and threads of the parent do not matter.
#![allow(unsafe_code, reason = "the cellar")]

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The very file that runs now, even if it was replaced or removed on disk.
const SELF: &std::ffi::CStr = c"/proc/self/exe";

/// Where one of the child's standard streams goes.
#[derive(Debug)]
pub(crate) enum Stream {
    Inherit,
    Null,
    Fd(OwnedFd),
}

/// A descriptor out of the standard streams' way: a program that runs with some of them closed gets their numbers.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    let raised = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raised) })
}

/// A pipe: read end, write end; both closed in whatever is executed.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((above_stdio(read)?, above_stdio(write)?))
}

/// Another open file of the same pipe: owner and signal settings belong to the open file, not to the pipe.
pub(crate) fn reopen_read_end(pipe: impl AsFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    above_stdio(nix::fcntl::open(path.as_str(), flags, Mode::empty())?)
}

/// Executes this program again: in a process group of its own, with every signal blocked (so that no terminal can stop
/// it half born; it unblocks them itself) and with the descriptors in `pass` under the numbers they have here.
pub(crate) fn spawn_self(
    arguments: &[CString],
    environment: &[CString],
    streams: &[Stream; 3],
    pass: &[&dyn AsRawFd],
) -> io::Result<u32> {
    let mut actions = PosixSpawnFileActions::init()?;
    for (number, stream) in (0..).zip(streams) {
        match stream {
            Stream::Inherit => {}
            Stream::Null => actions.add_open(number, c"/dev/null", OFlag::O_RDWR, Mode::empty())?,
            Stream::Fd(fd) => actions.add_dup2(fd.as_raw_fd(), number)?,
        }
    }
    for fd in pass {
        // Onto itself: that clears close-on-exec in the child alone.
        actions.add_dup2(fd.as_raw_fd(), fd.as_raw_fd())?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETPGROUP | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigmask(&SigSet::all())?;
    let pid = posix_spawn(SELF, &actions, &attributes, arguments, environment)?;
    u32::try_from(pid.as_raw()).map_err(io::Error::other)
}

/// Executes this program again as a keeper: with every signal blocked, and `socket` under the number it has here. The session
/// it makes itself.
pub(crate) fn spawn_keeper(
    arguments: &[CString],
    environment: &[CString],
    socket: &OwnedFd,
) -> io::Result<u32> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_dup2(socket.as_raw_fd(), socket.as_raw_fd())?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    attributes.set_sigmask(&SigSet::all())?;
    let pid = posix_spawn(SELF, &actions, &attributes, arguments, environment)?;
    u32::try_from(pid.as_raw()).map_err(io::Error::other)
}
