//! File descriptors: the few calls that std has no safe word for.
#![allow(unsafe_code, reason = "the cellar")]

use super::memory::use_large_pages;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Appends up to `max` bytes to `out`; 0 means that no writer is left.
///
/// # Errors
/// What read(2) says; EINTR is tried again.
pub fn read(fd: impl AsFd, out: &mut Vec<u8>, max: usize) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    if out.capacity() - out.len() < max {
        out.reserve(max);
        use_large_pages(out);
    }
    loop {
        let spare = out.spare_capacity_mut();
        // SAFETY: the buffer is `spare`, ours and of that length; the kernel only writes to it.
        let n = unsafe { libc::read(fd, spare.as_mut_ptr().cast(), spare.len().min(max)) };
        match usize::try_from(n) {
            Ok(n) => {
                // SAFETY: the kernel has just filled these `n` bytes of the spare room.
                unsafe { out.set_len(out.len() + n) };
                return Ok(n);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// How many bytes lie unread in a pipe.
///
/// # Errors
/// What ioctl(2) says.
pub fn unread(fd: impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to the place given, which is ours.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(count).unwrap_or(0)) }
}

/// Can it be read within so many milliseconds (or will it never be)? An interruption is a no.
pub fn readable_within(fd: impl AsFd, millis: u16) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(millis)).is_ok_and(|ready| ready > 0)
}

/// Lets a pipe hold a megabyte, if the system allows it; for payloads of many times that.
pub fn enlarge_pipe(fd: impl AsFd) {
    const MEGABYTE: libc::c_int = 1 << 20;
    let fd = fd.as_fd();
    if fcntl(fd, FcntlArg::F_GETPIPE_SZ).is_ok_and(|size| size < MEGABYTE) {
        let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(MEGABYTE));
    }
}

/// Takes ownership of a descriptor that the parent passed by number, and marks it close-on-exec.
///
/// # Errors
/// No such descriptor is open, or its number is one of the standard streams'.
pub fn claim(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only for the check below, which fails when nothing is open there.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, the parent passed it to this process for this purpose, and each number is claimed once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every inherited descriptor from 3 up except `keep`.
///
/// Inherited means: without close-on-exec. What constructors of libraries opened for themselves (with it) stays.
pub fn close_strays(keep: &[RawFd]) {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<RawFd> =
        open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers {
        if number <= 2 || keep.contains(&number) {
            continue;
        }
        // SAFETY: only for the check; a number that is not open (the directory's own) fails it.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if fcntl(fd, FcntlArg::F_GETFD).is_ok_and(|flags| flags & FdFlag::FD_CLOEXEC.bits() == 0) {
            // SAFETY: it came from the parent, which did not mean it for us, so nothing in this process owns it.
            unsafe { libc::close(number) };
        }
    }
}

/// Opens /dev/null in place of each standard stream that is closed, as std's runtime does before `main`.
pub fn open_standard_streams() {
    for number in 0..=2 {
        // SAFETY: only for the check.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if fcntl(fd, FcntlArg::F_GETFD).is_err() {
            // SAFETY: a constant path; the lowest free number is `number`, since the ones below are open.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        }
    }
}

/// Waits until `fd` takes more.
///
/// # Errors
/// What poll(2) says; EINTR is tried again.
pub fn wait_writable(fd: impl AsFd) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            done => return Ok(done.map(drop)?),
        }
    }
}

/// Makes reads and writes of `fd` return at once.
///
/// # Errors
/// What fcntl(2) says.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd();
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Makes reads and writes of `fd` wait again, and takes away whatever else whoever had it has set (`O_ASYNC`, `O_APPEND`).
///
/// # Errors
/// What fcntl(2) says.
pub fn set_blocking(fd: impl AsFd) -> io::Result<()> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}
