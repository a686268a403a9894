//! The socket that a service says "ready" to: what systemd has in `NOTIFY_SOCKET`, from its side.
#![allow(unsafe_code, reason = "the cellar")]

use procession_worker::sys::door;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// More than any message of this kind has.
const LONGEST: usize = 4096;

/// A socket without a name in any file system: nothing of it is left when we are killed. Its name is known only to the one it
/// is for, and what another user says there is not heard.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: UnixDatagram,
    name: String,
}

impl Notify {
    pub(crate) fn new() -> io::Result<Self> {
        let chance = || RandomState::new().build_hasher().finish();
        let name = format!("procession/notify/{:016x}{:016x}", chance(), chance());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_nonblocking(true)?;
        let on: libc::c_int = 1;
        // SAFETY: `on` outlives the call, and its size is told.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PASSCRED,
                (&raw const on).cast(),
                4,
            )
        };
        if done == 0 { Ok(Self { socket, name }) } else { Err(io::Error::last_os_error()) }
    }

    /// What `NOTIFY_SOCKET` is to be.
    pub(crate) fn address(&self) -> String {
        format!("@{}", self.name)
    }

    /// The next message, if any; those of other users are passed over. Descriptors that come along are closed.
    pub(crate) fn next(&self) -> Option<String> {
        loop {
            let mut bytes = [0_u8; LONGEST];
            let mut control = [0_u64; 64];
            let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            // SAFETY: a zeroed msghdr is valid, and is filled below.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            // SAFETY: every pointer in `message` is to a local that outlives the call, with its size.
            let came = unsafe {
                libc::recvmsg(
                    self.socket.as_raw_fd(),
                    &raw mut message,
                    libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
                )
            };
            let len = usize::try_from(came).ok()?;
            if sender(&message).is_some_and(|uid| uid == door::own_uid() || uid == 0) {
                return Some(String::from_utf8_lossy(&bytes[..len]).into_owned());
            }
        }
    }
}

/// Who has sent it, as the kernel says; and whatever descriptors came along are closed.
fn sender(message: &libc::msghdr) -> Option<u32> {
    let mut uid = None;
    // SAFETY: the kernel has filled `message`, and its control buffer lives in the caller.
    unsafe {
        let mut part = libc::CMSG_FIRSTHDR(message);
        while !part.is_null() {
            let data = libc::CMSG_DATA(part);
            if (*part).cmsg_level == libc::SOL_SOCKET && (*part).cmsg_type == libc::SCM_CREDENTIALS {
                uid = Some(data.cast::<libc::ucred>().read_unaligned().uid);
            } else if (*part).cmsg_level == libc::SOL_SOCKET && (*part).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*part).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<libc::c_int>();
                for at in 0..count {
                    libc::close(data.cast::<libc::c_int>().add(at).read_unaligned());
                }
            }
            part = libc::CMSG_NXTHDR(message, part);
        }
    }
    uid
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_there_is_heard() {
        let notify = Notify::new().expect("a socket");
        assert_eq!(notify.next(), None);
        let address = SocketAddr::from_abstract_name(&notify.address()[1..]).expect("a name");
        let client = UnixDatagram::unbound().expect("a socket");
        client.send_to_addr(b"READY=1\nSTATUS=up", &address).expect("it listens");
        assert_eq!(notify.next().as_deref(), Some("READY=1\nSTATUS=up"));
        assert_eq!(notify.next(), None);
    }
}
