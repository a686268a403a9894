//! A started process: look at it, wait for it, end it, take its result.

use super::body::Body;
use super::call::Call;
use super::cell::{Cell, spawn};
use super::plan::{Settings, Streams};
use crate::Exit;
use crate::error::{Codec, Half, SpawnError, TaskError};
use crate::reactor::reactor;
use crate::sys::{ECHILD, SIGINT, SIGTERM};
use procession_worker::ipc::handoff;
use procession_worker::wire::codec;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How long `Drop` waits for a killed child; only a process stuck in the kernel takes longer.
const BURIAL: Duration = Duration::from_secs(5);

pub(super) fn start<R>(
    call: Call,
    name: Arc<str>,
    path: Vec<u64>,
    settings: Settings,
    streams: Streams,
    birth_limit: Duration,
) -> Result<Child<R>, SpawnError> {
    let reactor = reactor().map_err(SpawnError::system("starting the reactor"))?;
    let started = if settings.is_kept() {
        spawn(call, &name, path, &settings, streams, birth_limit)
    } else {
        let (answer, answered) = mpsc::sync_channel(1);
        reactor.run_errand(move || {
            let _ = answer.send(spawn(call, &name, path, &settings, streams, birth_limit));
        });
        answered.recv().unwrap_or(Err(SpawnError::System { stage: "starting the process", errno: ECHILD }))
    };
    let (cell, [stdin, stdout, stderr]) = started?;
    Ok(Child {
        cell,
        stdin: stdin.map(|file| OwnedFd::from(file).into()),
        stdout: stdout.map(|file| OwnedFd::from(file).into()),
        stderr: stderr.map(|file| OwnedFd::from(file).into()),
        detached: false,
        result: PhantomData,
    })
}

/// A process that was started; its result is an `R`.
///
/// # Drop
/// Kills the process with its process group (SIGKILL) and waits until it is reaped; at most 5 s, in case it is stuck in
/// the kernel. [`join`](Self::join) and [`detach`](Self::detach) are the gentler ends.
#[must_use = "dropping a child kills it; join or detach it"]
pub struct Child<R> {
    cell: Arc<Cell>,
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    detached: bool,
    result: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for Child<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("exit", &self.exit())
            .finish()
    }
}

impl<R> Child<R> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.cell.name
    }

    /// Its process id. After its end the number may belong to another process; nothing here ever signals by number.
    #[must_use]
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        self.cell.ends.process.pid()
    }

    /// Has it not ended yet?
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.exit().is_none()
    }

    /// How it ended; `None` while it lives. Does not wait.
    #[must_use]
    #[doc(alias = "exitcode")]
    pub fn exit(&self) -> Option<Exit> {
        self.cell.life().exit
    }

    /// Waits until it ends. As often as you like, from any thread; the result stays for [`join`](Self::join).
    ///
    /// # Errors
    /// None today; kept for systems where waiting can fail.
    pub fn wait(&self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.cell.wait(None) {
                return Ok(exit);
            }
        }
    }

    /// Waits until it ends, or `limit` is over: `None`.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, limit: Duration) -> io::Result<Option<Exit>> {
        Ok(self.cell.wait(Instant::now().checked_add(limit)))
    }

    /// Asks it to end: SIGTERM, to the process alone. No error if it has ended.
    ///
    /// # Errors
    /// What the system says; none is known for a child of one's own.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(SIGTERM)
    }

    /// SIGINT, to the process alone. No error if it has ended.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn interrupt(&self) -> io::Result<()> {
        self.signal(SIGINT)
    }

    /// Kills it with its process group: SIGKILL, to what it has started as well; under a
    /// [keeper](crate::Process::keeper), wherever that has gone. No error if it has ended.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> io::Result<()> {
        let mut life = self.cell.life();
        if life.exit.is_none() {
            life.ended_by_handle = true;
            self.process().kill_all();
        }
        Ok(())
    }

    fn process(&self) -> &Body {
        &self.cell.ends.process
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        self.cell.life().ended_by_handle = true;
        self.process().signal(signal)
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

    /// Lets it go on by itself. It is still reaped when it ends, and still dies with this process.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl<R: DeserializeOwned> Child<R> {
    /// Waits until it ends and takes its result.
    ///
    /// Standard streams that were piped and not taken are read to nowhere meanwhile, so that the child cannot stick.
    ///
    /// # Errors
    /// It panicked, died before it had a result, never came to life, or its result could not be encoded or decoded.
    pub fn join(mut self) -> Result<R, TaskError> {
        drop(self.stdin.take());
        for mut pipe in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            // It ends with the last writer. If there is no thread to be had, the pipe is closed instead.
            let _ = std::thread::Builder::new().spawn(move || io::copy(&mut pipe, &mut io::sink()));
        }
        let _ = self.wait();
        match self.cell.life().outcome.take() {
            Some(Ok((bytes, came))) => handoff::unpack(came, || codec::decode(&bytes))
                .map_err(|error| TaskError::Decode(Codec::new(Half::Result, error))),
            Some(Err(error)) => Err(error),
            None => Err(TaskError::Closed),
        }
    }
}

impl<R> AsFd for Child<R> {
    /// Readable once the process has ended: the pidfd; under a keeper another descriptor. Python's `sentinel`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cell.ends.process.as_fd()
    }
}

impl<R> Drop for Child<R> {
    fn drop(&mut self) {
        if self.detached || !self.is_alive() {
            return;
        }
        self.process().kill_all();
        let _ = self.wait_timeout(BURIAL);
    }
}
