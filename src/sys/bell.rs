//! A bell: one rings it, another sleeps until it rings.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An event counter of the kernel.
#[derive(Debug)]
pub(crate) struct Bell(EventFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Rings, until it is hushed.
    pub(crate) fn ring(&self) {
        // One that rings already need not ring more.
        let _ = self.0.write(1);
    }

    pub(crate) fn hush(&self) {
        let _ = self.0.read();
    }

    /// For another process, which rings it by writing the number 1 as eight bytes.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
