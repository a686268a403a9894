//! Memory files that a user's data lies in: written through words that are atomic, or frozen and then read as it is.
#![allow(unsafe_code, reason = "the cellar")]

use super::memory::Mapping;
use super::plain::{Plain, bytes_of, value_by};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::resource::{Resource, getrlimit};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// In which steps a memory is read and written: always the same ones for one memory, so that no two accesses of one
/// place that meet are of different sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Eight bytes, aligned.
    Word,
    /// Four bytes, aligned.
    Half,
    /// Any bytes, by way of the aligned words that they lie in.
    Part,
}

impl Unit {
    /// What suits a row of `T`.
    #[must_use]
    pub const fn of<T>() -> Self {
        match size_of::<T>() {
            size if size.is_multiple_of(8) => Self::Word,
            size if size.is_multiple_of(4) => Self::Half,
            _ => Self::Part,
        }
    }
}

/// Which file it is, wherever a descriptor of it has been sent: its number, time of change and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its inode's.
    pub number: u64,
    /// In bytes.
    pub size: u64,
    changed: (i64, i64),
}

impl Identity {
    /// That of an open file.
    ///
    /// # Errors
    /// What fstat(2) says.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = nix::sys::stat::fstat(file)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Self { number: stat.st_ino, size, changed: (stat.st_ctime, stat.st_ctime_nsec) })
    }
}

fn seals(file: &OwnedFd) -> SealFlag {
    fcntl(file, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_truncate)
}

fn false_file() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the descriptor that came is not the shared memory that belongs here",
    )
}

/// The room in a file for `len` bytes; all of it is there before anybody touches it, so no touch can fail.
///
/// # Errors
/// EFBIG over this process's limit of a file's size (ulimit -f), ENOMEM, ENOSPC.
pub fn reserve(file: &OwnedFd, len: usize) -> io::Result<()> {
    let size = i64::try_from(len).map_err(|_| io::Error::from(Errno::EFBIG))?;
    has_room(len)?;
    nix::unistd::ftruncate(file, size)?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Where the out-of-memory killer would answer, or a signal, we would rather.
fn has_room(len: usize) -> io::Result<()> {
    const LARGE: usize = 16 << 20;
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if len as u64 > limit {
        return Err(Errno::EFBIG.into());
    }
    if len < LARGE {
        return Ok(());
    }
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = |name: &str| -> Option<u64> {
        info.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().nth(1)?.parse().ok())
    };
    match (kibibytes("MemAvailable"), kibibytes("SwapFree")) {
        (Some(memory), Some(swap)) if len as u64 / 1024 > memory + swap => Err(Errno::ENOMEM.into()),
        _ => Ok(()),
    }
}

fn create(name: &CStr) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?)
}

/// Mapped in whole words, at least one; the last of them may reach beyond the file's end, never beyond its last page.
const fn mapped(len: usize) -> usize {
    if len == 0 { 8 } else { len.next_multiple_of(8) }
}

/// Shared memory that all its holders may write.
#[derive(Debug)]
pub struct Segment {
    mapping: Mapping,
    file: Arc<OwnedFd>,
    len: usize,
}

impl Segment {
    /// `len` zero bytes. It has a name only for the eyes of an operator.
    ///
    /// # Errors
    /// EMFILE, ENFILE; as [`reserve`].
    pub fn zeroed(name: &CStr, len: usize) -> io::Result<Self> {
        let file = create(name)?;
        reserve(&file, mapped(len))?;
        Self::sealed(file, len)
    }

    /// These bytes.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    pub fn holding(name: &CStr, bytes: &[u8]) -> io::Result<Self> {
        Self::sealed(filled(name, bytes)?, bytes.len())
    }

    fn sealed(file: OwnedFd, len: usize) -> io::Result<Self> {
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
        let mapping = Mapping::new(&file, mapped(len))?;
        Ok(Self { mapping, file: Arc::new(file), len })
    }

    /// What came as a descriptor, if it is the file of that number and length.
    ///
    /// # Errors
    /// It is not; ENOMEM.
    pub fn arrived(file: OwnedFd, number: u64, len: usize) -> io::Result<Self> {
        check(&file, number, len, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)?;
        let mapping = Mapping::new(&file, mapped(len))?;
        Ok(Self { mapping, file: Arc::new(file), len })
    }

    /// A file that others can name, and so cut short.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn named(file: OwnedFd, len: usize) -> io::Result<Self> {
        let mapping = Mapping::unsealed(&file, mapped(len))?;
        Ok(Self { mapping, file: Arc::new(file), len })
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Has it none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its file.
    #[must_use]
    pub const fn file(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// Where it starts, for foreign code.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.mapping.as_ptr()
    }

    /// The word at byte `at`, for a memory whose unit is not [`Unit::Half`].
    ///
    /// # Panics
    /// It does not lie inside.
    #[inline]
    #[must_use]
    pub fn word(&self, at: usize) -> &AtomicU64 {
        self.mapping.word(at)
    }

    /// Copies from byte `at`.
    ///
    /// # Panics
    /// Not all of it lies inside.
    #[inline]
    pub fn load(&self, unit: Unit, at: usize, out: &mut [u8]) {
        match unit {
            Unit::Word => load_words(self.mapping.words(at, out.len() / 8), out),
            Unit::Half => load_halves(self.mapping.halves(at, out.len() / 4), out),
            Unit::Part => {
                let (head, rest) = out.split_at_mut((at.next_multiple_of(8) - at).min(out.len()));
                self.load_part(at, head);
                // Aligned now, unless nothing is left.
                let at = (at + head.len()).next_multiple_of(8);
                let (body, tail) = rest.split_at_mut(rest.len() / 8 * 8);
                load_words(self.mapping.words(at, body.len() / 8), body);
                self.load_part(at + body.len(), tail);
            }
        }
        fence(Ordering::Acquire);
    }

    fn load_part(&self, at: usize, out: &mut [u8]) {
        if !out.is_empty() {
            let within = at % 8;
            let word = self.word(at - within).load(Ordering::Relaxed).to_ne_bytes();
            out.copy_from_slice(&word[within..within + out.len()]);
        }
    }

    /// Copies to byte `at`; the bytes beside are nobody's loss.
    ///
    /// # Panics
    /// Not all of it lies inside.
    #[inline]
    pub fn store(&self, unit: Unit, at: usize, bytes: &[u8]) {
        fence(Ordering::Release);
        match unit {
            Unit::Word => store_words(self.mapping.words(at, bytes.len() / 8), bytes),
            Unit::Half => store_halves(self.mapping.halves(at, bytes.len() / 4), bytes),
            Unit::Part => {
                let (head, rest) = bytes.split_at((at.next_multiple_of(8) - at).min(bytes.len()));
                self.store_part(at, head);
                let at = (at + head.len()).next_multiple_of(8);
                let (body, tail) = rest.split_at(rest.len() / 8 * 8);
                store_words(self.mapping.words(at, body.len() / 8), body);
                self.store_part(at + body.len(), tail);
            }
        }
    }

    fn store_part(&self, at: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            let within = at % 8;
            change(self.word(at - within), |word| word[within..within + bytes.len()].copy_from_slice(bytes));
        }
    }

    /// Changes the value at byte `at`, a multiple of its size, as one step that nobody sees half of. What was there before.
    ///
    /// # Panics
    /// It does not lie inside.
    #[inline]
    pub fn update<T: Plain>(&self, at: usize, mut f: impl FnMut(T) -> T) -> T {
        const {
            assert!(
                matches!(size_of::<T>(), 1 | 2 | 4 | 8),
                "a value of 1, 2, 4 or 8 bytes is changed in one step"
            );
        };
        let mut before = None;
        let mut step = |bytes: &mut [u8]| {
            let old = value_by::<T>(|raw| raw.copy_from_slice(bytes));
            before = Some(old);
            bytes.copy_from_slice(bytes_of(&[f(old)]));
        };
        match Unit::of::<T>() {
            Unit::Half => {
                let _ = self.mapping.half(at).fetch_update(Ordering::AcqRel, Ordering::Acquire, |half| {
                    let mut bytes = half.to_ne_bytes();
                    step(&mut bytes);
                    Some(u32::from_ne_bytes(bytes))
                });
            }
            Unit::Word | Unit::Part => {
                let within = at % 8;
                change(self.word(at - within), |word| step(&mut word[within..within + size_of::<T>()]));
            }
        }
        before.expect("a step is made at least once")
    }

    /// Makes it unchangeable, if no other writable mapping of it is left in any process.
    ///
    /// # Errors
    /// EBUSY if there is one; the memory comes back, if there was room to map it again.
    pub fn freeze(self) -> Result<Frozen, (io::Error, Option<Self>)> {
        let Self { mapping, file, len } = self;
        drop(mapping);
        match fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL)) {
            Ok(_) => Frozen::map(file, len).map_err(|error| (error, None)),
            Err(error) => {
                let again = Mapping::new(&file, mapped(len)).ok().map(|mapping| Self { mapping, file, len });
                Err((error.into(), again))
            }
        }
    }
}

fn filled(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = create(name)?;
    has_room(mapped(bytes.len()))?;
    let file = File::from(file);
    file.write_all_at(bytes, 0)?;
    file.set_len(mapped(bytes.len()) as u64)?;
    Ok(file.into())
}

fn check(file: &OwnedFd, number: u64, len: usize, wanted: SealFlag) -> io::Result<Identity> {
    let identity = Identity::of(file)?;
    let same =
        identity.number == number && len <= isize::MAX as usize - 8 && identity.size == mapped(len) as u64;
    if same && seals(file).contains(wanted) { Ok(identity) } else { Err(false_file()) }
}

/// One atomic step on the bytes of a word.
#[inline]
fn change(word: &AtomicU64, mut step: impl FnMut(&mut [u8; 8])) {
    let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| {
        let mut bytes = before.to_ne_bytes();
        step(&mut bytes);
        Some(u64::from_ne_bytes(bytes))
    });
}

#[inline]
fn load_words(words: &[AtomicU64], out: &mut [u8]) {
    for (word, out) in words.iter().zip(out.as_chunks_mut::<8>().0) {
        *out = word.load(Ordering::Relaxed).to_ne_bytes();
    }
}

#[inline]
fn load_halves(halves: &[AtomicU32], out: &mut [u8]) {
    for (half, out) in halves.iter().zip(out.as_chunks_mut::<4>().0) {
        *out = half.load(Ordering::Relaxed).to_ne_bytes();
    }
}

#[inline]
fn store_words(words: &[AtomicU64], bytes: &[u8]) {
    for (word, bytes) in words.iter().zip(bytes.as_chunks::<8>().0) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
}

#[inline]
fn store_halves(halves: &[AtomicU32], bytes: &[u8]) {
    for (half, bytes) in halves.iter().zip(bytes.as_chunks::<4>().0) {
        half.store(u32::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
}

/// Shared memory that nobody can write any more.
#[derive(Debug)]
pub struct Frozen {
    start: NonNull<u8>,
    len: usize,
    file: Arc<OwnedFd>,
}

// SAFETY: memory that nobody writes, without an owner thread.
unsafe impl Send for Frozen {}
// SAFETY: as above.
unsafe impl Sync for Frozen {}

impl Frozen {
    /// These bytes.
    ///
    /// # Errors
    /// As [`Segment::zeroed`].
    pub fn holding(name: &CStr, bytes: &[u8]) -> io::Result<Self> {
        let file = filled(name, bytes)?;
        let seals =
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Self::map(Arc::new(file), bytes.len())
    }

    /// Is what came as a descriptor the frozen file of that number and length?
    ///
    /// # Errors
    /// It is not.
    pub fn recognise(file: &OwnedFd, number: u64, len: usize) -> io::Result<Identity> {
        check(file, number, len, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE)
    }

    /// Maps a file that was [recognised](Self::recognise).
    ///
    /// # Errors
    /// It is none; ENOMEM.
    pub fn map(file: Arc<OwnedFd>, len: usize) -> io::Result<Self> {
        if !seals(&file).contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE)
            || Identity::of(&file)?.size < len as u64
        {
            return Err(false_file());
        }
        let length = NonZeroUsize::new(mapped(len)).ok_or_else(false_file)?;
        // Private: older systems take a shared mapping for one that may become writable, and refuse.
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory that exists.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, &file, 0) }?;
        Ok(Self { start: start.cast(), len, file })
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading as long as `self`; the seals say that no process can write or cut the file short, and
        // the kernel gives the write seal only when no writable mapping of it is left anywhere.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Its file.
    #[must_use]
    pub const fn file(&self) -> &Arc<OwnedFd> {
        &self.file
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing borrowed from it outlives `self`.
        let _ = unsafe { munmap(self.start.cast(), mapped(self.len)) };
    }
}

/// A lock on a file that the system itself takes from a process that dies, whenever it dies.
#[derive(Debug)]
pub struct FileLock {
    /// Opened anew by this process, and never sent: the lock belongs to who holds this very opening.
    own: OwnedFd,
}

impl FileLock {
    /// That of an open memory file.
    ///
    /// # Errors
    /// EMFILE, ENFILE; ENOENT without /proc.
    pub fn new(file: impl AsFd) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        Ok(Self { own: File::options().read(true).write(true).open(path)?.into() })
    }

    /// Runs `body` while no other process does so. Threads of this process are the caller's to keep apart.
    pub fn hold<R>(&self, body: impl FnOnce() -> R) -> R {
        let _held = Held::take(&self.own);
        body()
    }
}

struct Held<'a>(&'a OwnedFd);

impl<'a> Held<'a> {
    fn take(own: &'a OwnedFd) -> Self {
        // It waits asleep. An interrupt, or a kernel that is out of memory for a moment, means again.
        while fcntl(own, FcntlArg::F_OFD_SETLKW(&whole(libc::F_WRLCK))).is_err() {
            std::thread::yield_now();
        }
        Self(own)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = fcntl(self.0, FcntlArg::F_OFD_SETLKW(&whole(libc::F_UNLCK)));
    }
}

fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
