//! Processes below this one: who they are, for certain, and signals that reach nobody else.
#![allow(unsafe_code, reason = "the cellar")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// Opens a process by its number. It cannot be mistaken for a later one with that number.
///
/// # Errors
/// ESRCH when there is none; EMFILE, ENFILE, ENOMEM.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers, touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Is this process there, dead or alive, and not yet waited for? Then nobody else has its number.
#[must_use]
pub fn is_there(process: &OwnedFd) -> bool {
    signal(process, 0).err().and_then(|error| error.raw_os_error()) != Some(libc::ESRCH)
}

/// Signals a process.
///
/// # Errors
/// ESRCH when it is not there any more; EPERM.
pub fn signal(process: &OwnedFd, signal: i32) -> io::Result<()> {
    let fd = process.as_raw_fd();
    // SAFETY: integers and a null pointer, which asks for the signal information that kill(2) would make.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Signals a child of this process that nobody has waited for and nobody else can: its number is certain.
pub fn signal_child(pid: u32, signal: i32) {
    if let Ok(pid) = libc::pid_t::try_from(pid)
        && pid > 0
    {
        // SAFETY: integers only.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Has this process ended, waited for or not?
#[must_use]
pub fn has_ended(process: &OwnedFd) -> bool {
    !wait_end(process, 0)
}

/// Waits until the process has ended; true if it has not within so many milliseconds.
#[must_use]
pub fn wait_end(process: &OwnedFd, millis: i32) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            ended => return ended == Ok(0),
        }
    }
}

/// Reaps a process if it is a zombie, and ours.
pub fn bury(process: &OwnedFd) {
    // SAFETY: integers, and two nulls for what we do not want to know.
    unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            process.as_raw_fd(),
            std::ptr::null::<libc::siginfo_t>(),
            libc::WEXITED | libc::WNOHANG,
            std::ptr::null::<libc::rusage>(),
        )
    };
}

/// The hard limit of real-time work, in microseconds, of a process or of this one (0): what children inherit, what exec and
/// setsid leave alone, what nobody can raise, and what hardly anybody has ever lowered. That makes it a mark.
#[must_use]
pub fn tag(pid: u32) -> Option<u64> {
    let pid = libc::pid_t::try_from(pid).ok()?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: sets nothing, and writes one struct of our own.
    let done = unsafe { libc::prlimit(pid, libc::RLIMIT_RTTIME, std::ptr::null(), &raw mut limit) };
    (done == 0).then_some(limit.rlim_max)
}

/// The parent of a process.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Appends the children of a process, dead ones included.
pub fn children(pid: u32, out: &mut Vec<u32>) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        if let Ok(list) = fs::read_to_string(task.path().join("children")) {
            out.extend(list.split_ascii_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
    }
}

/// Every process there is, by number.
#[must_use]
pub fn everybody() -> Vec<u32> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// From now on orphans among the descendants of this process become its children.
///
/// # Errors
/// None is known.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: takes a number.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The children of this very thread, which must be the only one: a list that is open all the time.
#[derive(Debug)]
pub struct OwnChildren {
    list: File,
    text: Vec<u8>,
}

impl OwnChildren {
    /// Opens the list.
    ///
    /// # Errors
    /// ENOENT: the kernel does not keep such lists (`CONFIG_PROC_CHILDREN`), or /proc is not mounted.
    pub fn open() -> io::Result<Self> {
        let list = File::open("/proc/thread-self/children")?;
        Ok(Self { list, text: vec![0; 4096] })
    }

    /// Reads it into `out`. None is missed: a child leaves the list only when this thread reaps it.
    pub fn read(&mut self, out: &mut Vec<u32>) {
        out.clear();
        let mut len = 0;
        while let Ok(more) = self.list.read_at(&mut self.text[len..], len as u64) {
            len += more;
            if more == 0 {
                break;
            }
            if len == self.text.len() {
                self.text.resize(2 * len, 0);
            }
        }
        let words = self.text[..len].split(u8::is_ascii_whitespace);
        out.extend(words.filter_map(|word| std::str::from_utf8(word).ok()?.parse::<u32>().ok()));
    }
}
