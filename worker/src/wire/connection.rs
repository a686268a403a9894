//! Messages with descriptors, between any number of holders of either end. The picture is in `src/connection/README.md`.

use super::half::{Half, LONG, LongHead};
use super::kept::{KEPT, Payload, Room, SPARE, keep};
use crate::ipc::handoff::{self, Handle, HandoffError, Incoming};
use crate::sys;
use crate::sys::life::hung_up;
use crate::sys::socket::{self, AT_ONCE};
use crate::sys::watch::Watch;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// The longest packet, its kind included.
pub const PACKET: usize = 64 * 1024;

/// The payload follows.
const SHORT: u8 = 0;

/// Why a message could not be sent. Nothing of it will arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendTrouble {
    /// Nobody holds the other end any more.
    Closed,
    /// No room before the deadline.
    Late,
    /// The receiver did not read it to its end.
    Refused,
    /// An errno.
    System(i32),
}

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveTrouble {
    /// None before the deadline.
    Late,
    /// All senders are gone, and the last of them in the middle of a message.
    Torn,
    /// One came, whose descriptors found no place here: an errno.
    NoPlace(i32),
    /// One came, longer than its receiver allows.
    TooLong {
        /// What it says.
        length: u64,
        /// What is allowed.
        limit: u64,
    },
    /// What came is no message.
    Nonsense,
    /// An errno.
    System(i32),
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(sys::EIO)
}

/// One end: its holders may be threads (by reference or clone) and processes (each with a descriptor of its own).
///
/// No lock is held while one waits: whoever receives takes a whole message, and so does whoever comes next.
#[derive(Debug, Clone)]
pub struct End(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    socket: Handle,
    /// Long messages whose receivers ran out of time.
    halves: Mutex<VecDeque<Half>>,
    /// Is there one? To be asked without the lock.
    has_half: AtomicBool,
    /// Did the last message break off?
    torn: AtomicBool,
    /// Made when there is a half: then it is not the socket that says when to go on.
    watch: OnceLock<Watch>,
}

/// The two ends of a new connection.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn pair() -> io::Result<(End, End)> {
    socket::pair().map(|(left, right)| (End::new(left), End::new(right)))
}

impl End {
    /// Of a socket as [`socket::pair`] makes them.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(Arc::new(Shared {
            socket: Arc::new(socket),
            halves: Mutex::default(),
            has_half: AtomicBool::new(false),
            torn: AtomicBool::new(false),
            watch: OnceLock::new(),
        }))
    }

    /// Sets the socket aside, to go with the message that is being encoded.
    ///
    /// # Errors
    /// As [`handoff::give`]; or half a message has been read here, which would be lost.
    pub fn give(&self) -> Result<(), Stays> {
        if self.0.has_half.load(Ordering::Acquire) {
            return Err(Stays::Busy);
        }
        handoff::give(Arc::clone(&self.0.socket)).map_err(Stays::Handoff)
    }

    /// Takes the next end of the message that is being decoded.
    ///
    /// # Errors
    /// As [`handoff::take`]; or what came is no such socket.
    pub fn take() -> Result<Self, Stays> {
        let socket = handoff::take().map_err(Stays::Handoff)?;
        if socket::is_of_a_pair(&socket) { Ok(Self::new(socket)) } else { Err(Stays::False) }
    }

    /// Sends one message: all of it, or nothing.
    ///
    /// # Errors
    /// As [`SendTrouble`].
    pub fn send(
        &self,
        payload: &[u8],
        handles: &[Handle],
        deadline: Option<Instant>,
    ) -> Result<(), SendTrouble> {
        if payload.len() < PACKET && handles.len() <= AT_ONCE {
            let fds = numbers(handles);
            match self.send_packet(&[SHORT], payload, &fds, deadline) {
                // Somebody has made the buffers of sockets small.
                Err(SendTrouble::System(sys::EMSGSIZE)) => {}
                sent => return sent,
            }
        }
        self.send_long(payload, handles, deadline)
    }

    fn send_packet(
        &self,
        head: &[u8],
        payload: &[u8],
        fds: &[RawFd],
        deadline: Option<Instant>,
    ) -> Result<(), SendTrouble> {
        let parts = [IoSlice::new(head), IoSlice::new(payload)];
        loop {
            match socket::send_parts(&self.0.socket, &parts, fds, deadline.is_none()) {
                Ok(()) => return Ok(()),
                Err(error) => self.make_room(&self.0.socket, &error, deadline)?,
            }
        }
    }

    /// A long message gets a stream of its own, so that it is in nobody's way, and may break off without harm.
    fn send_long(
        &self,
        payload: &[u8],
        handles: &[Handle],
        deadline: Option<Instant>,
    ) -> Result<(), SendTrouble> {
        let (near, far) = socket::stream_pair().map_err(|error| SendTrouble::System(errno(&error)))?;
        let head = LongHead { length: payload.len() as u64, handles: handles.len() as u64 };
        self.send_packet(&head.to_bytes(), &[], &[far.as_raw_fd()], deadline)?;
        drop(far);
        for batch in handles.chunks(AT_ONCE) {
            let fds = numbers(batch);
            while let Err(error) = socket::send(&near, &[0], &fds, deadline.is_none()) {
                self.make_room(&near, &error, deadline)?;
            }
        }
        let mut rest = payload;
        while !rest.is_empty() {
            match socket::write(&near, rest, deadline.is_none()) {
                Ok(n) => rest = &rest[n..],
                // Not even the fastest receiver moves a deadline.
                Err(error) => self.make_room(&near, &error, deadline)?,
            }
            if !rest.is_empty() && is_past(deadline) {
                return Err(SendTrouble::Late);
            }
        }
        Ok(())
    }

    /// After an error of sending: waits until it is worth another try.
    fn make_room(
        &self,
        socket: impl AsFd,
        error: &io::Error,
        deadline: Option<Instant>,
    ) -> Result<(), SendTrouble> {
        match error.kind() {
            ErrorKind::WouldBlock => match socket::wait(socket, true, deadline) {
                Ok(true) => Ok(()),
                Ok(false) => Err(SendTrouble::Late),
                Err(error) => Err(SendTrouble::System(errno(&error))),
            },
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset if hung_up(self.0.socket.as_fd()) => {
                Err(SendTrouble::Closed)
            }
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(SendTrouble::Refused),
            _ => Err(SendTrouble::System(errno(error))),
        }
    }

    /// Receives one message, and lets `take` have it; `None` when nobody holds the other end any more.
    ///
    /// # Errors
    /// As [`ReceiveTrouble`]; all but the last leave the connection as good as it was.
    pub fn receive<R>(
        &self,
        limit: u64,
        deadline: Option<Instant>,
        take: impl FnOnce(Payload<'_>, Incoming) -> R,
    ) -> Result<Option<R>, ReceiveTrouble> {
        let mut room = Room::enter();
        loop {
            let half = match self.go_on() {
                Some(half) => half,
                None => match self.receive_packet(&mut room.0, limit, deadline)? {
                    Packet::Short(len, came) => return Ok(Some(take(Payload::Short(&room.0[1..len]), came))),
                    Packet::Long(half) => half,
                    Packet::End if self.0.torn.swap(false, Ordering::Relaxed) => {
                        return Err(ReceiveTrouble::Torn);
                    }
                    Packet::End => return Ok(None),
                },
            };
            match self.read_long(half, deadline)? {
                Some((mut bytes, came)) => {
                    let taken = take(Payload::Long(&mut bytes), came);
                    keep(&SPARE, bytes, KEPT);
                    return Ok(Some(taken));
                }
                // Its sender has taken it back, or died: then nothing comes after it.
                None => self.0.torn.store(true, Ordering::Relaxed),
            }
        }
    }

    fn receive_packet(
        &self,
        room: &mut [u8],
        limit: u64,
        deadline: Option<Instant>,
    ) -> Result<Packet, ReceiveTrouble> {
        let mut fds = Vec::new();
        let received = loop {
            match socket::receive(&self.0.socket, room, &mut fds, deadline.is_none()) {
                Ok(received) => break received,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => match socket::wait(&self.0.socket, false, deadline) {
                        Ok(true) => {}
                        Ok(false) => return Err(ReceiveTrouble::Late),
                        Err(error) => return Err(ReceiveTrouble::System(errno(&error))),
                    },
                    // Told once, when the peer has not read all that we sent; what it sent is still here.
                    ErrorKind::ConnectionReset => {}
                    ErrorKind::InvalidData => return Err(ReceiveTrouble::Nonsense),
                    _ => return Err(ReceiveTrouble::System(errno(&error))),
                },
            }
        };
        if received.len == 0 {
            return Ok(Packet::End);
        }
        self.0.torn.store(false, Ordering::Relaxed);
        let trouble = received.fds_lost.then_some(sys::EMFILE);
        match room[..received.len].split_first() {
            Some((&SHORT, payload)) if payload.len() as u64 > limit => {
                Err(ReceiveTrouble::TooLong { length: payload.len() as u64, limit })
            }
            Some((&SHORT, _)) => Ok(Packet::Short(received.len, Incoming::new(fds, trouble))),
            Some((&LONG, head)) => match (LongHead::from_bytes(head), fds.pop(), trouble) {
                (Some(LongHead { length, .. }), ..) if length > limit => {
                    Err(ReceiveTrouble::TooLong { length, limit })
                }
                (Some(head), Some(stream), None) => Ok(Packet::Long(Half::new(stream, head))),
                (Some(_), _, Some(errno)) => Err(ReceiveTrouble::NoPlace(errno)),
                _ => Err(ReceiveTrouble::Nonsense),
            },
            _ => Err(ReceiveTrouble::Nonsense),
        }
    }

    fn read_long(
        &self,
        mut half: Half,
        deadline: Option<Instant>,
    ) -> Result<Option<(Vec<u8>, Incoming)>, ReceiveTrouble> {
        loop {
            match half.read(deadline.is_none()) {
                Ok(true) if half.is_whole() => {
                    return Ok(Some((half.bytes, Incoming::new(half.fds, half.trouble))));
                }
                Ok(true) if is_past(deadline) => {
                    self.keep(half);
                    return Err(ReceiveTrouble::Late);
                }
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match socket::wait(&half.stream, false, deadline) {
                        Ok(true) => {}
                        Ok(false) => {
                            self.keep(half);
                            return Err(ReceiveTrouble::Late);
                        }
                        Err(error) => return Err(ReceiveTrouble::System(errno(&error))),
                    }
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                // No stream at all.
                Err(_) => return Err(ReceiveTrouble::Nonsense),
            }
        }
    }

    fn halves(&self) -> MutexGuard<'_, VecDeque<Half>> {
        self.0.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the next one who receives.
    fn keep(&self, half: Half) {
        let mut halves = self.halves();
        if self.0.watch.get().is_none()
            && let Ok(fresh) = Watch::new()
        {
            fresh.add(&self.0.socket);
            let _ = self.0.watch.set(fresh);
        }
        if let Some(watch) = self.0.watch.get() {
            watch.remove(&self.0.socket);
            watch.add(&half.stream);
        }
        halves.push_front(half);
        self.0.has_half.store(true, Ordering::Release);
    }

    fn go_on(&self) -> Option<Half> {
        if !self.0.has_half.load(Ordering::Acquire) {
            return None;
        }
        let mut halves = self.halves();
        let half = halves.pop_front();
        if let (Some(watch), Some(half)) = (self.0.watch.get(), &half) {
            watch.remove(&half.stream);
            if halves.is_empty() {
                watch.add(&self.0.socket);
            }
        }
        self.0.has_half.store(!halves.is_empty(), Ordering::Release);
        half
    }
}

/// What to poll: ready when there is something to receive, or nothing will ever come.
impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.watch.get().map_or_else(|| self.0.socket.as_fd(), AsFd::as_fd)
    }
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

fn numbers(handles: &[Handle]) -> Vec<RawFd> {
    handles.iter().map(AsRawFd::as_raw_fd).collect()
}

enum Packet {
    /// So many bytes of the room, the kind included.
    Short(usize, Incoming),
    Long(Half),
    /// There will be none.
    End,
}

/// Why an end cannot travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// There is no message, or no room in it.
    Handoff(HandoffError),
    /// Half a message has been read from it.
    Busy,
    /// What came in its place is none.
    False,
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handoff(error) => error.fmt(f),
            Self::Busy => f.write_str(
                "this end has received half of a message; receive the rest before you send the end elsewhere",
            ),
            Self::False => f.write_str("the descriptor that came is no end of a connection"),
        }
    }
}

impl std::error::Error for Stays {}
