//! One child, cradle to grave.

mod body;
pub(crate) mod call;
mod cell;
mod child;
pub(crate) mod link;
pub(crate) mod plan;
pub(crate) mod roster;

pub(crate) use cell::{CLOSING, refused};
pub use child::Child;
pub use plan::Stdio;
pub use roster::{ChildInfo, active_children};

use crate::error::SpawnError;
use call::Call;
use plan::{Settings, Streams};
use procession_worker::current::next_path;
use procession_worker::task::Task;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

/// How long a worker may take from exec to Hello unless told otherwise.
pub(crate) const BIRTH_LIMIT: Duration = Duration::from_secs(30);

/// A function that is to run in a process of its own. This is the description; [`start`](Self::start) makes it live.
///
/// ```
/// use procession::Process;
///
/// let child = Process::new(|a: u32, b: u32| a + b, (1, 2)).name("adder").start()?;
/// assert_eq!(child.join()?, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Python's `class Worker(Process): def run(self)` is a type that implements [`Run`], and [`Process::of`].
#[must_use = "nothing runs until it is started"]
pub struct Process<R> {
    call: Result<Call, SpawnError>,
    name: String,
    path: Vec<u64>,
    settings: Settings,
    streams: Streams,
    birth_limit: Duration,
    result: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An object with a state of its own whose work is done in another process: Python's subclass of `Process` with a `run`
/// method. The value itself is what travels.
///
/// ```
/// use procession::{Process, Run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Greeter { whom: String }
///
/// impl Run for Greeter {
///     type Output = String;
///     fn run(self) -> String { format!("hello {}", self.whom) }
/// }
///
/// let child = Process::of(Greeter { whom: "bob".into() }).start()?;
/// assert_eq!(child.join()?, "hello bob");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "run")]
pub trait Run: Serialize + DeserializeOwned + 'static {
    /// What comes back.
    type Output: Serialize + DeserializeOwned;

    /// The work, done in the child.
    fn run(self) -> Self::Output;
}

impl<R> Process<R> {
    /// A process that calls `f` with `args`, a tuple. A value that cannot be encoded is told by [`start`](Self::start).
    ///
    /// The default name is `Process-N`; every description counts, named or not, as in Python. In a worker the numbers of
    /// its ancestors come first: `Process-2:1`.
    ///
    /// A closure that captures something does not compile:
    ///
    /// ```compile_fail
    /// let y = 1;
    /// let child = procession::Process::new(move |x: i32| x + y, (1,)).start();
    /// ```
    ///
    /// Neither does a function pointer; name the function itself:
    ///
    /// ```compile_fail
    /// let f: fn(i32) -> i32 = i32::abs;
    /// let child = procession::Process::new(f, (1,)).start();
    /// ```
    pub fn new<A, F>(f: F, args: A) -> Self
    where
        F: Task<A, Output = R>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned,
    {
        let call = Call::new(f, &args);
        let path = next_path();
        let numbers: Vec<String> = path.iter().map(ToString::to_string).collect();
        Self {
            call,
            name: format!("Process-{}", numbers.join(":")),
            path,
            settings: Settings::default(),
            streams: Streams::default(),
            birth_limit: BIRTH_LIMIT,
            result: PhantomData,
        }
    }

    /// A process that runs an object: Python's subclass of `Process`.
    pub fn of<W: Run<Output = R>>(work: W) -> Self
    where
        R: Serialize + DeserializeOwned,
    {
        Self::new(W::run, (work,))
    }

    /// Names the process.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets an environment variable of the child.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.settings.set_env(key.as_ref(), Some(value.as_ref()));
        self
    }

    /// Takes an environment variable from the child.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.settings.set_env(key.as_ref(), None);
        self
    }

    /// Where the child works. If it cannot go there, `join` says so.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.settings.current_dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Where the child reads from; /dev/null unless given.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams.0[0] = stdio.into();
        self
    }

    /// Where the child prints to; the parent's own stream unless given.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams.0[1] = stdio.into();
        self
    }

    /// Where the child complains; the parent's own stream unless given.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams.0[2] = stdio.into();
        self
    }

    /// Has the child live below a [`Keeper`](crate::Keeper), one for all of this program that are to: then nothing
    /// that it starts survives it, nor this process, wherever it has gone (setsid, double fork), not even when this
    /// process is killed with SIGKILL. Without one that holds for the child and its process group. Off unless given.
    ///
    /// It runs in a session of its own, and its birth takes a message more. Should the keeper be killed, its workers die
    /// with it, their tasks are lost, and the next worker gets a new one.
    ///
    /// ```
    /// let child = procession::Process::new(u32::pow, (2, 5)).keeper(true).start()?;
    /// assert_eq!(child.join()?, 32);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keeper(mut self, yes: bool) -> Self {
        self.settings.keep(yes);
        self
    }

    /// How long the child may take from its start until it is ready to work; 30 s unless given. Then it is killed, and
    /// `join` says how far it came.
    pub fn birth_timeout(mut self, limit: Duration) -> Self {
        self.birth_limit = limit;
        self
    }

    /// Starts the process. Returns as soon as it exists; what it makes of its life is told by the [`Child`].
    ///
    /// # Errors
    /// The arguments could not be encoded, the function lies in a shared library, or the system said no: EMFILE, EAGAIN,
    /// ENOMEM. Nothing is left behind then.
    pub fn start(self) -> Result<Child<R>, SpawnError> {
        self.settings.prepare()?;
        child::start(self.call?, self.name.into(), self.path, self.settings, self.streams, self.birth_limit)
    }
}
