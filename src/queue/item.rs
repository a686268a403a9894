//! One item on its way, and the frames and notes in which host and users of a queue speak of it.

use super::quota::Held;
use procession_worker::ipc::handoff::Handle;
use procession_worker::sys::memory::{self, Lent};
use procession_worker::wire::kept::{keep, kept};
use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Items up to this size go through a lane's ring; larger ones in a memory file of their own.
pub(super) const INLINE: usize = 16 * 1024;

/// Where an item's bytes are.
#[derive(Clone)]
pub(super) enum Body {
    /// Part of what came in one go.
    Bytes(Arc<Vec<u8>>, Range<usize>),
    /// A memory file with so many bytes.
    File(Handle, u64),
}

/// An encoded item.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) body: Body,
    pub(super) handles: Vec<Handle>,
    /// Which it is of all that the host has seen; 0 before it has.
    pub(super) number: u64,
    /// Is its file of this process's making, and nobody else's to write to?
    pub(super) ours: bool,
    /// How much of the queue's capacity it takes.
    pub(super) units: u32,
    /// The host's part of what it may keep for others.
    #[expect(dead_code, reason = "it is given back when it is dropped")]
    pub(super) held: Option<Arc<Held>>,
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Item({} bytes, {} descriptors)", self.len(), self.handles.len())
    }
}

impl Item {
    pub(super) fn new(bytes: Vec<u8>, handles: Vec<Handle>, units: u32) -> Self {
        let len = bytes.len();
        let body = Body::Bytes(Arc::new(bytes), 0..len);
        Self { body, handles, number: 0, ours: false, units, held: None }
    }

    pub(super) fn len(&self) -> u64 {
        match &self.body {
            Body::Bytes(_, range) => range.len() as u64,
            Body::File(_, len) => *len,
        }
    }

    /// Does it need descriptors to travel?
    pub(super) fn is_heavy(&self) -> bool {
        !self.handles.is_empty() || matches!(&self.body, Body::File(..)) || self.len() > INLINE as u64
    }

    /// Moves large bytes into a file, for the way to another process: into that one, if it is given.
    pub(super) fn make_portable(&mut self, spare: Option<Handle>) -> io::Result<()> {
        if let Body::Bytes(bytes, range) = &self.body
            && range.len() > INLINE
        {
            let file = match spare {
                Some(spare) => spare,
                None => Arc::new(memory::memfd(c"procession-item", 0)?),
            };
            let own = File::from(Arc::try_unwrap(file).or_else(|file| file.try_clone())?);
            memory::put_into(&own, 0, &bytes[range.clone()])?;
            self.body = Body::File(Arc::new(own.into()), range.len() as u64);
            self.ours = true;
        }
        Ok(())
    }

    /// What a heavy frame says: how many descriptors come, how many bytes lie in the first of them (0: none, they follow).
    pub(super) fn heavy_head(&self, id: u32, place: u32) -> ([u8; Heavy::SIZE], Vec<Handle>, &[u8]) {
        let mut handles = Vec::with_capacity(self.handles.len() + 1);
        let (filed, inline): (u64, &[u8]) = match &self.body {
            Body::File(file, len) => {
                handles.push(Arc::clone(file));
                (*len, &[])
            }
            Body::Bytes(bytes, range) => (0, &bytes[range.clone()]),
        };
        handles.extend(self.handles.iter().cloned());
        let count = u32::try_from(handles.len()).unwrap_or(u32::MAX);
        (Heavy { id, count, filed, place }.to_bytes(), handles, inline)
    }

    /// The bytes of a light item.
    pub(super) fn light(&self) -> &[u8] {
        match &self.body {
            Body::Bytes(bytes, range) => &bytes[range.clone()],
            Body::File(..) => &[],
        }
    }
}

/// The fixed head of a heavy frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heavy {
    /// Up: the note to answer. Down: the number of the delivery.
    pub(super) id: u32,
    pub(super) count: u32,
    pub(super) filed: u64,
    /// Up: where its fate is decided.
    pub(super) place: u32,
}

impl Heavy {
    pub(super) const SIZE: usize = 20;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&self.id.to_le_bytes());
        out[4..8].copy_from_slice(&self.count.to_le_bytes());
        out[8..16].copy_from_slice(&self.filed.to_le_bytes());
        out[16..].copy_from_slice(&self.place.to_le_bytes());
        out
    }

    /// The head, and the bytes that follow it.
    pub(super) fn split(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = payload.split_first_chunk::<{ Self::SIZE }>()?;
        let word = |at: usize| head[at..at + 4].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let filed = u64::from_le_bytes(*head[8..16].first_chunk()?);
        Some((Self { id: word(0)?, count: word(4)?, filed, place: word(16)? }, rest))
    }
}

/// Bytes to be decoded: copied, or mapped.
#[derive(Debug)]
pub(super) enum Bytes {
    Copied(Vec<u8>),
    Shared(Arc<Vec<u8>>, Range<usize>),
    Mapped(Lent),
    Read(Room),
}

thread_local! {
    /// For the next large item: to fill memory that is there is much faster than to map some.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Items up to this size are read into a buffer that the thread keeps; larger ones are mapped.
const ROOM_FOR: usize = 2 << 20;

/// A thread's buffer, kept when it is dropped.
#[derive(Debug)]
pub(super) struct Room(Vec<u8>);

impl Drop for Room {
    fn drop(&mut self) {
        keep(&ROOM, std::mem::take(&mut self.0), ROOM_FOR);
    }
}

impl Bytes {
    pub(super) fn of_file(file: impl AsFd, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?;
        if len > ROOM_FOR {
            return Ok(Self::Mapped(Lent::new(file, 0, len)?));
        }
        let mut room = Room(kept(&ROOM));
        room.0.resize(len, 0);
        memory::read_from(file, &mut room.0)?;
        Ok(Self::Read(room))
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(bytes, range) => &bytes[range.clone()],
            Self::Mapped(lent) => lent.bytes(),
            Self::Read(room) => &room.0,
        }
    }
}

/// What becomes of a large item on its way up: this, or 1 and an errno.
pub(super) mod fate {
    pub(in super::super) const TAKEN: u32 = 1;
    pub(in super::super) const WITHDRAWN: u32 = u32::MAX;
}

/// Kinds of frames in a lane; both ways begin alike.
pub(super) mod kind {
    /// An item's bytes.
    pub(in super::super) const LIGHT: u8 = 0;
    /// [`Heavy`](super::Heavy) and then bytes.
    pub(in super::super) const HEAVY: u8 = 1;
    /// Up: the item of that number is kept by a lease.
    pub(in super::super) const LEASED: u8 = 2;
    /// Up: the leased item of that number is done.
    pub(in super::super) const DONE: u8 = 3;
    /// Up: the leased item of that number goes back.
    pub(in super::super) const BACK: u8 = 4;
    /// Up: a task is done.
    pub(in super::super) const TASK_DONE: u8 = 5;
}

/// What goes by the socket beside a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Word {
    /// Look at the lane.
    Knock = 1,
    /// Descriptors of a heavy item, with this message: `value` of them, for the item `id`.
    Fds = 2,
    /// To the host: an item, if there is one. `value`: is the asker the only one of its process who could put?
    Want = 3,
    /// To the host: a question; answered once. `value`: an [`Ask`].
    Ask = 4,
    /// To the host: the answer to `id` is not waited for any more.
    Withdraw = 5,
    /// To the host: whoever has the other end of this descriptor may come.
    Door = 6,
    /// To the host, at a door: my socket and my lane.
    Enter = 7,
    /// From the host: the answer to `id`.
    Answer = 8,
    /// From the host: the bell.
    Bell = 9,
}

/// Answers to a [`Word::Want`], and, with `id` 0, to those who wait.
pub(super) mod want {
    pub(in super::super) const NOTHING: u64 = 0;
    pub(in super::super) const OVER: u64 = 1;
    pub(in super::super) const GIVEN: u64 = 2;
}

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Ask {
    /// How many items are in the queue?
    Len = 1,
    /// Is there room for not even the smallest item?
    Full = 2,
    /// Is there room for what my lane says I need? If so, I have it now.
    Room = 3,
    /// Take no more items.
    Close = 4,
    /// A task is done: 1 if there was one to be done.
    TaskDone = 5,
    /// Tell me when all tasks are done.
    Join = 6,
}

impl Ask {
    pub(super) const fn from_value(value: u64) -> Option<Self> {
        Some(match value {
            1 => Self::Len,
            2 => Self::Full,
            3 => Self::Room,
            4 => Self::Close,
            5 => Self::TaskDone,
            6 => Self::Join,
            _ => return None,
        })
    }
}

/// One message of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) word: Word,
    pub(super) id: u32,
    pub(super) value: u64,
}

impl Note {
    pub(super) const SIZE: usize = 16;

    pub(super) const fn new(word: Word, id: u32, value: u64) -> Self {
        Self { word, id, value }
    }

    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&(self.word as u32).to_le_bytes());
        out[4..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..].copy_from_slice(&self.value.to_le_bytes());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let word = match u32::from_le_bytes(*bytes.first_chunk()?) {
            1 => Word::Knock,
            2 => Word::Fds,
            3 => Word::Want,
            4 => Word::Ask,
            5 => Word::Withdraw,
            6 => Word::Door,
            7 => Word::Enter,
            8 => Word::Answer,
            9 => Word::Bell,
            _ => return None,
        };
        let (id, value) = (*bytes[4..].first_chunk()?, *bytes[8..].first_chunk()?);
        Some(Self { word, id: u32::from_le_bytes(id), value: u64::from_le_bytes(value) })
    }
}
