//! Bytes that processes share.

use super::frozen::{FreezeError, FrozenArray};
use super::{OutOfBounds, refused, size_of_all, ticket};
use procession_worker::sys::plain::vec_by;
use procession_worker::sys::segment::{Identity, Segment, Unit};
use procession_worker::sys::shm;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes in memory that processes share.
///
/// Clones are handles to the same memory, in this process and in any that a handle is sent to. It has no name, and is gone with
/// the last handle, whoever dies how. For values rather than bytes there is [`Array`](super::Array) (which is also the place
/// of Python's `ShareableList`; what is no plain number goes into an actor's list).
///
/// ```
/// use procession::{Process, SharedMemory};
///
/// let memory = SharedMemory::new(100)?;
/// Process::new(|memory: SharedMemory| memory.write_at(50, b"hello").is_ok(), (memory.clone(),)).start()?.join()?;
/// let mut bytes = [0; 5];
/// memory.read_at(50, &mut bytes)?;
/// assert_eq!(&bytes, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Reads and writes are copies at the speed of `memcpy`. One that meets a write of another process may see part of it; each
/// aligned word of 8 bytes is whole. [`word`](Self::word) gives such a word as an atomic; [`as_ptr`](Self::as_ptr) is for foreign code.
///
/// Where processes must meet that have not started each other, [`create_named`](Self::create_named).
#[derive(Clone)]
#[doc(alias("shared_memory", "SharedMemoryManager"))]
#[must_use = "dropped by its last holder, the memory is gone"]
pub struct SharedMemory {
    segment: Arc<Segment>,
    name: Option<Arc<Name>>,
}

/// The name under which others find it.
struct Name {
    segment: Arc<Segment>,
    name: String,
    /// Does it go with its last handle here?
    ours: AtomicBool,
}

impl Drop for Name {
    fn drop(&mut self) {
        if *self.ours.get_mut() {
            let _ = shm::unlink(&self.name, self.segment.file());
        }
    }
}

/// Says which memory it is about, and what may help.
fn named(name: &str) -> impl Fn(io::Error) -> io::Error {
    move |error| {
        let remedy = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                "; open_named() it, take another name, or remove /dev/shm/NAME if its creator was killed"
            }
            io::ErrorKind::NotFound => "; it must be created first, and its creator keep it",
            io::ErrorKind::PermissionDenied => "; it belongs to another user",
            io::ErrorKind::InvalidInput
                if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') =>
            {
                "; a name has at least one character, and no slash"
            }
            _ => "",
        };
        let text = format!("shared memory {name:?}: {error}{}", remedy.replace("NAME", name));
        io::Error::new(error.kind(), text)
    }
}

impl SharedMemory {
    /// `len` zero bytes, at least one.
    ///
    /// # Errors
    /// No memory for it, which is known here and not when it is written to; too many open descriptors; a length of 0.
    pub fn new(len: usize) -> io::Result<Self> {
        at_least_one(len)?;
        let segment = Segment::zeroed(c"procession-memory", size_of_all::<u8>(len)?).map_err(refused)?;
        Ok(Self { segment: Arc::new(segment), name: None })
    }

    /// `len` zero bytes that other processes of this user find by `name` (they are `/dev/shm/name`).
    ///
    /// The name goes when the last handle in this process is dropped, unless [`keep`](Self::keep) was called. It stays if this process
    /// is killed: that is the price of a name. No other process of this crate ever takes it away by itself.
    ///
    /// Whoever can open the file can cut it short, and then to touch it ends the process that does (SIGBUS). Such memory
    /// cannot be sent in a message: send its name.
    ///
    /// # Errors
    /// The name is taken (`AlreadyExists`), or is none (empty, with a slash, too long); as [`new`](Self::new).
    #[doc(alias = "shm_open")]
    pub fn create_named(name: impl Into<String>, len: usize) -> io::Result<Self> {
        at_least_one(len)?;
        let name = name.into();
        let file = shm::create(&name, len).map_err(refused).map_err(named(&name))?;
        let segment = Arc::new(Segment::named(file, len).map_err(refused).map_err(named(&name))?);
        let name = Name { segment: Arc::clone(&segment), name, ours: AtomicBool::new(true) };
        Ok(Self { segment, name: Some(Arc::new(name)) })
    }

    /// The memory that some process created under this name.
    ///
    /// # Errors
    /// There is none (`NotFound`), or it belongs to another user (`PermissionDenied`).
    pub fn open_named(name: impl Into<String>) -> io::Result<Self> {
        let name = name.into();
        let file = shm::open(&name).map_err(named(&name))?;
        let len = usize::try_from(Identity::of(&file)?.size).unwrap_or(0);
        at_least_one(len).map_err(named(&name))?;
        let segment = Arc::new(Segment::named(file, len).map_err(refused).map_err(named(&name))?);
        let name = Name { segment: Arc::clone(&segment), name, ours: AtomicBool::new(false) };
        Ok(Self { segment, name: Some(Arc::new(name)) })
    }

    /// Its name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(|name| name.name.as_str())
    }

    /// Lets the name outlive this process; somebody has to [`unlink`](Self::unlink) it. Nothing, if it has none.
    pub fn keep(&self) {
        if let Some(name) = &self.name {
            name.ours.store(false, Ordering::Relaxed);
        }
    }

    /// Takes the name away; who has the memory goes on using it. Nothing, if it has none.
    ///
    /// # Errors
    /// `NotFound`: that was done before, or the name means other memory by now.
    pub fn unlink(&self) -> io::Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        name.ours.store(false, Ordering::Relaxed);
        shm::unlink(&name.name, self.segment.file()).map_err(named(&name.name))
    }

    /// How many bytes it has; this never changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segment.len()
    }

    /// It never is: it has at least one byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segment.is_empty()
    }

    /// Copies bytes from byte `at` on, as many as `out` has.
    ///
    /// # Errors
    /// Not all of them lie inside; then nothing is copied.
    pub fn read_at(&self, at: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(at, out.len(), self.len())?;
        self.segment.load(Unit::Part, at, out);
        Ok(())
    }

    /// Copies `bytes` to byte `at` and on.
    ///
    /// # Errors
    /// Not all of them lie inside; then nothing is copied.
    pub fn write_at(&self, at: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(at, bytes.len(), self.len())?;
        self.segment.store(Unit::Part, at, bytes);
        Ok(())
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        vec_by(self.len(), |bytes| self.segment.load(Unit::Part, 0, bytes))
    }

    /// The eight bytes at `at`, a multiple of 8, as an atomic; `None` beyond the end.
    ///
    /// ```
    /// # use procession::SharedMemory;
    /// use std::sync::atomic::Ordering;
    ///
    /// let memory = SharedMemory::new(64)?;
    /// memory.word(8).expect("it is inside").fetch_add(1, Ordering::Relaxed);
    /// assert_eq!(memory.to_vec()[8..16], 1_u64.to_ne_bytes());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn word(&self, at: usize) -> Option<&AtomicU64> {
        let inside = at.is_multiple_of(8) && OutOfBounds::check(at, 8, self.len()).is_ok();
        inside.then(|| self.segment.word(at))
    }

    /// Where it lies in this process: on a page, for foreign code.
    ///
    /// Valid as long as there is a handle here. In Rust, what lies there may only be read and written by volatile or
    /// atomic means, since other processes do so at the same time.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.segment.as_ptr()
    }

    /// Makes it unchangeable, for ever and in every process, and so a slice of bytes. Nothing is copied.
    ///
    /// # Errors
    /// Somebody could still write to it: there is another handle, here or in another process. Or it has a name, and so cannot
    /// be sealed. The error gives the memory back.
    pub fn freeze(self) -> Result<FrozenArray<u8>, FreezeError<Self>> {
        if self.name.is_some() {
            let error = io::Error::new(io::ErrorKind::Unsupported, "it has a name; make it by new");
            return Err(FreezeError::new(error, Some(self)));
        }
        let unnamed = |segment| Self { segment, name: None };
        match Arc::try_unwrap(self.segment) {
            Ok(segment) => segment.freeze().map(FrozenArray::over).map_err(|(error, segment)| {
                FreezeError::new(error, segment.map(|segment| unnamed(Arc::new(segment))))
            }),
            Err(segment) => Err(FreezeError::new(io::ErrorKind::ResourceBusy.into(), Some(unnamed(segment)))),
        }
    }
}

fn at_least_one(len: usize) -> io::Result<()> {
    if len > 0 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "shared memory has at least one byte"))
}

impl AsFd for SharedMemory {
    /// The memory's file.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.file().as_fd()
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory")
            .field("len", &self.len())
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// Only in a message of this crate; anywhere else it is an error, and so it is if the memory has a name.
impl Serialize for SharedMemory {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        match self.name() {
            None => ticket::give(self.segment.file(), self.len(), 1, to),
            Some(name) => Err(S::Error::custom(format!(
                "shared memory with a name travels by its name: send \"{name}\", and open_named it there"
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let (file, ticket) = ticket::take(1, from)?;
        Segment::arrived(file, ticket.number, ticket.len)
            .map(|segment| Self { segment: Arc::new(segment), name: None })
            .map_err(|error| D::Error::custom(refused(error)))
    }
}
