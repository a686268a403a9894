//! How a run is to be: what its state goes by.

use super::halt::Halt;
use super::pace::Limit;
use super::retry::Retry;
use std::time::Duration;

/// A time since the start of the run.
pub(crate) type Time = Duration;

/// How many tasks may be at a slot at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// So many, all for one process.
    Fixed(usize),
    /// As many as its process can do in a few milliseconds.
    Paced,
    /// Each task has a process of its own; while they are short, one more is to follow by itself. It can be taken back.
    Next,
}

/// How a run is to be.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) slots: usize,
    pub(crate) depth: Depth,
    pub(crate) ordered: bool,
    /// So many tasks may be ahead of the one whose turn it is.
    pub(crate) window: u64,
    /// So many bytes of results may wait.
    pub(crate) most_held: usize,
    pub(crate) timeout: Option<Limit>,
    pub(crate) deadline: Option<Time>,
    pub(crate) grace: Duration,
    pub(crate) retry: Retry,
    pub(crate) halt: Option<Halt>,
    /// Between two starts.
    pub(crate) spacing: Duration,
}
