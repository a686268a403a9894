//! One program, as its owner knows it. Pure but for its bell.

use super::link::Link;
use crate::cause::{Cause, Loss};
use crate::error::SpawnError;
use crate::exit::Exit;
use crate::sys::pidfd::{Ended as System, PidFd};
use crate::sys::{EMFILE, SIGKILL, SIGXCPU, SIGXFSZ};
use procession_worker::keeper::protocol::{self, LIMITS, Stage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What a program has used, with all descendants that were waited for (getrusage(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time in the program itself.
    pub user: Duration,
    /// Processor time in the kernel.
    pub sys: Duration,
    /// The most memory that one of its processes had at once, in bytes; at least what the keeper itself has, a few MB, since
    /// it begins in the keeper's memory.
    pub max_rss: u64,
}

impl From<protocol::Usage> for Usage {
    fn from(usage: protocol::Usage) -> Self {
        Self {
            user: Duration::from_micros(usage.user),
            sys: Duration::from_micros(usage.sys),
            max_rss: usage.max_rss.saturating_mul(1024),
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub(super) cause: Cause,
    pub(super) exit: Option<Exit>,
    pub(super) usage: Usage,
    pub(super) leaked: u32,
}

impl Ended {
    /// Why.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// What the system says; `None` when nobody knows, since the keeper was lost or dropped.
    #[must_use]
    pub const fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// What it used.
    #[must_use]
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    /// How many orphans it left behind when it ended; 0 if it was killed. They were killed, with everything below them;
    /// unless it was being stopped, then they had the rest of the time to end by themselves.
    #[must_use]
    pub const fn leaked(&self) -> u32 {
        self.leaked
    }
}

/// What its handle was used for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wishes {
    pub(super) stop: bool,
    /// To the program alone: what it leaves behind is killed, and no leak.
    pub(super) alone: bool,
    pub(super) kill: bool,
}

/// What a status means, given what was asked for.
pub(super) fn verdict(
    status: i32,
    usage: Usage,
    limits: &[Option<u64>; LIMITS],
    wishes: Wishes,
) -> (Cause, Exit) {
    let (system, core) = System::from_status(status);
    let [_, cpu_time, _, file_size, _] = limits;
    // The limit counts what the scheduler counts; the usage is less exact, by a tenth or so.
    let used_up = |seconds: &u64| 4 * (usage.user + usage.sys) >= 3 * Duration::from_secs(*seconds);
    let cause = match system {
        System::Killed(SIGXCPU) if cpu_time.is_some() => Cause::CpuTime,
        System::Killed(SIGXFSZ) if file_size.is_some() => Cause::FileSize,
        System::Killed(SIGKILL) if wishes.kill => Cause::Killed,
        System::Killed(SIGKILL) if cpu_time.as_ref().is_some_and(used_up) => Cause::CpuTime,
        _ if wishes.stop => Cause::Stopped,
        System::Killed(signal) => Cause::Signal { signal, core },
        System::Exited(_) => Exit::from(system).into(),
    };
    (cause, system.into())
}

/// How far a program has come.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// The keeper was asked.
    #[default]
    Asked,
    /// Whoever asked has gone: it is not to run.
    Unwanted,
    Failed(SpawnError),
    Running,
    /// It has ended, and something of it is left.
    Lingering(Ended),
    Ended(Ended),
}

type Callback = Box<dyn FnOnce(Result<Ended, SpawnError>) + Send>;

#[derive(Default)]
pub(super) struct Life {
    pub(super) phase: Phase,
    pub(super) wishes: Wishes,
    callbacks: Vec<Callback>,
}

impl Life {
    pub(super) fn ended(&self) -> Option<Ended> {
        match self.phase {
            Phase::Ended(ended) => Some(ended),
            _ => None,
        }
    }
}

/// What handle, reactor and waiting callers share.
pub(super) struct Cell {
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    pub(super) link: Arc<Link>,
    pub(super) process: OnceLock<PidFd>,
    limits: [Option<u64>; LIMITS],
    life: Mutex<Life>,
    pub(super) changed: Condvar,
}

impl Cell {
    pub(super) fn new(id: u64, name: Arc<str>, limits: [Option<u64>; LIMITS], link: Arc<Link>) -> Self {
        Self {
            id,
            name,
            link,
            process: OnceLock::new(),
            limits,
            life: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keeper has started it. False if nobody wants it, or its descriptor was lost on the way: then it is to be killed.
    pub(super) fn started(&self, process: Option<PidFd>) -> bool {
        let mut life = self.life();
        let wanted = match (&life.phase, process) {
            (Phase::Asked, Some(process)) => {
                let _ = self.process.set(process);
                life.phase = Phase::Running;
                true
            }
            (Phase::Asked, None) => {
                drop(life);
                self.fail(self.failure(Stage::Streams, EMFILE));
                return false;
            }
            (_, process) => {
                // The keeper would hear of it later than the system does.
                let _ = process.map(|process| process.signal(SIGKILL));
                false
            }
        };
        drop(life);
        self.changed.notify_all();
        wanted
    }

    pub(super) fn failed(&self, stage: Stage, errno: i32) {
        self.fail(self.failure(stage, errno));
    }

    fn failure(&self, stage: Stage, errno: i32) -> SpawnError {
        SpawnError::Program { program: Arc::clone(&self.name), stage, errno }
    }

    pub(super) fn fail(&self, error: SpawnError) {
        let mut life = self.life();
        if !matches!(life.phase, Phase::Asked) {
            return;
        }
        life.phase = Phase::Failed(error.clone());
        self.call(life, &Err(error));
    }

    /// Tells all who wait, outside the lock.
    fn call(&self, mut life: MutexGuard<'_, Life>, how: &Result<Ended, SpawnError>) {
        let callbacks = std::mem::take(&mut life.callbacks);
        drop(life);
        self.changed.notify_all();
        for callback in callbacks {
            // One that panics is its owner's affair, and not that of whoever reads for all.
            let _ = catch_unwind(AssertUnwindSafe(|| callback(how.clone())));
        }
    }

    /// It has ended, and left so many behind.
    pub(super) fn exited(&self, status: i32, usage: Usage, left: u32) {
        let mut life = self.life();
        if !matches!(life.phase, Phase::Running) {
            return;
        }
        let (cause, exit) = verdict(status, usage, &self.limits, life.wishes);
        // What we have killed at the same time did not leak.
        let leaked = if life.wishes.kill || life.wishes.alone { 0 } else { left };
        let ended = Ended { cause, exit: Some(exit), usage, leaked };
        if left > 0 {
            life.phase = Phase::Lingering(ended);
        } else {
            self.end(life, ended);
        }
    }

    /// Nothing is left of it.
    pub(super) fn gone(&self) {
        let life = self.life();
        if let Phase::Lingering(ended) = life.phase {
            self.end(life, ended);
        }
    }

    /// The keeper is no more, and so it is no more.
    pub(super) fn lost(&self, by_us: bool, why: &SpawnError) {
        let life = self.life();
        match &life.phase {
            Phase::Running => {
                let cause = if by_us || life.wishes.kill { Cause::Killed } else { Cause::Lost(Loss::Keeper) };
                self.end(life, Ended { cause, exit: None, usage: Usage::default(), leaked: 0 });
            }
            Phase::Lingering(ended) => {
                let ended = *ended;
                self.end(life, ended);
            }
            Phase::Asked => {
                drop(life);
                self.fail(why.clone());
            }
            Phase::Unwanted | Phase::Failed(_) | Phase::Ended(_) => {}
        }
    }

    fn end(&self, mut life: MutexGuard<'_, Life>, ended: Ended) {
        life.phase = Phase::Ended(ended);
        self.call(life, &Ok(ended));
    }

    /// Has it called once the program has ended, or could not be started.
    pub(super) fn when_over(&self, callback: Callback) {
        let mut life = self.life();
        let how = match &life.phase {
            Phase::Ended(ended) => Ok(*ended),
            Phase::Failed(error) => Err(error.clone()),
            _ => return life.callbacks.push(callback),
        };
        drop(life);
        callback(how);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_means_what_was_asked_for() {
        let none = [None; LIMITS];
        let two_seconds = [None, Some(2), None, Some(10), None];
        let busy = Usage { user: Duration::from_secs(2), ..Usage::default() };
        let (nothing, idle) = (Wishes::default(), Usage::default());
        let (stop, kill) = (Wishes { stop: true, ..nothing }, Wishes { stop: true, kill: true, ..nothing });
        let signal = |signal, core| Cause::Signal { signal, core };
        let table = [
            (0, idle, none, nothing, Cause::Ok),
            (3 << 8, idle, none, nothing, Cause::Exit(3)),
            (11 | 0x80, idle, none, nothing, signal(11, true)),
            (9, idle, none, nothing, signal(9, false)),
            (9, idle, two_seconds, nothing, signal(9, false)),
            (9, busy, two_seconds, nothing, Cause::CpuTime),
            (9, busy, two_seconds, kill, Cause::Killed),
            (SIGXCPU, busy, two_seconds, stop, Cause::CpuTime),
            (SIGXCPU, busy, none, nothing, signal(SIGXCPU, false)),
            (SIGXFSZ, idle, two_seconds, nothing, Cause::FileSize),
            (15, idle, none, stop, Cause::Stopped),
            (0, idle, none, stop, Cause::Stopped),
            (9, idle, none, kill, Cause::Killed),
        ];
        for (status, usage, limits, wishes, cause) in table {
            assert_eq!(verdict(status, usage, &limits, wishes).0, cause, "{status} {wishes:?}");
        }
    }
}
