//! A started program: look at it, wait for it, end it.

use super::cell::{Cell, Ended, Phase};
use crate::program::Piped;
use crate::sys::pidfd::PidFd;
use procession_worker::keeper::protocol::Ask;
use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long `Drop` waits for what it has killed.
const BURIAL: Duration = Duration::from_secs(5);

/// A program that was started; from [`Keeper::start`](super::Keeper::start).
///
/// It has ended when the *tree* is gone: the program and all that it has started, wherever they have moved (setsid, double
/// fork). What is left when the program itself exits is a leak, and killed, unless the program is being
/// [stopped](Self::stop).
///
/// # Drop
/// Kills the tree (SIGKILL), and waits until it is gone, at most 5 s. [`detach`](Self::detach) is the gentler end.
#[must_use = "dropping it kills the program; wait or detach"]
pub struct Running {
    cell: Arc<Cell>,
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    detached: bool,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("ended", &self.ended())
            .finish()
    }
}

impl Running {
    pub(super) fn new(cell: Arc<Cell>, [stdin, stdout, stderr]: Piped) -> Self {
        Self {
            cell,
            stdin: stdin.map(|file| OwnedFd::from(file).into()),
            stdout: stdout.map(|file| OwnedFd::from(file).into()),
            stderr: stderr.map(|file| OwnedFd::from(file).into()),
            detached: false,
        }
    }

    fn process(&self) -> &PidFd {
        self.cell.process.get().expect("a program that runs has its descriptor")
    }

    pub(super) fn id(&self) -> u64 {
        self.cell.id
    }

    /// One that is still to follow another is not to begin after all: it fails with ECANCELED. Too late, it changes nothing.
    pub(crate) fn recall(&self) {
        // A keeper that does not listen does not start anything either.
        let _ = self.ask(&Ask::Recall(self.cell.id));
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.cell.name
    }

    /// Its process id. After its end the number may belong to another process; nothing here ever signals by number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// [`pid`](Self::pid), once the keeper has started it.
    pub(crate) fn pid_if_started(&self) -> Option<u32> {
        self.cell.process.get().map(PidFd::pid)
    }

    /// How it ended, once nothing is left of it; `None` before. Does not wait.
    #[must_use]
    #[doc(alias("poll", "returncode"))]
    pub fn ended(&self) -> Option<Ended> {
        self.cell.life().ended()
    }

    /// Waits until nothing is left of it. As often as you like, from any thread.
    ///
    /// # Errors
    /// None today; kept for systems where waiting can fail.
    pub fn wait(&self) -> io::Result<Ended> {
        loop {
            if let Some(ended) = self.wait_until(None) {
                return Ok(ended);
            }
        }
    }

    /// Waits until nothing is left of it, or `limit` is over: `None`.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, limit: Duration) -> io::Result<Option<Ended>> {
        Ok(self.wait_until(Instant::now().checked_add(limit)))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Option<Ended> {
        self.cell.link.wait(&self.cell, deadline, |life| life.ended().is_some());
        self.ended()
    }

    /// Has `then` called once nothing is left of it, at once if that is so already. It is called by the thread that finds
    /// out, perhaps the one all processes share: it must be short, and must not wait.
    pub fn on_end(&self, then: impl FnOnce(Ended) + Send + 'static) {
        self.cell.when_over(Box::new(|how| {
            if let Ok(ended) = how {
                then(ended);
            }
        }));
    }

    /// Signals the program alone. No error if it has ended.
    ///
    /// # Errors
    /// EINVAL: there is no such signal. EPERM: it runs as somebody else now.
    #[doc(alias = "send_signal")]
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.process().signal(signal)
    }

    /// Signals the program and everything that it has started.
    ///
    /// # Errors
    /// `TimedOut`: the keeper takes no asks, because it is stopped.
    pub fn signal_all(&self, signal: i32) -> io::Result<()> {
        self.ask(&Ask::Signal(self.cell.id, signal))
    }

    /// Asks the tree to end, and does not wait: `signal`, and SIGCONT in case they are stopped. From then on what is left when
    /// the program exits is no leak, and may take its time; [`kill`](Self::kill) ends that time.
    ///
    /// # Errors
    /// As [`signal_all`](Self::signal_all).
    pub fn begin_stop(&self, signal: i32) -> io::Result<()> {
        let mut life = self.cell.life();
        if matches!(life.phase, Phase::Running) {
            life.wishes.stop = true;
        }
        drop(life);
        self.ask(&Ask::Stop(self.cell.id, signal))
    }

    /// As [`begin_stop`](Self::begin_stop), but the signal goes to the program alone; what is left when it ends is killed.
    pub(crate) fn stop_main(&self, signal: i32) -> io::Result<()> {
        let mut life = self.cell.life();
        if matches!(life.phase, Phase::Running) {
            (life.wishes.stop, life.wishes.alone) = (true, true);
        }
        drop(life);
        self.signal(signal)?;
        self.signal(crate::sys::SIGCONT)
    }

    /// Ends the tree: `signal` to all of it, SIGCONT, and after `grace` SIGKILL to whatever is left. Waits until nothing is.
    ///
    /// ```
    /// use procession::{Cause, Keeper, Program};
    /// use std::time::Duration;
    ///
    /// let keeper = Keeper::new()?;
    /// let running = keeper.start(Program::new("sleep").arg("1000"))?;
    /// let ended = running.stop(15, Duration::from_secs(10))?;
    /// assert_eq!(ended.cause(), Cause::Stopped);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `TimedOut`: the keeper takes no asks, because it is stopped, or something is stuck in the kernel for another 5 s.
    pub fn stop(&self, signal: i32, grace: Duration) -> io::Result<Ended> {
        self.begin_stop(signal)?;
        if let Some(ended) = self.wait_timeout(grace)? {
            return Ok(ended);
        }
        self.kill()?;
        self.wait_timeout(BURIAL)?.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    /// Kills the tree: SIGKILL to the program and everything that it has started. Does not wait. No error if it has ended.
    ///
    /// # Errors
    /// As [`signal_all`](Self::signal_all); the program itself is killed even so.
    pub fn kill(&self) -> io::Result<()> {
        let mut life = self.cell.life();
        if life.ended().is_some() {
            return Ok(());
        }
        life.wishes.kill = true;
        drop(life);
        self.ask(&Ask::Kill(self.cell.id)).inspect_err(|_| {
            // It may not have begun.
            let process = self.cell.process.get();
            drop(process.map(|process| process.signal(crate::sys::SIGKILL)));
        })
    }

    fn ask(&self, ask: &Ask<'_>) -> io::Result<()> {
        if self.ended().is_some() { Ok(()) } else { self.cell.link.ask(ask, self.cell.link.patience) }
    }

    /// The write end of its standard input, if that was piped; once.
    pub fn take_stdin(&mut self) -> Option<PipeWriter> {
        self.stdin.take()
    }

    /// The read end of its standard output, if that was piped; once.
    pub fn take_stdout(&mut self) -> Option<PipeReader> {
        self.stdout.take()
    }

    /// The read end of its standard error, if that was piped; once.
    pub fn take_stderr(&mut self) -> Option<PipeReader> {
        self.stderr.take()
    }

    /// Lets it go on by itself, until it ends or its keeper does.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl AsFd for Running {
    /// The pidfd: readable once the program itself has ended, whatever it has left behind.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process().as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.detached || self.ended().is_some() {
            return;
        }
        let _ = self.kill();
        // Who drops it on the reactor's thread, in a callback, must not wait there.
        if !crate::reactor::reactor().is_ok_and(crate::reactor::Reactor::is_here) {
            let _ = self.wait_timeout(BURIAL);
        }
    }
}
