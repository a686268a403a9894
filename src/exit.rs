//! How a process ended.

use crate::sys::pidfd::{Ended, signal_name};
use std::fmt;

/// How a process ended.
///
/// ```
/// use procession::Exit;
/// assert_eq!(Exit::Code(3).to_string(), "exited with code 3");
/// assert_eq!(Exit::Signal(9).to_string(), "killed by signal 9 (SIGKILL)");
/// assert!(Exit::Code(0).success());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[doc(alias = "exitcode")]
pub enum Exit {
    /// It returned or called `exit` with this code. 255 may also mean that the code is not known: somebody else in the
    /// program had waited for the process (`waitpid(-1)`), or SIGCHLD is ignored.
    Code(i32),
    /// This signal ended it. Python writes it as a negative exit code.
    Signal(i32),
}

impl Exit {
    /// The code when somebody else has taken the true one.
    pub(crate) const UNKNOWN: Self = Self::Code(255);

    /// As the end of a sentence about the process.
    pub(crate) fn did(self) -> String {
        match self {
            Self::Code(_) => self.to_string(),
            Self::Signal(_) => format!("was {self}"),
        }
    }

    /// Did it exit with code 0?
    #[must_use]
    pub const fn success(self) -> bool {
        matches!(self, Self::Code(0))
    }

    /// The exit code, unless a signal ended it.
    #[must_use]
    pub const fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) => None,
        }
    }

    /// The signal that ended it, if one did.
    #[must_use]
    pub const fn signal(self) -> Option<i32> {
        match self {
            Self::Code(_) => None,
            Self::Signal(signal) => Some(signal),
        }
    }
}

impl From<Ended> for Exit {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Exited(code) => Self::Code(code),
            Ended::Killed(signal) => Self::Signal(signal),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "killed by signal {number} ({name})"),
                None => write!(f, "killed by signal {number}"),
            },
        }
    }
}
