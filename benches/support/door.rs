//! A place where a task in another process says that it runs, and is kept until it is let go.

use crate::support::Outcome;
use std::hint::black_box;
use std::io::{self, ErrorKind, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// So long a task may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Listens; its name is in no file system.
pub(crate) struct Door {
    name: String,
    listener: UnixListener,
}

impl Door {
    /// A door for one purpose of this process.
    pub(crate) fn open(purpose: &str) -> Outcome<Self> {
        let name = format!("procession-bench-{}-{purpose}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self { name, listener })
    }

    /// What a task must know.
    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    /// Waits for a task to come. It stays while the connection does.
    pub(crate) fn admit(&self) -> Outcome<UnixStream> {
        let start = Instant::now();
        loop {
            match self.listener.accept() {
                Ok((guest, _)) => return Ok(guest),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                Err(_) if start.elapsed() > PATIENCE => return Err("the task did not start".into()),
                Err(_) => sleep(Duration::from_micros(100)),
            }
        }
    }
}

fn knock(door: &str) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(door)?)
}

/// A task that stays until it is let go.
pub(crate) fn hold(door: String) -> bool {
    knock(&door).and_then(|mut stream| stream.read(&mut [0])).is_ok()
}

/// A task that is busy for ever.
pub(crate) fn spin(door: String) -> bool {
    let stream = knock(&door);
    while black_box(true) {}
    stream.is_ok()
}
