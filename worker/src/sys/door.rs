//! Named sockets: who knocks, and how to.

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect as connect_to, getsockopt,
    setsockopt, sockopt,
};
use nix::sys::time::TimeVal;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Who is at the other end: of a connected socket who connected, of one that connected who listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Process.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// As the kernel noted it down when the two were connected.
///
/// # Errors
/// ENOTSOCK, ENOTCONN.
pub fn credentials(socket: impl AsFd) -> io::Result<Credentials> {
    let found = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(Credentials { pid: found.pid().unsigned_abs(), uid: found.uid(), gid: found.gid() })
}

/// The PID namespace in which this process's number means it: an inode; 0 without /proc.
#[must_use]
pub fn pid_space() -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |space| space.ino())
}

/// The effective user of this process.
#[must_use]
pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The name without its mark, if it is in the abstract namespace: it begins with `@`, or with a zero byte.
#[must_use]
pub fn abstract_name(name: &Path) -> Option<&OsStr> {
    let bytes = name.as_os_str().as_bytes();
    bytes.strip_prefix(b"@").or_else(|| bytes.strip_prefix(b"\0")).map(OsStr::from_bytes)
}

/// How many may wait to be let in, from now on.
///
/// # Errors
/// What listen(2) says.
pub fn set_backlog(listener: impl AsFd, backlog: u32) -> io::Result<()> {
    let backlog = i32::try_from(backlog).ok().and_then(|n| Backlog::new(n).ok()).unwrap_or(Backlog::MAXCONN);
    Ok(socket::listen(&listener, backlog)?)
}

/// Knocks at the door of that name, and waits at most so long for a place in front of it.
///
/// By hand, since a connect that does not wait is refused for good when the place is taken, and one that waits has no end.
///
/// # Errors
/// ENOENT, ECONNREFUSED: nobody listens. `WouldBlock`: not in time. EACCES.
pub fn connect(name: &Path, deadline: Option<Instant>) -> io::Result<OwnedFd> {
    let address = match abstract_name(name) {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(name)?,
    };
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    loop {
        if let Some(deadline) = deadline {
            // Nothing at all would mean without end.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
            setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(seconds, left.subsec_micros().into()))?;
        }
        match connect_to(socket.as_fd().as_raw_fd(), &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
