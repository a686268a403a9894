//! Who this process is: its name, and whose child.

use crate::sys::life;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
struct Identity {
    name: String,
    path: Vec<u64>,
    parent_name: String,
    parent_pid: u32,
    lifeline: OwnedFd,
}

static IDENTITY: OnceLock<Identity> = OnceLock::new();
static CHILDREN: AtomicU64 = AtomicU64::new(0);

pub(crate) fn become_worker(
    name: String,
    path: Vec<u64>,
    parent_name: String,
    parent_pid: u32,
    lifeline: OwnedFd,
) {
    let _ = IDENTITY.set(Identity { name, path, parent_name, parent_pid, lifeline });
}

/// This process.
///
/// ```
/// # use procession_worker::current::current_process;
/// assert_eq!(current_process().name(), "MainProcess");
/// assert!(current_process().parent().is_none());
/// ```
#[must_use]
#[doc(alias = "parent_process")]
pub fn current_process() -> Current {
    Current { _private: () }
}

/// What a process knows of itself; see [`current_process`].
#[derive(Debug, Clone, Copy)]
pub struct Current {
    _private: (),
}

impl Current {
    /// The name it was given; `MainProcess` for one that was not started by this library.
    #[must_use]
    pub fn name(&self) -> &'static str {
        IDENTITY.get().map_or("MainProcess", |identity| &identity.name)
    }

    /// Its process id.
    #[must_use]
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Is it a worker of this library?
    #[must_use]
    pub fn is_worker(&self) -> bool {
        IDENTITY.get().is_some()
    }

    /// Who started it; `None` in a process that was not started by this library.
    #[must_use]
    pub fn parent(&self) -> Option<Parent> {
        IDENTITY.get().map(|identity| Parent { identity })
    }
}

/// The process that started this worker.
#[derive(Debug, Clone, Copy)]
pub struct Parent {
    identity: &'static Identity,
}

impl Parent {
    /// Its name.
    #[must_use]
    #[expect(
        clippy::misnamed_getters,
        reason = "a parent's name is what its child knows as the parent's name"
    )]
    pub fn name(&self) -> &'static str {
        &self.identity.parent_name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.identity.parent_pid
    }

    /// Does it live? Read from a pipe that only the parent holds open, so no other process can be mistaken for it.
    ///
    /// A worker is killed with its parent, so a task sees `false` for an instant at most.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !life::hung_up(self.identity.lifeline.as_fd())
    }
}

/// The numbers of a new child of this process, from the root of the tree down.
#[doc(hidden)]
#[must_use]
pub fn next_path() -> Vec<u64> {
    let mut path = IDENTITY.get().map(|identity| identity.path.clone()).unwrap_or_default();
    path.push(CHILDREN.fetch_add(1, Ordering::Relaxed) + 1);
    path
}
