//! What the state decides, as orders to the shell.

use super::{JobId, WorkerId};
use crate::error::TaskError;
use std::ops::Range;
use std::sync::Arc;

/// What the shell is to do. It carries them out in order; those that ask are answered before the next event.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Start a process; answered by `State::ready`, `State::born_dead` or `State::spawn_failed`.
    Spawn(WorkerId),
    /// Offer these items in a slot of the worker's page, and send them.
    Send { worker: WorkerId, slot: u8, tag: u16, job: JobId, items: Range<u64> },
    /// Take back what is not started, but for `keep` items; answered by `State::taken_back`.
    TakeBack { worker: WorkerId, slot: u8, tag: u16, count: u32, halve: bool },
    /// Take back everything that is not started; answered by `State::frozen`.
    Freeze(WorkerId),
    /// Kill the process and its group.
    Kill(WorkerId),
    /// Close the worker's calls, so that it ends by itself.
    Retire(WorkerId),
    /// Tell the caller that these items have no result.
    Fail { job: JobId, items: Range<u64>, error: TaskError },
    /// Every item of the job has been answered or failed, and no more will come: forget it.
    Finish(JobId),
    /// Call `State::retry_spawn` after a while: the system had no more processes or descriptors to give.
    SpawnLater,
    /// The last worker of a closed pool is gone.
    Empty,
}

/// Why a worker is being killed.
#[derive(Debug, Clone)]
pub(crate) enum Why {
    /// An item ran over its deadline.
    Deadline,
    /// The job of the running item was cancelled.
    Cancelled,
    /// The pool ends.
    Terminated,
    /// It broke the protocol.
    Nonsense(Arc<str>),
}

/// A peer's bytes that make no sense; the worker is killed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nonsense(pub(crate) &'static str);
