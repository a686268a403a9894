//! Unix sockets that keep the bounds of messages and carry descriptors, and streams beside them.
#![allow(unsafe_code, reason = "the cellar")]

use super::memory::use_large_pages;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socketpair, sockopt,
};
use nix::sys::time::TimeSpec;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

/// The kernel passes so many descriptors in one message, and no more.
pub const AT_ONCE: usize = 253;

/// Two connected sockets, closed in whatever is executed; a message arrives whole or not at all.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Two connected sockets without bounds, closed in whatever is executed.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Is it a socket as [`pair`] makes them? What a peer calls one may be anything.
pub fn is_of_a_pair(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    socket::getsockopt(&fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket)
        && socket::getsockname::<UnixAddr>(fd.as_raw_fd()).is_ok()
}

/// Sends one message with descriptors, at most [`AT_ONCE`]; no signal if nobody is there any more.
///
/// # Errors
/// `WouldBlock` when the peer's buffer is full and `wait` is not set; EPIPE, ETOOMANYREFS, EMSGSIZE.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[RawFd], wait: bool) -> io::Result<()> {
    send_parts(socket, &[IoSlice::new(bytes)], fds, wait)
}

/// [`send`] of a message that lies in several places.
///
/// # Errors
/// As [`send`].
pub fn send_parts(socket: impl AsFd, parts: &[IoSlice<'_>], fds: &[RawFd], wait: bool) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
    loop {
        match sendmsg::<()>(socket.as_fd().as_raw_fd(), parts, control, flags, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The next message, without taking it; 0 when there will be none. For all who look, it stays the next one.
///
/// # Errors
/// `WouldBlock` when there is none yet.
pub fn peek(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    Ok(socket::recv(fd.as_fd().as_raw_fd(), buffer, flags)?)
}

/// Says no more: the peer finds the end behind what was sent.
pub fn end(socket: impl AsFd) {
    let _ = socket::shutdown(socket.as_fd().as_raw_fd(), socket::Shutdown::Write);
}

/// Hears no more: what the peer has said by now can be received, and it cannot say anything else (EPIPE).
pub fn hear_no_more(socket: impl AsFd) {
    let _ = socket::shutdown(socket.as_fd().as_raw_fd(), socket::Shutdown::Read);
}

/// What came of a look into a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the message; 0 when the peer has closed its end.
    pub len: usize,
    /// Some of its descriptors found no place in this process.
    pub fds_lost: bool,
}

/// Receives one message: its bytes into `buffer`, its descriptors, closed in whatever is executed, behind those in `fds`.
///
/// By hand, since nix gives up on a message whose descriptors did not all find a place, and so loses those that did.
///
/// # Errors
/// `WouldBlock` when there is none and `wait` is not set; `InvalidData` when it is longer than `buffer`.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    wait: bool,
) -> io::Result<Received> {
    // Words, for the alignment of the headers in it: a header of 16 bytes, and 253 numbers of 4.
    let mut control = [0_u64; 2 + AT_ONCE.div_ceil(2)];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zero is a message header without anything in it.
    let mut head: libc::msghdr = unsafe { std::mem::zeroed() };
    head.msg_iov = &raw mut part;
    head.msg_iovlen = 1;
    head.msg_control = control.as_mut_ptr().cast();
    let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
    let len = loop {
        head.msg_controllen = size_of_val(&control);
        // SAFETY: the header points to `buffer` and `control`, both ours and of the lengths it says.
        let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut head, flags) };
        match usize::try_from(len) {
            Ok(len) => break len,
            Err(_) => {
                let error = io::Error::last_os_error();
                // The peer is gone and has not read everything, which is told once; what it had sent is here all the same.
                let reset = error.kind() == io::ErrorKind::ConnectionReset;
                if error.kind() != io::ErrorKind::Interrupted && !reset {
                    return Err(error);
                }
            }
        }
    };
    // SAFETY: the kernel has just filled the header.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const head) };
    // SAFETY: null, or a whole header inside `control`.
    while let Some(part) = unsafe { at.as_ref() } {
        if (part.cmsg_level, part.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: integers only.
            let head_len = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: `part` lies in `control`, and its data behind it.
            let data = unsafe { libc::CMSG_DATA(at) }.cast::<RawFd>();
            for n in 0..(part.cmsg_len - head_len) / size_of::<RawFd>() {
                // SAFETY: the kernel says that so many numbers lie there; nothing else is claimed of their alignment.
                let number = unsafe { data.add(n).read_unaligned() };
                // SAFETY: the kernel has just made this descriptor for us.
                fds.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        // SAFETY: both are of this message; it looks no further than the header says.
        at = unsafe { libc::CMSG_NXTHDR(&raw const head, at) };
    }
    if head.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message is longer than its protocol allows",
        ));
    }
    Ok(Received { len, fds_lost: head.msg_flags & libc::MSG_CTRUNC != 0 })
}

/// Writes to a stream what goes in; no signal if nobody is there any more.
///
/// # Errors
/// `WouldBlock` when nothing does and `wait` is not set; EPIPE.
pub fn write(stream: impl AsFd, bytes: &[u8], wait: bool) -> io::Result<usize> {
    let flags = MsgFlags::MSG_NOSIGNAL | if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
    loop {
        match socket::send(stream.as_fd().as_raw_fd(), bytes, flags) {
            Ok(n) => return Ok(n),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Appends up to `max` bytes of a stream to `out`, and closes descriptors that came with them; 0 at its end.
///
/// # Errors
/// `WouldBlock` when there are none and `wait` is not set; ECONNRESET; ENOTSOCK.
pub fn read(stream: impl AsFd, out: &mut Vec<u8>, max: usize, wait: bool) -> io::Result<usize> {
    if out.capacity() - out.len() < max {
        out.reserve(max);
        use_large_pages(out);
    }
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    loop {
        let spare = out.spare_capacity_mut();
        let len = spare.len().min(max);
        // SAFETY: the buffer is `spare`, ours and at least of that length; the kernel only writes to it.
        let n = unsafe { libc::recv(stream.as_fd().as_raw_fd(), spare.as_mut_ptr().cast(), len, flags) };
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

/// Waits until a descriptor can be read (or written, if asked for), or its peer is gone; false at the deadline.
///
/// # Errors
/// ENOMEM.
pub fn wait(fd: impl AsFd, write: bool, deadline: Option<Instant>) -> io::Result<bool> {
    let mut polled = [PollFd::new(fd.as_fd(), if write { PollFlags::POLLOUT } else { PollFlags::POLLIN })];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match ppoll(&mut polled, left.map(TimeSpec::from), None) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (left, right) = pair().unwrap();
        let files: Vec<File> = (0..AT_ONCE).map(|_| File::open("/dev/null").unwrap()).collect();
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        send(&left, b"hello", &numbers, false).unwrap();
        send(&left, b"", &numbers[..1], false).unwrap();
        let (mut buffer, mut fds) = ([0; 8], Vec::new());
        let got = receive(&right, &mut buffer, &mut fds, false).unwrap();
        assert_eq!(
            (got, &buffer[..5], fds.len()),
            (Received { len: 5, fds_lost: false }, &b"hello"[..], AT_ONCE)
        );
        assert_eq!(receive(&right, &mut buffer, &mut fds, true).unwrap().len, 0);
        assert_eq!(fds.len(), AT_ONCE + 1);
        let error = receive(&right, &mut buffer, &mut fds, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
