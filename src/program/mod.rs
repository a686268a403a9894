//! A program to be run: what is known before it exists.

mod ask;

pub(crate) use ask::Prepared;
pub use procession_worker::keeper::protocol::Stage;

use crate::process::Stdio;
use crate::process::plan::Streams;
use procession_worker::keeper::protocol::LIMITS;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// At most so much, for a program and each process it starts, enforced by the kernel (setrlimit(2)).
///
/// A limit that cannot be set (it is above the hard limit of this process) is an error of the start, never ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// Bytes of address space. An allocation beyond it fails, and what the program makes of that is its own affair: most
    /// exit or abort, and that is their [`Cause`](crate::Cause).
    Memory(u64),
    /// Processor time, in whole seconds, rounded up, 1 at least. Beyond it: SIGXCPU, and SIGKILL a second later. The cause
    /// is [`CpuTime`](crate::Cause::CpuTime).
    CpuTime(Duration),
    /// One more than the highest number of a descriptor.
    OpenFiles(u64),
    /// Bytes in any one file. Beyond it: SIGXFSZ. The cause is [`FileSize`](crate::Cause::FileSize).
    FileSize(u64),
    /// Bytes in a core dump; 0 for none.
    CoreSize(u64),
}

impl Limit {
    /// Its place among the others, in the order of the protocol, and its value.
    fn place(self) -> (usize, u64) {
        match self {
            Self::Memory(bytes) => (0, bytes),
            Self::CpuTime(time) => {
                (1, time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1))
            }
            Self::OpenFiles(count) => (2, count),
            Self::FileSize(bytes) => (3, bytes),
            Self::CoreSize(bytes) => (4, bytes),
        }
    }
}

/// A program that is to run below a [`Keeper`](crate::Keeper). This is the description;
/// [`Keeper::start`](crate::Keeper::start) makes it live.
///
/// It gets a session of its own, every signal unblocked and as its default, and no descriptors but 0 to 2 and those
/// [passed](Self::pass).
/// Unless told otherwise it reads from /dev/null, prints where this process prints, works in this process's directory and
/// has its environment.
///
/// ```
/// use procession::{Keeper, Program, Stdio};
/// use std::io::Read;
///
/// let keeper = Keeper::new()?;
/// let program = Program::new("sh").args(["-c", "echo $GREETING"]).env("GREETING", "hello").stdout(Stdio::Piped);
/// let mut running = keeper.start(program)?;
/// let mut said = String::new();
/// running.take_stdout().expect("it was piped").read_to_string(&mut said)?;
/// assert_eq!(said, "hello\n");
/// assert!(running.wait()?.cause().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing runs until it is started"]
#[doc(alias("Popen", "Command"))]
pub struct Program {
    path: OsString,
    /// The argument before the first; the path unless given.
    name_inside: Option<OsString>,
    arguments: Vec<OsString>,
    clear: bool,
    env: BTreeMap<OsString, Option<OsString>>,
    dir: Option<PathBuf>,
    streams: Streams,
    passed: Vec<(OwnedFd, i32)>,
    limits: [Option<u64>; LIMITS],
    name: Option<String>,
}

impl Program {
    /// A program by its path or, without a slash in it, by its name: it is then looked for in the directories of `PATH`, as
    /// its own environment has it.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            name_inside: None,
            arguments: Vec::new(),
            clear: false,
            env: BTreeMap::new(),
            dir: None,
            streams: Streams::default(),
            passed: Vec::new(),
            limits: [None; LIMITS],
            name: None,
        }
    }

    /// This very program again, with these arguments, the name it is called by among them.
    pub(crate) fn again(mut arguments: Vec<OsString>, streams: Streams) -> Self {
        let name = arguments.drain(..arguments.len().min(1)).next();
        Self { name_inside: name, arguments, streams, ..Self::new("/proc/self/exe") }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(key.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Takes an environment variable away.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.insert(key.as_ref().to_owned(), None);
        self
    }

    /// Takes all of this process's variables away, and those set so far.
    pub fn env_clear(mut self) -> Self {
        self.clear = true;
        self.env.clear();
        self
    }

    /// Where it works. The program's path, if it is relative, counts from there.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Where it reads from; /dev/null unless given.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams.0[0] = stdio.into();
        self
    }

    /// Where it prints to; this process's own stream unless given.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams.0[1] = stdio.into();
        self
    }

    /// Where it complains; this process's own stream unless given.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.streams.0[2] = stdio.into();
        self
    }

    /// Passes another open descriptor, which the program finds under `number`, 3 or more; at most 64.
    pub fn pass(mut self, fd: impl Into<OwnedFd>, number: i32) -> Self {
        self.passed.push((fd.into(), number));
        self
    }

    /// Sets a limit; the last one of each kind counts.
    pub fn limit(mut self, limit: Limit) -> Self {
        let (place, value) = limit.place();
        self.limits[place] = Some(value);
        self
    }

    /// What it is called in errors and lists; the last part of its path unless given.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    fn display_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let path = Path::new(&self.path);
            path.file_name().unwrap_or(&self.path).to_string_lossy().into_owned()
        })
    }
}

/// This process's ends of what was piped.
pub(crate) type Piped = [Option<File>; 3];
