//! Programs of any kind, kept by a process of their own: nothing of them survives us. The picture is in
//! `worker/src/keeper/README.md`.

mod cell;
mod link;
mod running;

pub use cell::{Ended, Usage};
pub use running::Running;

use crate::error::SpawnError;
use crate::program::{Prepared, Program};
use crate::sys::EAGAIN;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::{above_stdio, spawn_keeper};
use link::{Link, MARKS};
use procession_worker::keeper::{FLAG, Spec};
use procession_worker::sys::{image, socket, tree};
use std::ffi::{CString, OsString};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a keeper may take to answer unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long `Drop` waits.
const BURIAL: Duration = Duration::from_secs(5);
/// When there are too many processes, a program is tried so often.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// A small process that runs programs for this one, and sees to it that none survives: not a daemon that forks twice, not one
/// that ignores every signal, not when this process is killed with SIGKILL.
///
/// It is the parent of every [`Program`] it starts and adopts every descendant of theirs that loses its own parent. It has a
/// single thread, sleeps unless something happens, is in a session of its own (Ctrl-C does not reach it), and ends with this
/// process: then it kills all it has below it, and only then ends.
///
/// ```
/// use procession::{Keeper, Program, Stage, SpawnError};
///
/// let keeper = Keeper::new()?;
/// assert!(keeper.start(Program::new("true"))?.wait()?.cause().is_ok());
/// let error = keeper.start(Program::new("no-such-program")).expect_err("there is none");
/// assert!(matches!(error, SpawnError::Program { stage: Stage::Exec, .. }));
/// assert_eq!(error.cause().exit_code(), 127);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What it was born with it passes on: user, umask, priority, processors. Later changes of these here do not reach it; the
/// directory and the environment are those of the moment a program is started.
///
/// If the keeper itself is killed, every program dies at once (it is their parent-death signal), whatever they have started is
/// found and killed by this process, and each ends with [`Cause::Lost`](crate::Cause::Lost). Make a new one then. The one
/// hole: both killed within the same moment.
///
/// # Drop
/// Kills everything that was started through it and is still there, detached or not, and waits until it is gone, at most 5 s.
#[must_use = "dropped, what it keeps is ended"]
pub struct Keeper {
    link: Arc<Link>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("pid", &self.pid()).field("running", &self.running()).finish()
    }
}

/// How a [`Keeper`] is to be; from [`Keeper::builder`].
#[derive(Debug, Clone, Copy)]
#[must_use = "nothing happens until it is built"]
pub struct KeeperBuilder {
    subreaper: bool,
    patience: Duration,
}

impl KeeperBuilder {
    /// Makes this process the one that orphans come to if the keeper dies before it (`PR_SET_CHILD_SUBREAPER`), rather than
    /// init: for a program that is all about its children. They are killed in either case; this way they are also reaped
    /// here. Off unless given; stays as long as this process does.
    pub const fn subreaper(mut self, yes: bool) -> Self {
        self.subreaper = yes;
        self
    }

    /// How long the keeper may take to answer; 10 s unless given.
    pub const fn answer_timeout(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Starts the keeper.
    ///
    /// # Errors
    /// [`SpawnError::System`]: EMFILE, EAGAIN, ENOMEM. [`KeeperGone`](SpawnError::KeeperGone): it cannot live here, with the
    /// reason; Linux 5.4 and a kernel with `CONFIG_PROC_CHILDREN` are necessary.
    /// [`KeeperSilent`](SpawnError::KeeperSilent). [`ForeignImage`](SpawnError::ForeignImage): this library is not part of
    /// the main program.
    pub fn build(self) -> Result<Keeper, SpawnError> {
        if !image::is_main() {
            let text = "procession lies in a shared library, and a keeper executes only the main program; link it into the program";
            return Err(SpawnError::ForeignImage(text.into()));
        }
        if self.subreaper {
            tree::adopt_orphans().map_err(SpawnError::system("becoming a subreaper"))?;
        }
        let making = SpawnError::system("making the keeper's socket");
        let pair = socket::pair().and_then(|(ours, theirs)| Ok((above_stdio(ours)?, above_stdio(theirs)?)));
        let (ours, theirs) = pair.map_err(making)?;
        let spec = Spec { socket: theirs.as_raw_fd(), owner: std::process::id(), marks: marks() };
        let home = std::env::current_dir().ok();
        let starting = SpawnError::system("starting the keeper");
        let process = spawn_keeper(&arguments(&spec), &environment(), &theirs)
            .and_then(PidFd::open)
            .map_err(starting)?;
        drop(theirs);
        let keeper = Keeper { link: Link::new(ours, process, home, spec.marks, self.patience) };
        keeper.link.open()?;
        Ok(keeper)
    }
}

/// The program's name, for lists of processes, and the flag.
fn arguments(spec: &Spec) -> [CString; 2] {
    let name = std::env::args_os().next().unwrap_or_default();
    [name.into_vec(), format!("{FLAG}{spec}").into_bytes()].map(|text| CString::new(text).unwrap_or_default())
}

/// The loader may need it.
fn environment() -> Vec<CString> {
    let join = |(key, value): (OsString, OsString)| [key.as_bytes(), b"=", value.as_bytes()].concat();
    std::env::vars_os().filter_map(|variable| CString::new(join(variable)).ok()).collect()
}

/// Marks that no other keeper uses: somewhere in the upper half of what this process could itself set as its limit.
fn marks() -> Option<u64> {
    /// Two centuries; less is a limit that somebody means.
    const ENDLESS: u64 = 1 << 53;
    let most = tree::tag(0)?.min(1 << 62);
    let first =
        most / 2 + RandomState::new().build_hasher().finish() % (most / 2).saturating_sub(MARKS).max(1);
    (most > ENDLESS).then_some(first)
}

impl Keeper {
    /// Starts a keeper.
    ///
    /// # Errors
    /// As [`KeeperBuilder::build`].
    pub fn new() -> Result<Self, SpawnError> {
        Self::builder().build()
    }

    /// A keeper with more to say about it.
    pub const fn builder() -> KeeperBuilder {
        KeeperBuilder { subreaper: false, patience: PATIENCE }
    }

    /// Starts a program. Returns when it is executed.
    ///
    /// When the system has no process to give (EAGAIN), it is tried again for a third of a second.
    ///
    /// # Errors
    /// [`SpawnError::Program`] with the stage: the program was not found or is not executable, its directory is not there, a
    /// limit cannot be set, the system has no more processes or descriptors. [`KeeperGone`](SpawnError::KeeperGone),
    /// [`KeeperSilent`](SpawnError::KeeperSilent). Nothing is left behind then.
    pub fn start(&self, program: Program) -> Result<Running, SpawnError> {
        let (mut prepared, piped) = Prepared::new(program, self.link.home.as_deref())?;
        let mut pause = FIRST_PAUSE;
        let mut attempts = 1;
        loop {
            match self.link.start(&mut prepared) {
                Ok(cell) => return Ok(Running::new(cell, piped)),
                Err(SpawnError::Program { errno: EAGAIN, .. }) if attempts < ATTEMPTS => {
                    self.link.wait_for_an_end(pause);
                    (attempts, pause) = (attempts + 1, 2 * pause);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for a program and does not wait, perhaps for one that is to begin when nothing is left of another: `then` is told
    /// how it ended, or that it could not be started (EAGAIN is not tried again), or was [recalled](Running::recall). It is
    /// called by whoever hears the keeper: the [`Lead`], if there is one.
    pub(crate) fn begin(
        &self,
        program: Program,
        after: Option<&Running>,
        then: impl FnOnce(Result<Ended, SpawnError>) + Send + 'static,
    ) -> Result<Running, SpawnError> {
        let (mut prepared, piped) = Prepared::new(program, self.link.home.as_deref())?;
        let deadline = Instant::now().checked_add(self.link.patience);
        let cell = self.link.begin(&mut prepared, after.map(Running::id), deadline)?;
        cell.when_over(Box::new(then));
        Ok(Running::new(cell, piped))
    }

    /// Has the caller hear the keeper from now on, rather than the reactor; `None` if another does. Nobody may wait for a
    /// program meanwhile but by [`begin`](Self::begin).
    pub(crate) fn lead(&self) -> Option<Lead> {
        self.link.take_lead().then(|| Lead(Arc::clone(&self.link)))
    }

    /// The keeper's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.link.process.pid()
    }

    /// Does it live? A dead one starts nothing any more.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.link.is_alive()
    }

    /// How many programs run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.link.running()
    }
}

/// The hearing of a keeper, until it is dropped; its descriptor is readable when there is something to hear.
pub(crate) struct Lead(Arc<Link>);

impl Lead {
    /// Hears what there is, and calls who is to be told.
    pub(crate) fn listen(&self) {
        self.0.listen();
    }
}

impl AsFd for Lead {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.0.end_lead();
    }
}

impl AsFd for Keeper {
    /// The keeper's pidfd: readable once it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.process.as_fd()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.link.close(BURIAL);
    }
}
