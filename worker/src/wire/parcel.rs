//! A message that is too long for a packet: it lies whole in a memory file before anybody is told of it.

use super::kept::{KEPT, SPARE, keep, kept};
use crate::ipc::handoff::{Handle, Incoming, MOST};
use crate::sys;
use crate::sys::life::hung_up;
use crate::sys::memory;
use crate::sys::socket::{self, AT_ONCE};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Where it lies follows: [`LongHead`], and two descriptors, the file's and the label's.
pub(super) const LONG: u8 = 1;

/// What a receiver says on the label.
const TAKEN: u8 = 1;

/// How many go with the packet.
const WITH_IT: usize = 2;

/// What a packet says of a message that lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LongHead {
    pub(super) length: u64,
    pub(super) handles: u64,
}

impl LongHead {
    fn to_bytes(self) -> [u8; 17] {
        let mut out = [LONG; 17];
        out[1..9].copy_from_slice(&self.length.to_le_bytes());
        out[9..].copy_from_slice(&self.handles.to_le_bytes());
        out
    }

    /// From what follows the kind.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 16] = bytes.try_into().ok()?;
        let (length, handles) = bytes.split_first_chunk::<8>()?;
        let head = Self {
            length: u64::from_le_bytes(*length),
            handles: u64::from_le_bytes(*handles.first_chunk()?),
        };
        (head.handles <= MOST as u64).then_some(head)
    }
}

/// One that goes out: its file, and a label.
///
/// The label is a socket that holds the parcel's descriptors. A receiver says on it that it takes the parcel, which the kernel lets it say
/// as long as the sender has not taken it back; and its end says that nobody looks at the file any more.
#[derive(Debug)]
pub(super) struct Parcel {
    head: LongHead,
    file: File,
    label: OwnedFd,
    stub: OwnedFd,
}

impl Parcel {
    /// All of it, ready to go.
    pub(super) fn pack(payload: &[u8], handles: &[Handle], boxes: &Boxes) -> io::Result<Self> {
        let head = LongHead { length: payload.len() as u64, handles: handles.len() as u64 };
        let file = match boxes.take() {
            Some(file) => file,
            None => memory::unsealed_memfd(c"procession-message")?.into(),
        };
        memory::put_into(&file, 0, payload)?;
        let (stub, label) = socket::pair()?;
        for batch in handles.chunks(AT_ONCE) {
            let numbers: Vec<RawFd> = batch.iter().map(AsRawFd::as_raw_fd).collect();
            socket::send(&stub, &[0], &numbers, false)?;
        }
        Ok(Self { head, file, label, stub })
    }

    /// What to send: the packet, and what goes with it.
    pub(super) fn packet(&self) -> ([u8; 17], [RawFd; WITH_IT]) {
        (self.head.to_bytes(), [self.file.as_raw_fd(), self.label.as_raw_fd()])
    }

    /// It is on its way.
    pub(super) fn posted(self) -> Posted {
        Posted { file: self.file, stub: self.stub }
    }
}

/// One that is on its way, until it is taken, taken back, or lost.
#[derive(Debug)]
pub(super) struct Posted {
    file: File,
    stub: OwnedFd,
}

/// What has become of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Taken,
    /// Somebody has looked at it and let it lie, or nobody can come any more.
    Left,
    /// Nobody came in time, and nobody will get it now.
    Late,
}

impl Posted {
    /// Waits for somebody to take it.
    pub(super) fn wait(self, deadline: Option<Instant>, boxes: &Boxes) -> io::Result<Fate> {
        let in_time = socket::wait(&self.stub, false, deadline);
        if !matches!(in_time, Ok(true)) {
            socket::hear_no_more(&self.stub);
        }
        let mut word = [0];
        if socket::receive(&self.stub, &mut word, &mut Vec::new(), false).is_ok_and(|said| said.len > 0) {
            boxes.put(self);
            return Ok(Fate::Taken);
        }
        // Its packet may lie there for long.
        let _ = self.file.set_len(0);
        in_time.map(|in_time| if in_time { Fate::Left } else { Fate::Late })
    }
}

/// The files of an end's last parcels: new memory costs four times what writing to it does.
#[derive(Debug, Default)]
pub(super) struct Boxes(Mutex<Vec<Stored>>);

/// One to be read, and one to be filled meanwhile.
const BOXES: usize = 2;
/// All ends of a process together keep so many: who has many connections has no descriptors to spare.
const ALL_BOXES: usize = 64;

static STORED: AtomicUsize = AtomicUsize::new(0);

/// One that is kept, and counted.
#[derive(Debug)]
struct Stored {
    parcel: Posted,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted;

impl Counted {
    fn one_more() -> Option<Self> {
        let room = |n| (n < ALL_BOXES).then_some(n + 1);
        STORED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok().map(|_| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        STORED.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Boxes {
    fn all(&self) -> MutexGuard<'_, Vec<Stored>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that has been read to its end.
    fn take(&self) -> Option<File> {
        let mut all = self.all();
        let at = all.iter().position(|stored| hung_up(stored.parcel.stub.as_fd()))?;
        Some(all.swap_remove(at).parcel.file)
    }

    fn put(&self, parcel: Posted) {
        let small = parcel.file.metadata().is_ok_and(|file| file.len() <= KEPT as u64);
        let mut all = self.all();
        if small && all.len() < BOXES {
            all.extend(Counted::one_more().map(|_counted| Stored { parcel, _counted }));
        }
    }
}

/// Why one that came is no message.
#[derive(Debug)]
pub(super) enum Spoiled {
    /// An errno: no place for its descriptors, or for its bytes.
    NoPlace(i32),
    /// Nothing of what its packet says is true.
    Nonsense,
}

/// Opens one that came. `None` if its sender has taken it back, or died before it was taken.
pub(super) fn open(head: LongHead, with: Vec<OwnedFd>) -> Result<Option<(Vec<u8>, Incoming)>, Spoiled> {
    let Ok([file, label]) = <[OwnedFd; WITH_IT]>::try_from(with) else { return Err(Spoiled::Nonsense) };
    // What finds no place stays its sender's.
    let fds = unload(&label, head.handles)?;
    let mut bytes = kept(&SPARE);
    bytes.clear();
    let length = usize::try_from(head.length).map_err(|_| Spoiled::Nonsense)?;
    // One that was taken back is empty.
    let whole = memory::holds(&file, head.length);
    if whole && bytes.try_reserve_exact(length).is_err() {
        return Err(Spoiled::NoPlace(sys::ENOMEM));
    }
    match socket::send(&label, &[TAKEN], &[], false) {
        Ok(()) if whole => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            keep(&SPARE, bytes, KEPT);
            return Ok(None);
        }
        _ => return Err(Spoiled::Nonsense),
    }
    memory::read_into(&file, length, &mut bytes).map_err(|_| Spoiled::Nonsense)?;
    // Now its sender may use the file again.
    drop(label);
    Ok(Some((bytes, Incoming::new(fds, None))))
}

/// What a label holds: so many descriptors.
fn unload(label: &OwnedFd, count: u64) -> Result<Vec<OwnedFd>, Spoiled> {
    let (mut fds, count) = (Vec::new(), usize::try_from(count).unwrap_or(MOST));
    while fds.len() < count {
        let before = fds.len();
        let received = socket::receive(label, &mut [0], &mut fds, false).map_err(|_| Spoiled::Nonsense)?;
        if received.fds_lost {
            return Err(Spoiled::NoPlace(sys::EMFILE));
        }
        if fds.len() == before {
            return Err(Spoiled::Nonsense);
        }
    }
    if fds.len() == count { Ok(fds) } else { Err(Spoiled::Nonsense) }
}
