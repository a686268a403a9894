//! How a worker is to be started: everything that is known before it exists.

use super::body::{Body, Kept, keeper};
use crate::error::SpawnError;
use crate::keeper::Keeper;
use crate::program::Program;
use crate::sys::EINVAL;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::{Stream, above_stdio, pipe, reopen_read_end, spawn_self};
use procession_worker::current::current_process;
use procession_worker::entry::{FLAG, Spec, starts_in_init};
use procession_worker::ipc::Page;
use procession_worker::sys::{fd, image, socket};
use procession_worker::wire::codec;
use procession_worker::wire::frame;
use procession_worker::wire::message::{Birth, Down, PROTOCOL};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::link::{Ends, Link};

/// Where a standard stream of a child comes from or goes to.
///
/// Unless told otherwise, a worker reads from /dev/null and writes to its parent's streams.
#[derive(Debug)]
#[non_exhaustive]
#[derive(Default)]
pub enum Stdio {
    /// The parent's own.
    #[default]
    Inherit,
    /// /dev/null.
    Null,
    /// A pipe, whose other end the parent takes from the child's handle. A child that writes more than a pipe holds
    /// waits until it is read.
    Piped,
    /// An open file.
    File(File),
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        Self::File(file)
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self::File(fd.into())
    }
}

/// The settings that a process and a pool's workers have in common.
#[derive(Debug, Default, Clone)]
pub(crate) struct Settings {
    /// `None` removes the variable.
    env: BTreeMap<OsString, Option<OsString>>,
    /// Set unless the environment has it already.
    defaults: BTreeMap<OsString, OsString>,
    pub(crate) current_dir: Option<PathBuf>,
    kept: bool,
    /// While there are settings, there is the keeper.
    keeper: Arc<Mutex<Option<Arc<Keeper>>>>,
}

impl Settings {
    pub(crate) fn set_env(&mut self, key: &OsStr, value: Option<&OsStr>) {
        self.env.insert(key.to_owned(), value.map(OsStr::to_owned));
    }

    pub(crate) fn set_default_env(&mut self, key: &str, value: &str) {
        self.defaults.insert(key.into(), value.into());
    }

    pub(crate) const fn keep(&mut self, yes: bool) {
        self.kept = yes;
    }

    pub(crate) const fn is_kept(&self) -> bool {
        self.kept
    }

    /// Starts the keeper, if one is wanted and there is none yet.
    ///
    /// # Errors
    /// As [`Keeper::new`].
    pub(crate) fn prepare(&self) -> Result<(), SpawnError> {
        self.keeper().map(drop)
    }

    fn keeper(&self) -> Result<Option<Arc<Keeper>>, SpawnError> {
        if !self.kept {
            return Ok(None);
        }
        let mut ours = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if !ours.as_ref().is_some_and(|keeper| keeper.is_alive()) {
            // None yet, or it was killed.
            *ours = Some(keeper()?);
        }
        Ok(ours.clone())
    }

    fn environment(&self) -> BTreeMap<OsString, OsString> {
        let mut all: BTreeMap<OsString, OsString> = self.defaults.clone();
        all.extend(std::env::vars_os());
        for (key, value) in &self.env {
            match value {
                Some(value) => all.insert(key.clone(), value.clone()),
                None => all.remove(key),
            };
        }
        all
    }
}

/// As execve takes it.
fn entries(environment: BTreeMap<OsString, OsString>) -> Result<Vec<CString>, SpawnError> {
    let entry = |(key, value): (OsString, OsString)| {
        let entry = [key.as_bytes(), b"=", value.as_bytes()].concat();
        let refused = SpawnError::System { stage: "an environment variable has a NUL in it", errno: EINVAL };
        CString::new(entry).map_err(|_| refused)
    };
    environment.into_iter().map(entry).collect()
}

/// The three streams as asked for.
#[derive(Debug)]
pub(crate) struct Streams(pub(crate) [Stdio; 3]);

impl Default for Streams {
    fn default() -> Self {
        Self([Stdio::Null, Stdio::Inherit, Stdio::Inherit])
    }
}

/// The parent's ends of what was piped.
pub(crate) type Piped = [Option<File>; 3];

impl Streams {
    pub(crate) fn open(self) -> io::Result<([Stream; 3], Piped)> {
        let mut piped = [None, None, None];
        let mut streams = [Stream::Inherit, Stream::Inherit, Stream::Inherit];
        for (number, stdio) in self.0.into_iter().enumerate() {
            streams[number] = match stdio {
                Stdio::Inherit => Stream::Inherit,
                Stdio::Null => Stream::Null,
                // A source among the standard streams could be overwritten before it is copied.
                Stdio::File(file) => Stream::Fd(above_stdio(file.into())?),
                Stdio::Piped => {
                    let (read, write) = pipe()?;
                    let (theirs, ours) = if number == 0 { (read, write) } else { (write, read) };
                    piped[number] = Some(ours.into());
                    Stream::Fd(theirs)
                }
            };
        }
        Ok((streams, piped))
    }
}

/// A pipe that is never written to: its end tells every worker that this process is gone.
fn lifeline() -> io::Result<&'static (OwnedFd, OwnedFd)> {
    static LIFELINE: OnceLock<(OwnedFd, OwnedFd)> = OnceLock::new();
    if let Some(lifeline) = LIFELINE.get() {
        return Ok(lifeline);
    }
    let fresh = pipe()?;
    Ok(LIFELINE.get_or_init(|| fresh))
}

/// The socket beside the pipes: our end, and the worker's.
fn tray() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socket::pair()?;
    Ok((above_stdio(ours)?, above_stdio(theirs)?))
}

/// The program's own arguments, with the flag behind the first.
fn arguments(spec: &Spec) -> Vec<OsString> {
    let mut own = std::env::args_os();
    let mut all = vec![own.next().unwrap_or_default(), format!("{FLAG}{spec}").into()];
    all.extend(own);
    all
}

/// Executes this program again as a keeper's child, with these descriptors under the numbers they have here.
fn start_kept(
    keeper: Arc<Keeper>,
    name: &str,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    streams: Streams,
    pass: &[BorrowedFd<'_>],
) -> Result<(Body, Piped), SpawnError> {
    let mut program = Program::again(arguments, streams).name(name).env_clear();
    for (key, value) in environment {
        program = program.env(key, value);
    }
    for fd in pass {
        let copy = fd.try_clone_to_owned().map_err(SpawnError::system("passing the worker's descriptors"))?;
        program = program.pass(copy, fd.as_raw_fd());
    }
    let mut running = keeper.start(program)?;
    let piped = [
        running.take_stdin().map(|pipe| OwnedFd::from(pipe).into()),
        running.take_stdout().map(|pipe| OwnedFd::from(pipe).into()),
        running.take_stderr().map(|pipe| OwnedFd::from(pipe).into()),
    ];
    let kept = Kept::new(running, keeper).map_err(SpawnError::system("watching the process"))?;
    Ok((Body::Kept(kept), piped))
}

/// Starts a worker and tells it who it is. Without a keeper only on the reactor's thread: the worker dies with the
/// thread that started it.
///
/// # Errors
/// What the system says, with the stage; nothing is left behind then.
pub(crate) fn start(
    settings: &Settings,
    streams: Streams,
    name: &Arc<str>,
    path: Vec<u64>,
    once: bool,
) -> Result<(Link, Piped), SpawnError> {
    if !image::is_main() {
        return Err(SpawnError::ForeignImage(
            "procession lies in a shared library, and a worker executes only the main program; link it into the program".into(),
        ));
    }
    let keeper = settings.keeper()?;
    let (calls_read, calls_write) = pipe().map_err(SpawnError::system("making the worker's pipes"))?;
    let (outcomes_read, outcomes_write) = pipe().map_err(SpawnError::system("making the worker's pipes"))?;
    for end in [&calls_write, &outcomes_read] {
        fd::set_nonblocking(end).map_err(SpawnError::system("making the worker's pipes"))?;
    }
    let (tray, their_tray) = tray().map_err(SpawnError::system("making the worker's socket"))?;
    let nonce = RandomState::new().build_hasher().finish();
    let page = Page::create(nonce).map_err(SpawnError::system("making the worker's page"))?;
    let lifeline = lifeline()
        .and_then(|(read, _write)| reopen_read_end(read))
        .map_err(SpawnError::system("making the worker's lifeline"))?;
    let spec = Spec {
        calls: calls_read.as_raw_fd(),
        outcomes: outcomes_write.as_raw_fd(),
        tray: their_tray.as_raw_fd(),
        page: page.file().as_raw_fd(),
        lifeline: lifeline.as_raw_fd(),
        nonce,
        in_init: starts_in_init(),
        kept: keeper.is_some(),
    };
    let birth = Birth {
        protocol: PROTOCOL,
        image: image::id(),
        name: name.to_string(),
        path,
        parent_name: current_process().name().to_owned(),
        current_dir: settings.current_dir.as_ref().map(|dir| dir.as_os_str().as_bytes().to_vec()),
        once,
    };
    let mut greeting = Vec::new();
    let birth = codec::encode(&birth)
        .map_err(|_| SpawnError::System { stage: "naming the worker", errno: EINVAL })?;
    frame::push(&mut greeting, Down::Birth as u8, &birth);
    let pass = [
        calls_read.as_fd(),
        outcomes_write.as_fd(),
        their_tray.as_fd(),
        page.file().as_fd(),
        lifeline.as_fd(),
    ];
    let (arguments, environment) = (arguments(&spec), settings.environment());
    let (process, piped) = match keeper {
        Some(keeper) => start_kept(keeper, name, arguments, environment, streams, &pass)?,
        None => {
            let (streams, piped) =
                streams.open().map_err(SpawnError::system("opening the standard streams"))?;
            let text = |text: OsString| CString::new(text.into_vec()).unwrap_or_default();
            let arguments: Vec<CString> = arguments.into_iter().map(text).collect();
            let pass = pass.each_ref().map(|fd| fd as &dyn AsRawFd);
            let pid = spawn_self(&arguments, &entries(environment)?, &streams, &pass)
                .map_err(SpawnError::system("starting the process"))?;
            let process = PidFd::open(pid).map_err(SpawnError::system("opening the process"))?;
            (Body::Child(process), piped)
        }
    };
    let ends = Ends { outcomes: outcomes_read, calls: calls_write.into(), tray: tray.into(), process };
    Ok((Link::new(Arc::clone(name), ends, calls_read, page, greeting), piped))
}
