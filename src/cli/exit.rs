//! Exit codes: those that env, timeout, xargs and shells agree on, and never another.

use crate::cause::Cause;
use std::process::ExitCode;

/// The same in brief.
pub(super) const LINE: &str = "\
Exit codes: 0, 122 gave up, 123 a task failed, 124 deadline, 125 our own error,
126 and 127 no such program, 128+n signal n";

/// Of the verbs that talk to a running one.
pub(super) const TALK: &str = "\
Exit codes: 0 all up, or done as asked; 1 refused, or too late;
3 some not running; 4 nobody there; 125 our own error";

/// The last page of the help.
pub(super) const TABLE: &str = "\
Exit codes:
  0    all went well; run: stopped 125       procession itself failed
  122  gave up restarting          126, 127  PROG not executable, not found
  123  at least one task failed    128+n     signal n: 130 Ctrl-C, 143 TERM,
  124  the deadline passed                   141 stdout closed
  run -n 1 --restart no: PROG's own
  status, stop, …: 0 all up, 1 refused or too late, 3 some not running,
                   4 nobody there";

/// How the tool ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// All that was asked for is done.
    Ok,
    /// It was tried too often: the restart limit, or a poison task where failures halt.
    GaveUp,
    /// At least one task failed, or one worker at the end.
    Failed,
    /// The program's own.
    Child(u8),
    /// Of a verb that talks to a running one: it refused, or it took too long.
    Refused,
    /// Some do not run.
    NotRunning,
    /// Nobody there to talk to.
    Nobody,
    /// The deadline of the whole run passed.
    Deadline,
    /// The tool itself failed: usage, a limit that cannot be set, a full disk.
    Own,
    /// The program cannot be executed.
    NotExecutable,
    /// There is no such program.
    NotFound,
    /// Ended by this signal.
    Signal(i32),
}

impl Code {
    /// As the shell sees it.
    pub(crate) fn number(self) -> u8 {
        let number = match self {
            Self::Ok => 0,
            Self::Child(code) => return code,
            Self::Refused => 1,
            Self::NotRunning => 3,
            Self::Nobody => 4,
            Self::GaveUp => 122,
            Self::Failed => 123,
            Self::Deadline => 124,
            Self::Own => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(number).unwrap_or(125)
    }

    /// For a program that could not be started at all.
    pub(crate) fn of_failed_start(cause: Cause) -> Self {
        match cause.exit_code() {
            126 => Self::NotExecutable,
            127 => Self::NotFound,
            _ => Self::Own,
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}
