//! The far side: asks, and hears.

use super::protocol::{Reply, Request, Row, line};
use procession_worker::sys::{door, socket};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum TalkError {
    /// Nobody listens there; what to do, in words.
    Nobody(String),
    /// It said no, or nothing that makes sense.
    Refused(String),
}

/// Knows where to ask.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    path: PathBuf,
}

impl Client {
    /// By the socket, by name, or the only one there is.
    pub(crate) fn find(socket: Option<&Path>, name: Option<&str>) -> Result<Self, TalkError> {
        if let Some(path) = socket {
            return Ok(Self { path: path.into() });
        }
        let dir = super::dir().map_err(|error| TalkError::Nobody(error.to_string()))?;
        if let Some(name) = name {
            return Ok(Self { path: dir.join(format!("{name}.sock")) });
        }
        let listed =
            fs::read_dir(&dir).map_err(|error| TalkError::Nobody(format!("{}: {error}", dir.display())))?;
        let sockets = listed
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "sock"));
        let live: Vec<PathBuf> =
            sockets.filter(|path| door::connect(path, Some(Instant::now() + PATIENCE)).is_ok()).collect();
        match live.as_slice() {
            [] => Err(TalkError::Nobody("nothing runs; start it: procession run -- PROG".into())),
            [path] => Ok(Self { path: path.clone() }),
            several => {
                let names: Vec<_> = several.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
                Err(TalkError::Refused(format!("which one? these run: {}", names.join(", "))))
            }
        }
    }

    fn connect(&self) -> Result<OwnedFd, TalkError> {
        door::connect(&self.path, Some(Instant::now() + PATIENCE)).map_err(|error| {
            let name = self.path.file_stem().unwrap_or_default().to_string_lossy();
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    TalkError::Nobody(format!("{name} does not run ({}: {error})", self.path.display()))
                }
                _ => TalkError::Refused(format!("{}: {error}", self.path.display())),
            }
        })
    }

    /// Asks; the stream from which all that was not part of the answer can be read.
    pub(crate) fn ask(&self, request: &Request) -> Result<(Vec<Row>, Stream), TalkError> {
        let socket = self.connect()?;
        let mut bytes = line(request);
        while !bytes.is_empty() {
            let written = socket::write(&socket, &bytes, true).map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => gone(),
                _ => TalkError::Refused(format!("{}: {error}", self.path.display())),
            })?;
            bytes.drain(..written);
        }
        let (mut stream, mut rows) = (Stream { socket, rest: Vec::new() }, Vec::new());
        loop {
            let line = stream
                .line(Some(PATIENCE))
                .map_err(|error| TalkError::Refused(format!("{}: {error}", self.path.display())))?;
            let Some(line) = line else {
                return Err(gone());
            };
            match serde_json::from_slice(&line) {
                Ok(Reply::Row(row)) => rows.push(row),
                Ok(Reply::Done(_)) => return Ok((rows, stream)),
                Ok(Reply::Error(text)) => return Err(TalkError::Refused(text)),
                Err(error) => return Err(TalkError::Refused(format!("it said nonsense: {error}"))),
            }
        }
    }

    /// How the copies fare.
    pub(crate) fn status(&self) -> Result<Vec<Row>, TalkError> {
        self.ask(&Request::Status).map(|(rows, _)| rows)
    }
}

fn gone() -> TalkError {
    TalkError::Nobody("it ended, or is too busy to answer; try again".into())
}

/// What comes from the other side.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    rest: Vec<u8>,
}

impl Stream {
    /// A line, with its end; `None` when there are no more.
    ///
    /// # Errors
    /// `TimedOut`; what the system says.
    pub(crate) fn line(&mut self, limit: Option<Duration>) -> io::Result<Option<Vec<u8>>> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut looked = 0;
        loop {
            if let Some(at) = self.rest[looked..].iter().position(|&b| b == b'\n') {
                return Ok(Some(self.rest.drain(..=looked + at).collect()));
            }
            looked = self.rest.len();
            if !self.more(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Whatever comes next; empty at the end.
    pub(crate) fn bytes(&mut self) -> io::Result<Vec<u8>> {
        if self.rest.is_empty() {
            self.more(None)?;
        }
        Ok(std::mem::take(&mut self.rest))
    }

    /// False at the end.
    fn more(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        loop {
            match socket::read(&self.socket, &mut self.rest, 64 * 1024, false) {
                Ok(count) => return Ok(count > 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !socket::wait(&self.socket, false, deadline)?
                        && deadline.is_some_and(|at| at <= Instant::now())
                    {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}
