//! Copies of a program, kept alive by the rules of `supervisor/`: a thread that does what they say, and one for what the
//! copies print.

mod builder;
mod core;
mod lines;
mod log;
mod outlet;
mod stamp;
mod status;

pub use builder::{Place, SuperviseError, SupervisorBuilder};
#[cfg(feature = "cli")]
pub(crate) use core::Observer;
#[cfg(feature = "cli")]
pub(crate) use lines::Pen;
pub use log::LogDir;
#[cfg(feature = "cli")]
pub(crate) use outlet::Listener;
#[cfg(feature = "cli")]
pub(crate) use stamp::stamp;
pub use status::{Happening, HappeningKind, Outcome, PlaceStatus};

use crate::program::Program;
use crate::supervisor::Event;
use crate::sys::wait;
use core::Word;
use std::fmt;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Copies of a program, kept alive: started again when they fail, with growing delays and a limit; stopped as whole trees; and
/// gone when this process is, however that ends.
///
/// ```
/// use procession::{Program, Restart, Supervisor};
///
/// let supervisor = Supervisor::builder("job", |place| Program::new("sh").args(["-c", "exit 0"]).env("SHARD", place.id.to_string()))
///     .copies(2)
///     .restart(Restart::OnFailure)
///     .start()?;
/// assert!(supervisor.wait().is_ok());
/// # Ok::<(), procession::SuperviseError>(())
/// ```
///
/// Every copy finds in its environment `PROCESSION_NAME`, `PROCESSION_ID` (from 0), `PROCESSION_COPIES` and
/// `PROCESSION_ATTEMPT` (from 1).
///
/// # Drop
/// Kills all copies with all that they have started, and waits until they are gone, at most 10 s.
#[must_use = "dropped, its copies are ended"]
pub struct Supervisor {
    remote: Remote,
    unheard: Arc<OnceLock<io::ErrorKind>>,
}

/// How the copies are told, by any thread, whoever holds the supervisor.
#[derive(Clone)]
pub(crate) struct Remote {
    name: Arc<str>,
    words: Sender<Word>,
    end: Arc<End>,
}

#[derive(Default)]
struct End {
    outcome: Mutex<Option<Outcome>>,
    changed: Condvar,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("name", &self.remote.name)
            .field("outcome", &self.remote.outcome())
            .finish()
    }
}

impl Supervisor {
    /// A supervisor of `name`, and of programs that `make` describes, each time one is to be started.
    pub fn builder(
        name: impl Into<String>,
        make: impl FnMut(&Place<'_>) -> Program + Send + 'static,
    ) -> SupervisorBuilder {
        SupervisorBuilder::new(name.into(), Box::new(make))
    }

    fn run(
        name: String,
        words: Sender<Word>,
        unheard: Arc<OnceLock<io::ErrorKind>>,
        body: impl FnOnce() -> Outcome + Send + 'static,
    ) -> io::Result<Self> {
        let remote = Remote { name: name.into(), words, end: Arc::default() };
        let end = Arc::clone(&remote.end);
        let thread = std::thread::Builder::new().name("procession-run".into());
        wait::with_signals_blocked(|| {
            thread.spawn(move || {
                let outcome = body();
                *end.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                end.changed.notify_all();
            })
        })?;
        Ok(Self { remote, unheard })
    }

    /// Asks all copies to end, and starts none any more. Does not wait.
    pub fn stop(&self) {
        self.remote.event(Event::Stop);
    }

    /// Kills all copies, with all that they have started. Does not wait.
    pub fn kill(&self) {
        self.remote.event(Event::Kill);
    }

    /// Starts none any more; those that run may go on until they end by themselves.
    pub fn drain(&self) {
        self.remote.event(Event::Drain);
    }

    /// From now on so many copies; those with the highest numbers are stopped.
    pub fn scale(&self, copies: u32) {
        self.remote.event(Event::Scale(copies));
    }

    /// Replaces these copies, one after the other: the next when the one before is up again.
    pub fn restart(&self, ids: &[u32]) {
        self.remote.event(Event::Restart(ids.to_vec()));
    }

    /// Stops these copies; they rest until [`start_copies`](Self::start_copies).
    pub fn stop_copies(&self, ids: &[u32]) {
        self.remote.event(Event::Rest(ids.to_vec()));
    }

    /// Starts these copies, whether they were stopped or have failed: what was is forgiven.
    pub fn start_copies(&self, ids: &[u32]) {
        self.remote.event(Event::Start(ids.to_vec()));
    }

    /// Signals these copies, and all that they have started.
    pub fn signal(&self, ids: &[u32], signal: i32) {
        self.remote.send(Word::Signal(ids.to_vec(), signal));
    }

    /// Stops this whole process and all copies, as Ctrl-Z would, until it is continued (SIGCONT). No delay and no timeout counts
    /// that time.
    pub fn suspend(&self) {
        self.remote.send(Word::Suspend);
    }

    /// Opens all logs anew: somebody has moved them.
    pub fn reopen_logs(&self) {
        self.remote.send(Word::Reopen);
    }

    /// How the copies fare; none any more when it is over.
    #[must_use]
    pub fn status(&self) -> Vec<PlaceStatus> {
        self.remote.status()
    }

    /// Waits until it is over. As often as you like, from any thread.
    pub fn wait(&self) -> Outcome {
        loop {
            if let Some(outcome) = self.remote.wait_until(None) {
                return outcome;
            }
        }
    }

    /// Waits until it is over, or `limit` is: `None`.
    pub fn wait_timeout(&self, limit: Duration) -> Option<Outcome> {
        self.remote.wait_until(Instant::now().checked_add(limit))
    }

    /// Did it end because what the copies print found no way out of stdout? `BrokenPipe`: whoever read it went away.
    #[must_use]
    pub fn output_error(&self) -> Option<io::ErrorKind> {
        self.unheard.get().copied()
    }

    #[cfg(feature = "cli")]
    pub(crate) fn remote(&self) -> Remote {
        self.remote.clone()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.remote.outcome().is_none() {
            self.kill();
            let _ = self.wait_timeout(Duration::from_secs(5));
            self.remote.send(Word::Abandon);
            let _ = self.wait_timeout(Duration::from_secs(5));
        }
    }
}

impl Remote {
    fn send(&self, word: Word) {
        // Who does not hear any more has nothing to do any more.
        let _ = self.words.send(word);
    }

    pub(crate) fn event(&self, event: Event) {
        self.send(Word::Event(event));
    }

    fn outcome(&self) -> Option<Outcome> {
        self.end.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Option<Outcome> {
        let mut outcome = self.end.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let mut in_time = true;
        while outcome.is_none() && in_time {
            (outcome, in_time) = wait::sleep(&self.end.changed, outcome, deadline);
        }
        outcome.clone()
    }

    pub(crate) fn status(&self) -> Vec<PlaceStatus> {
        let (answer, answered) = channel();
        self.send(Word::Status(answer));
        answered.recv().unwrap_or_default()
    }
}

#[cfg(feature = "cli")]
impl Remote {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn suspend(&self) {
        self.send(Word::Suspend);
    }

    pub(crate) fn reopen(&self) {
        self.send(Word::Reopen);
    }

    /// No more waiting for anything: whatever is left is killed with the keeper.
    pub(crate) fn abandon(&self) {
        self.send(Word::Abandon);
    }

    pub(crate) fn signal(&self, ids: Vec<u32>, signal: i32) {
        self.send(Word::Signal(ids, signal));
    }

    pub(crate) fn observe(&self, observer: Observer) {
        self.send(Word::Observe(observer));
    }

    pub(crate) fn listen(&self, listener: Listener) {
        self.send(Word::Listen(listener));
    }

    pub(crate) fn warn(&self, text: String) {
        self.send(Word::Warn(text));
    }
}
