//! Messages with descriptors, between any number of holders of either end. The picture is in `src/connection/README.md`.

use super::kept::{KEPT, Payload, Room, SPARE, keep};
use super::parcel::{self, Boxes, Fate, LONG, LongHead, Parcel, Spoiled};
use crate::ipc::handoff::{self, Handle, HandoffError, Incoming};
use crate::sys;
use crate::sys::life::hung_up;
use crate::sys::socket::{self, AT_ONCE};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
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
    /// A receiver has looked at it, and did not take it.
    Refused,
    /// An errno.
    System(i32),
}

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveTrouble {
    /// None before the deadline.
    Late,
    /// One came, which found no place here (or its descriptors did not): an errno.
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
/// No lock is held while one waits, and nobody is ever in the middle of a message: whoever receives takes a whole one, and so does
/// whoever comes next.
#[derive(Debug, Clone)]
pub struct End(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    socket: Handle,
    boxes: Boxes,
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
        Self(Arc::new(Shared { socket: Arc::new(socket), boxes: Boxes::default() }))
    }

    /// Sets the socket aside, to go with the message that is being encoded.
    ///
    /// # Errors
    /// As [`handoff::give`].
    pub fn give(&self) -> Result<(), Stays> {
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
                Err(error) => self.make_room(&error, deadline)?,
            }
        }
    }

    /// A long message lies in a file of its own, and its packet only says where. It is ours until somebody takes it.
    fn send_long(
        &self,
        payload: &[u8],
        handles: &[Handle],
        deadline: Option<Instant>,
    ) -> Result<(), SendTrouble> {
        let system = |error: io::Error| SendTrouble::System(errno(&error));
        let parcel = Parcel::pack(payload, handles, &self.0.boxes).map_err(system)?;
        let (head, fds) = parcel.packet();
        self.send_packet(&head, &[], &fds, deadline)?;
        // Else there would be no bound to the memory of those under way.
        match parcel.posted().wait(deadline, &self.0.boxes).map_err(system)? {
            Fate::Taken => Ok(()),
            Fate::Late => Err(SendTrouble::Late),
            Fate::Left if hung_up(self.0.socket.as_fd()) => Err(SendTrouble::Closed),
            Fate::Left => Err(SendTrouble::Refused),
        }
    }

    /// After an error of sending: waits until it is worth another try.
    fn make_room(&self, error: &io::Error, deadline: Option<Instant>) -> Result<(), SendTrouble> {
        match error.kind() {
            ErrorKind::WouldBlock => match socket::wait(&self.0.socket, true, deadline) {
                Ok(true) => Ok(()),
                Ok(false) => Err(SendTrouble::Late),
                Err(error) => Err(SendTrouble::System(errno(&error))),
            },
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(SendTrouble::Closed),
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
            let (head, with) = match self.receive_packet(&mut room.0, limit, deadline)? {
                Packet::Short(len, came) => return Ok(Some(take(Payload::Short(&room.0[1..len]), came))),
                Packet::Long(head, with) => (head, with),
                Packet::End => return Ok(None),
            };
            match parcel::open(head, with) {
                Ok(Some((mut bytes, came))) => {
                    let taken = take(Payload::Long(&mut bytes), came);
                    keep(&SPARE, bytes, KEPT);
                    return Ok(Some(taken));
                }
                // Its sender has taken it back.
                Ok(None) => {}
                Err(Spoiled::NoPlace(errno)) => return Err(ReceiveTrouble::NoPlace(errno)),
                Err(Spoiled::Nonsense) => return Err(ReceiveTrouble::Nonsense),
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
        let trouble = received.fds_lost.then_some(sys::EMFILE);
        match room[..received.len].split_first() {
            Some((&SHORT, payload)) if payload.len() as u64 > limit => {
                Err(ReceiveTrouble::TooLong { length: payload.len() as u64, limit })
            }
            Some((&SHORT, _)) => Ok(Packet::Short(received.len, Incoming::new(fds, trouble))),
            Some((&LONG, head)) => match (LongHead::from_bytes(head), trouble) {
                (Some(LongHead { length, .. }), _) if length > limit => {
                    Err(ReceiveTrouble::TooLong { length, limit })
                }
                (Some(_), Some(errno)) => Err(ReceiveTrouble::NoPlace(errno)),
                (Some(head), None) => Ok(Packet::Long(head, fds)),
                (None, _) => Err(ReceiveTrouble::Nonsense),
            },
            _ => Err(ReceiveTrouble::Nonsense),
        }
    }
}

/// What to poll: ready when there is something to receive, or nothing will ever come.
impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

fn numbers(handles: &[Handle]) -> Vec<RawFd> {
    handles.iter().map(AsRawFd::as_raw_fd).collect()
}

enum Packet {
    /// So many bytes of the room, the kind included.
    Short(usize, Incoming),
    /// Where it lies.
    Long(LongHead, Vec<OwnedFd>),
    /// There will be none.
    End,
}

/// Why an end cannot travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// There is no message, or no room in it.
    Handoff(HandoffError),
    /// What came in its place is none.
    False,
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handoff(error) => error.fmt(f),
            Self::False => f.write_str("the descriptor that came is no end of a connection"),
        }
    }
}

impl std::error::Error for Stays {}
