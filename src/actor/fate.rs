//! How an actor's process ended, told to everybody who has a handle, in whatever process: one message in a socket, at which all
//! look and which nobody takes.

use crate::error::{Lost, TaskError, Work};
use crate::exit::Exit;
use crate::process::Child;
use crate::reactor::{Interest, Source, Watch, reactor};
use procession_worker::sys::socket;
use procession_worker::wire::codec;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After a connection has broken, its starter has so long to tell why.
const TELLING: Duration = Duration::from_secs(1);
/// A text that is longer is cut.
const TEXT: usize = 8 << 10;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fate {
    signal: bool,
    code: i32,
    reason: Option<String>,
}

impl Fate {
    /// What the socket says, now or very soon; `None` if the starter has nothing to say.
    pub(super) fn learn(socket: &OwnedFd) -> Option<Self> {
        let deadline = Instant::now() + TELLING;
        while socket::wait(socket, false, Some(deadline)).ok()? {
            let mut bytes = vec![0; 2 * TEXT];
            match socket::peek(socket, &mut bytes) {
                Ok(n) => return codec::decode(&bytes[..n]).ok(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        None
    }

    pub(super) fn lost(fate: Option<Self>, pid: u32, name: &Arc<str>) -> TaskError {
        let (exit, reason) = match fate {
            Some(Self { signal: true, code, reason }) => (Exit::Signal(code), reason),
            Some(Self { signal: false, code, reason }) => (Exit::Code(code), reason),
            None => {
                (Exit::UNKNOWN, Some("it closed the connection, and who started it does not say why".into()))
            }
        };
        TaskError::Lost(Lost {
            exit,
            pid,
            worker: Arc::clone(name),
            reason: reason.map(Into::into),
            index: None,
            work: Work::Call,
        })
    }
}

/// Waits, in the starter, for the end of the actor's process, and tells of it.
pub(super) struct Teller {
    socket: OwnedFd,
    /// Of its own, since the child's is watched by the child's.
    process: OwnedFd,
    state: Mutex<(Option<Child<()>>, Option<Watch>)>,
}

impl Teller {
    pub(super) fn start(child: Child<()>, socket: OwnedFd) -> io::Result<Arc<Self>> {
        let process = child.as_fd().try_clone_to_owned()?;
        let teller = Arc::new(Self { socket, process, state: Mutex::new((Some(child), None)) });
        let source = Arc::clone(&teller) as Arc<dyn Source>;
        // It may have ended before this returns; its teller waits for the lock then.
        let mut state = teller.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = Some(reactor()?.add(&teller.process, Interest::Read, source, 0)?);
        drop(state);
        Ok(teller)
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.as_ref().map_or(Ok(()), Child::kill)
    }
}

impl Source for Teller {
    fn on_ready(&self, _: u64) {
        let (child, watch) = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        if let (Some(watch), Ok(reactor)) = (watch, reactor()) {
            reactor.remove(watch, &self.process);
        }
        let Some(child) = child else { return };
        let exit = child.wait().unwrap_or(Exit::UNKNOWN);
        let reason = match child.join() {
            Ok(()) | Err(TaskError::Lost(_)) => None,
            Err(error) => Some(error.to_string()),
        };
        let reason = reason.map(|text| text[..text.floor_char_boundary(TEXT)].to_owned());
        let (signal, code) = match exit {
            Exit::Code(code) => (false, code),
            Exit::Signal(number) => (true, number),
        };
        if let Ok(bytes) = codec::encode(&Fate { signal, code, reason }) {
            // There is room: it is the only message.
            let _ = socket::send(&self.socket, &bytes, &[], false);
        }
    }

    fn on_deadline(&self, _: u64) {}
}
