//! One thing that processes share: a memory file, mapped once by each process that has a handle.

use super::bed::Bed;
use super::table::Table;
use super::ward::Ward;
use crate::sys::robust::{Robust, Rule};
use procession_worker::ipc::handoff::{self, Handle};
use procession_worker::sys::memory::{Mapping, memfd};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serializer};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// `procsync`, in the byte order of this machine.
const MAGIC: u64 = u64::from_le_bytes(*b"procsync");

// The layout; see README.md.
const KIND: usize = 8;
const MUTEX: usize = 64;
const HEAD: usize = 128;
const HEAD_WORDS: usize = 8;
const PARTIES: usize = 4096;
const SLOTS: usize = PARTIES + MOST_PARTIES * 16;
const BEDS: usize = SLOTS + MOST_SLOTS * 8;
const END: usize = BEDS + MOST_SLOTS * 4;

/// So many processes may use one object.
pub(super) const MOST_PARTIES: usize = 4096;
/// So many may sleep at one object, or hold a permit of it.
pub(super) const MOST_SLOTS: usize = 4096;

/// What it is: the number in its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Lock = 1,
    RLock = 2,
    Event = 3,
    Semaphore = 4,
    BoundedSemaphore = 5,
    Condition = 6,
    Barrier = 7,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::RLock => "recursive lock",
            Self::Event => "event",
            Self::Semaphore => "semaphore",
            Self::BoundedSemaphore => "bounded semaphore",
            Self::Condition => "condition",
            Self::Barrier => "barrier",
        }
    }

    /// Those with a table of processes and sleepers.
    pub(super) const fn is_monitor(self) -> bool {
        !matches!(self, Self::Lock | Self::RLock | Self::Event)
    }

    const fn size(self) -> usize {
        if self.is_monitor() { END } else { PARTIES }
    }

    const fn rule(self) -> Rule {
        if matches!(self, Self::RLock) { Rule::Recursive } else { Rule::Once }
    }
}

/// The object, as this process knows it: never twice, however many handles of it came here.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    file: Handle,
    inode: u64,
    mapping: Arc<Mapping>,
    /// How often the thread of ours that has the mutex has locked it; only that thread changes it.
    depth: AtomicU32,
    pub(super) ward: Ward,
}

/// By inode. Two mappings of one recursive mutex would confuse the kernel's list of what a thread has locked.
type Known = BTreeMap<u64, Weak<Object>>;
static KNOWN: Mutex<Known> = Mutex::new(Known::new());

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Object {
    /// A new one, whose head is filled by `fill` before anybody else sees it.
    pub(super) fn make(kind: Kind, fill: impl FnOnce(&Self)) -> io::Result<Arc<Self>> {
        let file = memfd(c"procession-sync", kind.size())?;
        let object = Self::map(file, kind)?;
        object.mutex().make()?;
        fill(&object);
        object.mapping.word(KIND).store(kind as u64, Ordering::Relaxed);
        object.mapping.word(0).store(MAGIC, Ordering::Release);
        let object = Arc::new(object);
        known().insert(object.inode, Arc::downgrade(&object));
        Ok(object)
    }

    fn map(file: OwnedFd, kind: Kind) -> io::Result<Self> {
        let mapping = Arc::new(Mapping::new(&file, kind.size())?);
        let file = File::from(file);
        let inode = file.metadata()?.ino();
        let ward = Ward::new(&mapping);
        Ok(Self { kind, file: Arc::new(file.into()), inode, mapping, depth: AtomicU32::new(0), ward })
    }

    /// What came from another process, which may have sent anything.
    fn adopt(file: OwnedFd, kinds: &[Kind]) -> io::Result<Arc<Self>> {
        let file = File::from(file);
        let inode = file.metadata()?.ino();
        // Held to the end: two threads that receive the same object must not both map it.
        let mut known = known();
        if let Some(object) = known.get(&inode).and_then(Weak::upgrade) {
            // Its last handle may be this one, and its end needs the list.
            drop(known);
            return if kinds.contains(&object.kind) { Ok(object) } else { Err(false_descriptor(kinds)) };
        }
        let head = Mapping::new(file.as_fd(), HEAD).map_err(|_| false_descriptor(kinds))?;
        let number = head.word(KIND).load(Ordering::Relaxed);
        let kind = kinds.iter().copied().find(|&kind| kind as u64 == number);
        let kind = kind.filter(|_| head.word(0).load(Ordering::Acquire) == MAGIC);
        let kind = kind.ok_or_else(|| false_descriptor(kinds))?;
        let object = Arc::new(Self::map(file.into(), kind)?);
        known.insert(inode, Arc::downgrade(&object));
        Ok(object)
    }

    /// The mutex: of a lock, the lock; of a monitor, its gate.
    #[inline]
    pub(super) fn mutex(&self) -> Robust<'_> {
        Robust::new(&self.mapping, MUTEX, self.kind.rule())
    }

    /// The word of an event.
    #[inline]
    pub(super) fn half(&self) -> &AtomicU32 {
        self.mapping.half(HEAD)
    }

    pub(super) fn table(&self) -> Table<'_> {
        Table {
            head: self.mapping.words(HEAD, HEAD_WORDS),
            parties: self.mapping.words(PARTIES, MOST_PARTIES * 2),
            slots: self.mapping.words(SLOTS, MOST_SLOTS),
        }
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    #[inline]
    pub(super) fn depth(&self) -> &AtomicU32 {
        &self.depth
    }

    /// Gives the memory file to the message that is being encoded.
    pub(super) fn hand_over<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handoff::give(Arc::clone(&self.file)).map_err(S::Error::custom)?;
        serializer.serialize_unit()
    }

    /// Takes it from the message that is being decoded.
    pub(super) fn take_over<'de, D>(deserializer: D, kinds: &[Kind]) -> Result<Arc<Self>, D::Error>
    where
        D: Deserializer<'de>,
    {
        <()>::deserialize(deserializer)?;
        let file = handoff::take().map_err(D::Error::custom)?;
        Self::adopt(file, kinds).map_err(D::Error::custom)
    }
}

/// The bed that belongs to a slot.
pub(super) fn bed(mapping: &Mapping, slot: usize) -> Bed<'_> {
    Bed(mapping.half(BEDS + slot * 4))
}

fn false_descriptor(kinds: &[Kind]) -> io::Error {
    let name = kinds.first().map_or("object", |kind| kind.name());
    let text = format!("the descriptor that came for a {name} is none; send the handle itself");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Drop for Object {
    fn drop(&mut self) {
        if self.ward.is_attached() {
            super::monitor::leave(self);
        }
        let mut known = known();
        if known.get(&self.inode).is_some_and(|object| std::ptr::eq(object.as_ptr(), self)) {
            known.remove(&self.inode);
        }
        drop(known);
        if self.depth.load(Ordering::Relaxed) != 0 {
            // A guard was forgotten: the kernel still has this place in the list of what its thread has locked.
            let _for_ever = Arc::into_raw(Arc::clone(&self.mapping));
        }
    }
}
