//! epoll and a wake, by tokens.

use super::wait;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What to wait for at a descriptor; a hang-up is always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Nothing,
    Read,
    Write,
    Both,
}

impl Interest {
    const fn flags(self) -> EpollFlags {
        match self {
            // A hang-up is told in any case; once is enough.
            Self::Nothing => EpollFlags::EPOLLONESHOT,
            Self::Read => EpollFlags::EPOLLIN,
            Self::Write => EpollFlags::EPOLLOUT,
            Self::Both => EpollFlags::EPOLLIN.union(EpollFlags::EPOLLOUT),
        }
    }
}

/// The wake's token, apart from all others.
const WAKE: u64 = u64::MAX;

/// Waits for descriptors, a deadline, or a wake.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    wake: EventFd,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self { epoll, wake })
    }

    pub(crate) fn add(&self, fd: impl AsFd, interest: Interest, token: u64) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(interest.flags(), token))?)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, interest: Interest, token: u64) {
        let _ = self.epoll.modify(fd, &mut EpollEvent::new(interest.flags(), token));
    }

    pub(crate) fn remove(&self, fd: impl AsFd) {
        let _ = self.epoll.delete(fd);
    }

    /// Ends the wait that is under way, or the next one.
    pub(crate) fn wake(&self) {
        let _ = self.wake.write(1);
    }

    /// Waits, and appends the tokens of what is ready.
    pub(crate) fn wait(&self, deadline: Option<Instant>, ready: &mut Vec<u64>) {
        let timeout = match deadline {
            None => EpollTimeout::NONE,
            Some(deadline) => {
                let left = Duration::from_millis(wait::millis_until(deadline).into());
                EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
            }
        };
        let mut events = [EpollEvent::empty(); 256];
        // Interrupted, it has nothing to tell.
        let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
        for event in &events[..count] {
            if event.data() == WAKE {
                let _ = self.wake.read();
            } else {
                ready.push(event.data());
            }
        }
    }
}
