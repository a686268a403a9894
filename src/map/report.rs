//! What a run says of itself.

use super::inbox::{Event, Inbox};
use super::spill::Spill;
use crate::cause::Cause;
use crate::error::SpawnError;
use crate::keeper::Usage;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime};

/// What a task has printed: in memory, or on disk if it was much.
#[derive(Debug)]
pub struct Output(pub(super) Spill);

impl Output {
    /// How many bytes it is.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.0.len()
    }

    /// Has it printed nothing?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes all of it, in pieces: it need not fit into memory.
    ///
    /// # Errors
    /// What `out` says; what reading the disk says.
    pub fn write_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.0.write_to(out)
    }

    /// All of it.
    ///
    /// # Errors
    /// What reading the disk says.
    pub fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        self.0.bytes()
    }
}

/// What has become of one task.
#[derive(Debug)]
pub struct Report {
    /// Its number, from 1, by the order of the tasks.
    pub seq: u64,
    /// Itself.
    pub task: Box<[u8]>,
    /// Why it ended: [`Cause::Ok`] if it went well, [`Cause::Skipped`] if it was not begun.
    pub cause: Cause,
    /// How often it was tried to the end.
    pub attempts: u32,
    /// The slot it ran in last, from 1.
    pub slot: usize,
    /// The process it ran in last.
    pub pid: Option<u32>,
    /// When its last attempt began.
    pub started: SystemTime,
    /// How long that took.
    pub wall: Duration,
    /// What its process used; nothing in a long-lived one.
    pub usage: Usage,
    /// How many orphans its process left, which were killed.
    pub leaked: u32,
    /// What it printed.
    pub out: Output,
    /// What it complained.
    pub err: Output,
    /// It is not to blame: the run was ended before it had.
    pub cut: bool,
    pub(super) weight: usize,
}

/// Whole lines of a task that still runs, with [`Print::Lines`](super::Print::Lines).
#[derive(Debug)]
pub struct Piece {
    /// The task's number, from 1.
    pub seq: u64,
    /// The task.
    pub task: Box<[u8]>,
    /// The slot it runs in, from 1.
    pub slot: usize,
    /// Are they of its standard error?
    pub is_err: bool,
    /// The lines.
    pub bytes: Vec<u8>,
}

/// One thing to be told.
#[derive(Debug)]
pub enum News {
    /// Lines of a task that still runs.
    Piece(Piece),
    /// A task is done with.
    Report(Report),
    /// There is nothing more for the moment: time to flush.
    Idle,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// All tasks are done with.
    Complete,
    /// Enough had failed, or succeeded.
    Halted,
    /// Its deadline passed.
    Deadline,
    /// It was asked to by [`Remote`]; the signal that was named there.
    Asked(i32),
}

/// What has come of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Tasks that went well.
    pub ok: u64,
    /// Tasks that did not.
    pub failed: u64,
    /// Those among them that have killed too many processes.
    pub poisoned: u64,
    /// Attempts that were made once more.
    pub retried: u64,
    /// Tasks that were taken in and not done, since the run ended before.
    pub skipped: u64,
    /// Why it ended.
    pub ending: Ending,
}

/// Why a run failed; never because of a task.
#[derive(Debug)]
#[non_exhaustive]
pub enum MapError {
    /// The program cannot be started at all, nor a limit set; or the keeper was killed.
    Spawn(SpawnError),
    /// The tasks cannot be read on.
    Input(io::Error),
    /// What programs print can be kept nowhere, or whoever took the reports could not go on.
    Output(io::Error),
    /// The system refuses something else.
    System(io::Error),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => write!(f, "{error}"),
            Self::Input(error) => write!(f, "cannot read tasks: {error}"),
            Self::Output(error) | Self::System(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for MapError {}

impl From<SpawnError> for MapError {
    fn from(error: SpawnError) -> Self {
        Self::Spawn(error)
    }
}

impl From<io::Error> for MapError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// A task at work.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its slot, from 1.
    pub slot: usize,
    /// Its process.
    pub pid: Option<u32>,
    /// The task's number, from 1.
    pub seq: u64,
    /// The task.
    pub task: Vec<u8>,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// For how long.
    pub since: Duration,
}

/// How a run stands.
#[derive(Debug, Clone)]
pub struct Status {
    /// Tasks that went well.
    pub ok: u64,
    /// Tasks that did not.
    pub failed: u64,
    /// Attempts that are made once more.
    pub retried: u64,
    /// Tasks that were read and wait.
    pub waiting: u64,
    /// Tasks that were read.
    pub taken: u64,
    /// How many there are, once all were read: nobody reads ahead for this.
    pub total: Option<u64>,
    /// How many may run at once.
    pub slots: usize,
    /// How long it has run, without pauses.
    pub elapsed: Duration,
    /// What runs, the longest first.
    pub workers: Vec<Worker>,
}

/// Steers a run from another thread; from [`Map::remote`](super::Map::remote). Without effect once the run is over.
#[derive(Debug, Clone)]
pub struct Remote(pub(super) Arc<Inbox>);

impl Remote {
    /// Begins nothing more, and stops what runs: signal, grace, kill. `why` is the signal that [`Ending::Asked`] names.
    pub fn stop(&self, why: i32) {
        self.0.push(Event::Stop(why));
    }

    /// Kills what runs.
    pub fn kill(&self, why: i32) {
        self.0.push(Event::Kill(why));
    }

    /// Begins nothing more, and lets what runs come to its end.
    pub fn drain(&self, why: i32) {
        self.0.push(Event::Drain(why));
    }

    /// One slot more, or one less; at least one.
    pub fn resize(&self, more: bool) {
        self.0.push(Event::Resize(more));
    }

    /// Stops all clocks, and everything that runs by SIGSTOP. Waits for that, a second at most.
    pub fn pause(&self) {
        let (done, wait) = sync_channel(1);
        self.0.push(Event::Pause(done));
        let _ = wait.recv_timeout(Duration::from_secs(1));
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.0.push(Event::Resume);
    }

    /// How it stands; `None` once it is over.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        let (to, from) = sync_channel(1);
        self.0.push(Event::Status(to));
        from.recv_timeout(Duration::from_secs(1)).ok()
    }
}
