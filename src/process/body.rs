//! The process of a worker: a child of this process, or a keeper's.

use crate::exit::Exit;
use crate::keeper::{Keeper, Running};
use crate::sys::SIGKILL;
use crate::sys::bell::Bell;
use crate::sys::pidfd::PidFd;
use crate::sys::wait;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What there is to hold of it.
#[derive(Debug)]
pub(crate) enum Body {
    Child(PidFd),
    Kept(Kept),
}

/// One that a keeper has started, and sees to with all that it starts.
#[derive(Debug)]
pub(crate) struct Kept {
    running: Running,
    /// Rings when nothing is left of it: the keeper is the one who knows.
    over: Arc<Bell>,
    keeper: Option<Arc<Keeper>>,
}

impl Kept {
    /// # Errors
    /// EMFILE; then it is killed.
    pub(crate) fn new(running: Running, keeper: Arc<Keeper>) -> io::Result<Self> {
        let over = Arc::new(Bell::new()?);
        let bell = Arc::clone(&over);
        running.on_end(move |_| bell.ring());
        Ok(Self { running, over, keeper: Some(keeper) })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let keeper = self.keeper.take();
        // The last one to let go of a keeper waits for its end, and on the reactor's thread nobody may.
        if crate::reactor::reactor().is_ok_and(crate::reactor::Reactor::is_here) {
            let _ = std::thread::Builder::new().spawn(move || drop(keeper));
        }
    }
}

impl Body {
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Child(process) => process.pid(),
            Self::Kept(kept) => kept.running.pid(),
        }
    }

    /// Signals the process alone; one that has ended is no error.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self {
            Self::Child(process) => process.signal(signal),
            Self::Kept(kept) => kept.running.signal(signal),
        }
    }

    /// Kills the process and what it has started: its group; a keeper finds everything.
    pub(crate) fn kill_all(&self) {
        match self {
            Self::Child(process) => process.kill_group(),
            Self::Kept(kept) => {
                let _ = kept.running.kill();
                // Should the keeper take its time: this one at least.
                let _ = kept.running.signal(SIGKILL);
            }
        }
    }

    /// Kills it and waits until it is gone, where nobody else watches it.
    pub(crate) fn bury(&self) {
        self.kill_all();
        match self {
            Self::Child(process) => {
                while matches!(process.reap(), Ok(None)) {
                    wait::ready([(process.as_fd(), false)], None);
                }
            }
            // The keeper sees to it; to wait for that here could be to wait for the thread that waits.
            Self::Kept(_) => {}
        }
    }

    /// How it ended, once nothing is left of it; `None` before.
    pub(crate) fn reap(&self) -> Option<Exit> {
        match self {
            Self::Child(process) => match process.reap() {
                Ok(ended) => ended.map(Exit::from),
                Err(_) => Some(Exit::UNKNOWN),
            },
            Self::Kept(kept) => {
                // If the keeper was killed, it was too, and nobody could ask how it ended.
                kept.running.ended().map(|ended| ended.exit().unwrap_or(Exit::Signal(SIGKILL)))
            }
        }
    }
}

impl AsFd for Body {
    /// Readable once it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Child(process) => process.as_fd(),
            Self::Kept(kept) => kept.over.as_fd(),
        }
    }
}

/// The keeper of all workers of this program that are to have one; it ends with the last of them.
///
/// # Errors
/// As [`Keeper::new`].
pub(crate) fn keeper() -> Result<Arc<Keeper>, crate::error::SpawnError> {
    static OURS: Mutex<Weak<Keeper>> = Mutex::new(Weak::new());
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(keeper) = ours.upgrade().filter(|keeper| keeper.is_alive()) {
        return Ok(keeper);
    }
    let fresh = Arc::new(Keeper::new()?);
    *ours = Arc::downgrade(&fresh);
    Ok(fresh)
}
