//! Many descriptors, of which one asks who can be read.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::AsFd;

/// Descriptors by number.
#[derive(Debug)]
pub struct Crowd(Epoll);

impl Crowd {
    /// Nobody yet.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// One more.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC (fs.epoll.max_user_watches).
    pub fn add(&self, fd: impl AsFd, number: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number))?)
    }

    /// One less.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = self.0.delete(fd);
    }

    /// Waits until some can be read or have hung up; their numbers, in the order in which they became so, and whether they
    /// have hung up.
    pub fn wait(&self, ready: &mut Vec<(u64, bool)>) {
        let mut events = [EpollEvent::empty(); 64];
        // Interrupted, it has nothing to tell.
        let count = self.0.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        ready.clear();
        ready.extend(
            events[..count].iter().map(|event| (event.data(), event.events().contains(EpollFlags::EPOLLHUP))),
        );
    }
}
