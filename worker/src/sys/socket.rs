//! Unix sockets that keep the bounds of messages and carry descriptors.
#![allow(unsafe_code, reason = "the cellar")]

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The kernel passes so many descriptors in one message, and no more.
pub const AT_ONCE: usize = 253;

/// Two connected sockets, closed in whatever is executed; a message arrives whole or not at all.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message with descriptors, at most [`AT_ONCE`]; no signal if nobody is there any more.
///
/// # Errors
/// `WouldBlock` when the peer's buffer is full and `wait` is not set; EPIPE, ETOOMANYREFS, EMSGSIZE.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[RawFd], wait: bool) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
    loop {
        match sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Says no more: the peer finds the end behind what was sent.
pub fn end(socket: impl AsFd) {
    let _ = nix::sys::socket::shutdown(socket.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Write);
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
                if error.kind() != io::ErrorKind::Interrupted {
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
