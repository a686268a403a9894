//! One descriptor that is ready when any of those it watches is.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// To be polled in place of what it watches.
#[derive(Debug)]
pub struct Watch(Epoll);

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches this one as well, for something to read.
    pub fn add(&self, fd: impl AsFd) {
        let _ = self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0));
    }

    /// Does not watch this one any more.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = self.0.delete(fd);
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}
