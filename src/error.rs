//! Every way to fail, each with what to do about it.

use crate::cause::{Cause, Loss};
use crate::exit::Exit;
use crate::sys::{
    E2BIG, EACCES, EAGAIN, EINVAL, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOTDIR, EPERM, SIGKILL, SIGSEGV,
};
use procession_worker::keeper::protocol::Stage;
use procession_worker::task::ForeignImage;
use procession_worker::wire::message::PanicRecord;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why a task has no result.
///
/// Python raises the task's own exception, hangs (a dead worker), or breaks the pool; here each case has its variant,
/// and only the task concerned gets it.
#[derive(Clone)]
#[non_exhaustive]
#[doc(alias("RemoteTraceback", "BrokenProcessPool", "MaybeEncodingError"))]
pub enum TaskError {
    /// The task panicked; its worker lives on.
    Panicked(Panic),
    /// The worker died while it ran this task: a crash, `exit`, the out-of-memory killer, an operator.
    Lost(Lost),
    /// The task ran longer than `task_timeout` and was killed, with what it had started.
    TimedOut(TimedOut),
    /// It was cancelled before it had a result.
    Cancelled,
    /// The pool was closed, terminated or dropped first.
    Closed,
    /// The arguments or the result could not be encoded.
    Encode(Codec),
    /// The arguments or the result could not be decoded.
    Decode(Codec),
    /// No worker could be started for it.
    Spawn(SpawnError),
    /// The result was given before; it is given once.
    Taken,
}

impl TaskError {
    /// Which item of its `map` this concerns, counted from 0; `None` for a single task.
    #[must_use]
    pub fn index(&self) -> Option<u64> {
        match self {
            Self::Panicked(panic) => panic.index,
            Self::Lost(lost) => lost.index,
            Self::TimedOut(timed_out) => timed_out.index,
            Self::Encode(codec) | Self::Decode(codec) => codec.index,
            Self::Cancelled | Self::Closed | Self::Spawn(_) | Self::Taken => None,
        }
    }

    /// Says which item it was.
    pub(crate) fn at(mut self, item: u64) -> Self {
        match &mut self {
            Self::Panicked(panic) => panic.index = Some(item),
            Self::Lost(lost) => lost.index = Some(item),
            Self::TimedOut(timed_out) => timed_out.index = Some(item),
            Self::Encode(codec) | Self::Decode(codec) => codec.index = Some(item),
            Self::Cancelled | Self::Closed | Self::Spawn(_) | Self::Taken => {}
        }
        self
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.index() {
            write!(f, "item {index}: ")?;
        }
        match self {
            Self::Panicked(panic) => panic.fmt(f),
            Self::Lost(lost) => lost.fmt(f),
            Self::TimedOut(timed_out) => timed_out.fmt(f),
            Self::Cancelled => f.write_str("the task was cancelled"),
            Self::Closed => f.write_str("the pool is closed; make a new one"),
            Self::Encode(codec) => write!(f, "cannot encode {codec}"),
            Self::Decode(codec) => write!(f, "cannot decode {codec}"),
            Self::Spawn(error) => write!(f, "no worker could be started: {error}"),
            Self::Taken => f.write_str("the result was given before"),
        }
    }
}

/// As `Display`: it is what a `main` that returns an error shows.
impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for TaskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Spawn(error) => Some(error),
            _ => None,
        }
    }
}

impl From<SpawnError> for TaskError {
    fn from(error: SpawnError) -> Self {
        Self::Spawn(error)
    }
}

/// A panic in a task, as the worker saw it.
#[derive(Debug, Clone)]
pub struct Panic {
    record: Arc<PanicRecord>,
    index: Option<u64>,
}

impl Panic {
    pub(crate) fn new(record: PanicRecord) -> Self {
        Self { record: Arc::new(record), index: None }
    }

    /// What it said.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.record.message
    }

    /// Where: `file:line:column`, when known.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.record.location.as_deref()
    }

    /// The stack, rendered in the worker. Empty if `RUST_BACKTRACE=0` asked for none; cut short if the panic also
    /// aborted the worker.
    #[must_use]
    pub fn backtrace(&self) -> &str {
        &self.record.backtrace
    }

    /// Which item of its `map` panicked, counted from 0.
    #[must_use]
    pub const fn index(&self) -> Option<u64> {
        self.index
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location() {
            Some(location) => write!(f, "the task panicked at {location}: {}", self.message()),
            None => write!(f, "the task panicked: {}", self.message()),
        }
    }
}

/// A worker died while it ran the task, or an actor before it answered the call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(alias("WorkerLostError", "TerminatedWorkerError", "ProcessExpired"))]
pub struct Lost {
    pub(crate) exit: Exit,
    pub(crate) pid: u32,
    pub(crate) worker: Arc<str>,
    pub(crate) reason: Option<Arc<str>>,
    pub(crate) index: Option<u64>,
    pub(crate) work: Work,
}

/// What was lost with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Task,
    /// Of an actor, for whose caller it is all the same whether its call was running, waiting, or came too late.
    Call,
}

impl Work {
    const fn who(self) -> &'static str {
        match self {
            Self::Task => "worker",
            Self::Call => "actor",
        }
    }

    const fn when(self) -> &'static str {
        match self {
            Self::Task => "while it ran the task",
            Self::Call => "before it answered the call",
        }
    }
}

impl Lost {
    /// How the worker ended.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// The worker's process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The worker's name.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// Why we killed it, if we did: it sent bytes that made no sense, or closed its pipe.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Which item of its `map` was lost, counted from 0.
    #[must_use]
    pub const fn index(&self) -> Option<u64> {
        self.index
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, pid, work, .. } = self;
        let when = work.when();
        write!(f, "{} {worker} (pid {pid}) ", work.who())?;
        match (&self.reason, self.exit) {
            (Some(reason), _) => write!(f, "was killed {when}: {reason}"),
            (None, Exit::Signal(SIGKILL)) if *work == Work::Call => write!(
                f,
                "was {} {when}; by Actor::kill, an operator, or the out-of-memory killer (dmesg)",
                self.exit
            ),
            (None, Exit::Signal(SIGKILL)) => write!(
                f,
                "was {} {when}; not by this program: look for the out-of-memory killer (dmesg), or an operator",
                self.exit
            ),
            (None, Exit::Code(0)) if *work == Work::Task => {
                write!(f, "{} in the middle of the task: the task called exit; return instead", self.exit)
            }
            (None, Exit::Signal(SIGSEGV)) => {
                write!(f, "was {} {when}; a stack overflow looks like this, too", self.exit)
            }
            (None, exit) => write!(f, "{} {when}", exit.did()),
        }
    }
}

/// A task ran over its deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedOut {
    pub(crate) limit: Duration,
    pub(crate) pid: u32,
    pub(crate) index: Option<u64>,
}

impl TimedOut {
    /// How long it was allowed to run, counted from its own start.
    #[must_use]
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// The process id of the worker that was killed.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Which item of its `map` it was, counted from 0.
    #[must_use]
    pub const fn index(&self) -> Option<u64> {
        self.index
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task ran longer than {:?} and was killed (pid {})", self.limit, self.pid)
    }
}

/// Which half of a task could not be turned into bytes or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// What goes to the worker.
    Arguments,
    /// What comes back.
    Result,
}

/// A value could not be turned into bytes or back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codec {
    half: Half,
    text: Arc<str>,
    index: Option<u64>,
}

impl Codec {
    pub(crate) fn new(half: Half, text: impl fmt::Display) -> Self {
        Self { half, text: text.to_string().into(), index: None }
    }

    /// Was it the arguments or the result?
    #[must_use]
    pub const fn half(&self) -> Half {
        self.half
    }

    /// What the codec said.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.half {
            Half::Arguments => "the arguments",
            Half::Result => "the result",
        };
        write!(f, "{what}: {}", self.text)
    }
}

/// Why a process could not be started.
#[derive(Clone)]
#[non_exhaustive]
pub enum SpawnError {
    /// A pool of no workers was asked for.
    NoWorkers,
    /// The function, or the whole library, is not part of the main program.
    ForeignImage(Arc<str>),
    /// The arguments could not be encoded.
    Encode(Codec),
    /// The system said no.
    System {
        /// What was being done.
        stage: &'static str,
        /// What the system said.
        errno: i32,
    },
    /// The worker died, was killed, or did not come to life in time.
    Birth {
        /// How far it had come.
        stage: Arc<str>,
        /// What happened there.
        text: Arc<str>,
        /// How it ended.
        exit: Option<Exit>,
    },
    /// The pool's initializer failed.
    Initializer(Box<TaskError>),
    /// A program could not be executed.
    Program {
        /// What it is called.
        program: Arc<str>,
        /// How far it came.
        stage: Stage,
        /// What the system said there.
        errno: i32,
    },
    /// The keeper has died, or could not come to life.
    KeeperGone(Arc<str>),
    /// The keeper did not answer in so long: it is stopped, or waits for a file system. What it was asked for will not run.
    KeeperSilent(Duration),
}

impl SpawnError {
    pub(crate) fn system(stage: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { stage, errno: error.raw_os_error().unwrap_or(EIO) }
    }

    /// Could the same call succeed later, when the system has more to give?
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::System { errno: EAGAIN | EMFILE | ENFILE | ENOMEM, .. }
                | Self::Program { errno: EAGAIN | EMFILE | ENFILE | ENOMEM, .. }
        )
    }

    /// Why the program never ran.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Program { stage, errno, .. } => Cause::Spawn { stage: *stage, errno: *errno },
            Self::KeeperGone(_) | Self::KeeperSilent(_) => Cause::Lost(Loss::Keeper),
            Self::System { errno, .. } => Cause::Spawn { stage: Stage::Process, errno: *errno },
            _ => Cause::Spawn { stage: Stage::Asking, errno: EINVAL },
        }
    }
}

impl From<ForeignImage> for SpawnError {
    fn from(error: ForeignImage) -> Self {
        Self::ForeignImage(error.to_string().into())
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorkers => {
                f.write_str("a pool needs at least one worker; procession::cpu_count() is a good number")
            }
            Self::ForeignImage(text) => f.write_str(text),
            Self::Encode(codec) => write!(f, "cannot encode {codec}"),
            Self::System { stage, errno } => {
                write!(f, "{stage}: {}", io::Error::from_raw_os_error(*errno))?;
                f.write_str(match *errno {
                    EMFILE => "; each worker needs five descriptors here: raise the limit (ulimit -n) or use fewer workers",
                    ENFILE => "; the whole system is out of descriptors (fs.file-max)",
                    EAGAIN => "; the limit of processes is reached (ulimit -u, or the cgroup's pids.max): raise it or use fewer workers",
                    ENOMEM => "; free memory, or use fewer workers",
                    ENOENT => "; workers are started through /proc/self/exe: mount /proc",
                    _ => "",
                })
            }
            Self::Birth { stage, text, .. } => write!(f, "the worker failed {stage}: {text}"),
            Self::Initializer(error) => write!(f, "the pool's initializer failed: {error}"),
            Self::Program { program, stage, errno } => {
                write!(f, "{program}: {}", self.cause())?;
                f.write_str(remedy(*stage, *errno))
            }
            Self::KeeperGone(text) => f.write_str(text),
            Self::KeeperSilent(limit) => write!(
                f,
                "the keeper did not answer within {limit:?}: is it stopped (kill -CONT), or does it wait for a file system?"
            ),
        }
    }
}

/// What to do about a program that cannot be executed.
const fn remedy(stage: Stage, errno: i32) -> &'static str {
    match (stage, errno) {
        (Stage::Exec, ENOENT | ENOTDIR) => {
            "; look at the name, at PATH, and at the first line if it is a script"
        }
        (Stage::Exec, EACCES) => "; is it a program, and allowed to be executed (chmod +x)?",
        (Stage::Exec, E2BIG) => "; pass fewer or shorter arguments and variables",
        (Stage::Exec | Stage::Memory, ENOMEM) => "; give it more memory",
        (Stage::Memory | Stage::CpuTime | Stage::OpenFiles | Stage::FileSize | Stage::CoreSize, EPERM) => {
            "; the limit is above this process's own hard limit (ulimit -H): lower it"
        }
        (Stage::Asking, EINVAL) => "; no text may have a NUL in it",
        (Stage::Streams, EINVAL) => "; pass at most 64 descriptors, with numbers from 3 up",
        (_, EMFILE) => "; raise the limit of open files (ulimit -n), or run fewer programs",
        (_, ENFILE) => "; the whole system is out of descriptors (fs.file-max)",
        (_, EAGAIN) => "; the limit of processes is reached (ulimit -u, or the cgroup's pids.max)",
        _ => "",
    }
}

/// As `Display`: it is what a `main` that returns an error shows.
impl fmt::Debug for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Initializer(error) => Some(error),
            _ => None,
        }
    }
}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::System { errno, .. } | SpawnError::Program { errno, .. } => {
                Self::from_raw_os_error(errno)
            }
            other => Self::other(other),
        }
    }
}
