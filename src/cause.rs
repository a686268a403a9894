//! Why something ended: one type for log, status, job log and library.

use crate::exit::Exit;
use crate::sys::pidfd::signal_name;
use crate::sys::{EACCES, ENOENT, ENOTDIR, SIGKILL, SIGTERM, SIGXCPU, SIGXFSZ};
use procession_worker::keeper::protocol::Stage;
use std::fmt;
use std::io;

/// Whose memory was out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Oom {
    /// The limit that was set for it.
    Limit,
    /// The machine's.
    Host,
}

/// What was lost, and the program with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// It did not keep to the protocol it had agreed to.
    Protocol,
    /// Its [`Keeper`](crate::Keeper) died: it was killed at once, and its exit status is known to nobody.
    Keeper,
}

/// Why a program ended, or never ran: one type everywhere.
///
/// [`Exit`] is what the system says of a process; this is what it means, given what was asked for. In words by `Display`,
/// in one word for machines by [`word`](Self::word), for a shell by [`exit_code`](Self::exit_code).
///
/// ```
/// use procession::{Cause, Exit};
/// assert_eq!(Cause::from(Exit::Code(3)).to_string(), "exit 3");
/// assert_eq!(Cause::from(Exit::Signal(9)).to_string(), "killed by SIGKILL");
/// assert_eq!(Cause::from(Exit::Signal(9)).exit_code(), 137);
/// assert_eq!(Cause::CpuTime.word(), "cpu-time");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// It exited with code 0.
    Ok,
    /// It exited with another code.
    Exit(i32),
    /// A signal ended it that was not ours.
    Signal {
        /// Its number.
        signal: i32,
        /// Was a core dumped?
        core: bool,
    },
    /// It ran over its deadline.
    Timeout,
    /// It was not ready in time.
    StartTimeout,
    /// It gave no sign of life in time.
    Watchdog,
    /// It was killed for want of memory.
    Oom(Oom),
    /// It used up its processor time.
    CpuTime,
    /// It wrote a file over the size allowed.
    FileSize,
    /// It printed more than allowed.
    OutputLimit,
    /// It ended after it was asked to.
    Stopped,
    /// We killed it: it did not stop in time, or was killed or dropped.
    Killed,
    /// Something it needs was lost.
    Lost(Loss),
    /// It never ran.
    Spawn {
        /// How far it came.
        stage: Stage,
        /// What the system said there.
        errno: i32,
    },
    /// It has killed too many workers, and was set aside.
    Poison,
    /// It was not tried.
    Skipped,
}

impl Cause {
    /// Did it end well?
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Ok)
    }

    /// Was there no such program?
    #[must_use]
    pub const fn is_not_found(self) -> bool {
        matches!(self, Self::Spawn { stage: Stage::Exec, errno: ENOENT | ENOTDIR })
    }

    /// In one word, which never changes: for machines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Exit(_) => "exit",
            Self::Signal { .. } => "signal",
            Self::Timeout => "timeout",
            Self::StartTimeout => "start-timeout",
            Self::Watchdog => "watchdog",
            Self::Oom(_) => "oom",
            Self::CpuTime => "cpu-time",
            Self::FileSize => "file-size",
            Self::OutputLimit => "output-limit",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Lost(_) => "lost",
            Self::Spawn { .. } => "spawn",
            Self::Poison => "poison",
            Self::Skipped => "skipped",
        }
    }

    /// As shells, env(1) and timeout(1) have it: the program's own code, 124 for a deadline, 127 for not found, 126 for not
    /// executable, 128 and the signal's number, and 125 for all that is no doing of the program.
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Ok => 0,
            Self::Exit(code) => code,
            Self::Signal { signal, .. } => 128 + signal,
            Self::Timeout | Self::StartTimeout | Self::Watchdog => 124,
            Self::CpuTime => 128 + SIGXCPU,
            Self::FileSize => 128 + SIGXFSZ,
            Self::Stopped => 128 + SIGTERM,
            Self::Oom(_) | Self::OutputLimit | Self::Killed => 128 + SIGKILL,
            Self::Spawn { stage: Stage::Exec, .. } if self.is_not_found() => 127,
            Self::Spawn { stage: Stage::Exec, .. } => 126,
            Self::Lost(_) | Self::Spawn { .. } | Self::Poison | Self::Skipped => 125,
        }
    }
}

impl From<Exit> for Cause {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(0) => Self::Ok,
            Exit::Code(code) => Self::Exit(code),
            Exit::Signal(signal) => Self::Signal { signal, core: false },
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Signal { signal, core } => {
                match signal_name(signal) {
                    Some(name) => write!(f, "killed by {name}"),
                    None => write!(f, "killed by signal {signal}"),
                }?;
                f.write_str(if core { ", core dumped" } else { "" })
            }
            Self::StartTimeout => f.write_str("start timeout"),
            Self::Oom(Oom::Limit) => f.write_str("out of memory: its own limit"),
            Self::Oom(Oom::Host) => f.write_str("out of memory: the machine's"),
            Self::CpuTime => f.write_str("cpu-time limit"),
            Self::FileSize => f.write_str("file-size limit"),
            Self::OutputLimit => f.write_str("output limit"),
            Self::Lost(Loss::Protocol) => f.write_str("lost: it ended, or spoke, before it had answered"),
            Self::Lost(Loss::Keeper) => f.write_str("lost with its keeper"),
            Self::Spawn { .. } if self.is_not_found() => f.write_str("not found"),
            Self::Spawn { stage: Stage::Exec, errno: EACCES } => f.write_str("not executable"),
            Self::Spawn { stage: Stage::Exec, errno } => {
                write!(f, "not executable: {}", io::Error::from_raw_os_error(errno))
            }
            Self::Spawn { stage, errno } => write!(f, "{stage}: {}", io::Error::from_raw_os_error(errno)),
            other => f.write_str(other.word()),
        }
    }
}
