//! The socket beside the lane: what must be said, what must be heard, and who reads it for all.

use super::{Client, Local};
use crate::queue::item::{Note, Word, want};
use crate::sys::wait;
use procession_worker::ipc::lane::Flag;
use procession_worker::sys::socket;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

/// Who will not wait is told what the host says, if that is not stopped: so long is it asked for.
const PATIENCE: Duration = Duration::from_secs(1);

impl Client {
    /// Says something that must arrive; false at the deadline, an error if nobody is there.
    pub(super) fn say(&self, note: Note, fds: &[RawFd], deadline: Option<Instant>) -> io::Result<bool> {
        loop {
            match socket::send(&self.socket, &note.to_bytes(), fds, false) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let [room] = wait::ready([(self.socket.as_fd(), true)], deadline);
                    if !room && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Has the host look at the lane. A full socket is full of such knocks.
    pub(super) fn knock(&self) {
        let _ = socket::send(&self.socket, &Note::new(Word::Knock, 0, 0).to_bytes(), &[], false);
    }

    /// The bell, if it has been sent.
    fn bell<'a>(&self, local: &'a mut Local) -> Option<&'a File> {
        while local.bell.is_none() && !local.led {
            match self.receive(false) {
                Ok(None) => break,
                message => Self::hear(local, message),
            }
            if local.gone {
                break;
            }
        }
        local.bell.as_ref()
    }

    /// After something that the host may wait for.
    pub(super) fn tell(&self, local: &mut Local, flag: Flag) -> bool {
        match self.lane.take(flag) {
            0 => return false,
            2 => match self.bell(local) {
                // A bell that rings already need not ring more.
                Some(mut bell) => drop(bell.write(&1_u64.to_ne_bytes())),
                None => self.knock(),
            },
            _ => self.knock(),
        }
        true
    }

    /// The next message of the socket; `None` if there is none and `wait` is not set, an error when there will be none.
    fn receive(&self, wait: bool) -> io::Result<Option<(Option<Note>, Vec<OwnedFd>)>> {
        let (mut bytes, mut fds) = ([0; Note::SIZE], Vec::new());
        match socket::receive(&self.socket, &mut bytes, &mut fds, wait) {
            Ok(received) if received.len > 0 => Ok(Some((Note::from_bytes(&bytes[..received.len]), fds))),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn hear(local: &mut Local, message: io::Result<Option<(Option<Note>, Vec<OwnedFd>)>>) {
        let (note, mut fds) = match message {
            Ok(Some((Some(note), fds))) => (note, fds),
            Ok(_) => return,
            Err(_) => {
                local.gone = true;
                return;
            }
        };
        match note.word {
            Word::Fds => {
                let came = local.fds.entry(note.id).or_default();
                came.lost += usize::try_from(note.value).unwrap_or(0).saturating_sub(fds.len());
                came.fds.extend(fds);
            }
            Word::Bell => local.bell = fds.pop().map(File::from),
            Word::Answer if note.id == 0 => local.overs += u64::from(note.value == want::OVER),
            Word::Answer => {
                local.places.remove(&note.id);
                if !local.unwanted.remove(&note.id) {
                    local.answers.insert(note.id, note.value);
                }
            }
            _ => {}
        }
    }

    /// Waits until something comes by the socket; false at the deadline. One reads for all who wait.
    pub(super) fn wait<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Local>, bool) {
        if local.led {
            local.sleepers += 1;
            let (mut local, in_time) = wait::sleep(&self.changed, local, deadline);
            local.sleepers -= 1;
            return (local, in_time);
        }
        local.led = true;
        drop(local);
        let message = if deadline.is_some() {
            let [_] = wait::ready([(self.socket.as_fd(), false)], deadline);
            self.receive(false)
        } else {
            self.receive(true)
        };
        let mut local = self.local();
        local.led = false;
        Self::hear(&mut local, message);
        if local.sleepers > 0 {
            self.changed.notify_all();
        }
        let in_time = deadline.is_none_or(|deadline| deadline > Instant::now());
        (local, in_time)
    }

    /// Asks the host, and waits for its answer.
    pub(super) fn answer(&self, word: Word, value: u64, deadline: Option<Instant>) -> Option<u64> {
        let id = self.next_id();
        if !self.say(Note::new(word, id, value), &[], deadline).unwrap_or(false) {
            return None;
        }
        self.await_answer(self.local(), id, deadline).1
    }

    pub(super) fn await_answer<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
        id: u32,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Local>, Option<u64>) {
        loop {
            if let Some(answer) = local.answers.remove(&id) {
                return (local, Some(answer));
            }
            if local.gone {
                return (local, None);
            }
            let in_time;
            (local, in_time) = self.wait(local, deadline);
            if !in_time && !local.answers.contains_key(&id) {
                local.unwanted.insert(id);
                return (local, None);
            }
        }
    }
}

/// Does it say that nobody is there any more?
pub(super) fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

/// The deadline, but time enough for a host that runs to answer.
pub(super) fn patient(deadline: Option<Instant>) -> Option<Instant> {
    deadline.map(|deadline| deadline.max(Instant::now() + PATIENCE))
}
