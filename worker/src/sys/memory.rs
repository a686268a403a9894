//! Memory that two processes see: read and written by value, never lent out as a reference to plain data.
#![allow(unsafe_code, reason = "the cellar")]

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::resource::{Resource, getrlimit};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// An anonymous file of `len` zero bytes that nobody can cut short: no peer can make us fault.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn memfd(name: &CStr, len: usize) -> io::Result<OwnedFd> {
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if len as u64 > limit {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let size = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    nix::unistd::ftruncate(&fd, size)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL))?;
    Ok(fd)
}

/// An empty anonymous file, to be read and written only: it may be cut short, so nobody may map it.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn unsealed_memfd(name: &CStr) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)?)
}

/// Has it so many bytes, and memory behind each of them? A hole is a claim that costs nothing.
///
/// And is it a file in memory at all? Any other may belong to a file system that lets its readers wait; only one in memory
/// can be asked for its seals.
pub fn holds(fd: impl AsFd, len: u64) -> bool {
    if fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).is_err() {
        return false;
    }
    const BLOCK: u64 = 512;
    let at_least = |has: i64, len| u64::try_from(has).is_ok_and(|has| has >= len);
    nix::sys::stat::fstat(&fd)
        .is_ok_and(|stat| at_least(stat.st_size, len) && at_least(stat.st_blocks, len.div_ceil(BLOCK)))
}

/// Backs a large buffer's room with large pages, where the system has them: a page fault for every 2 MiB rather than
/// for every 4 KiB.
pub fn use_large_pages(buffer: &mut Vec<u8>) {
    const LARGE: usize = 2 << 20;
    let start = buffer.as_mut_ptr().addr().next_multiple_of(LARGE);
    let end = (buffer.as_mut_ptr().addr() + buffer.capacity()) & !(LARGE - 1);
    if end > start {
        // SAFETY: whole pages inside the buffer's own allocation, and the advice changes no byte of them.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_HUGEPAGE) };
    }
}

/// A shared mapping of a file, gone when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory without an owner thread, and all access goes through atomics or copies.
unsafe impl Send for Mapping {}
// SAFETY: as above; `write` and `read` of one place at one time are kept apart by the protocols built on them.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd` for reading and writing.
    ///
    /// # Errors
    /// `fd` is no sealed memory file of at least `len` bytes (a false descriptor), or ENOMEM.
    pub fn new(fd: impl AsFd, len: usize) -> io::Result<Self> {
        let fd = fd.as_fd();
        if !is_sealed(fd, len as u64)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a sealed memory file of that size"));
        }
        Self::unsealed(fd, len)
    }

    /// As [`new`](Self::new), of a file that whoever can name it may cut short; then to touch it ends this process (SIGBUS).
    ///
    /// # Errors
    /// `fd` cannot be mapped, or ENOMEM.
    pub fn unsealed(fd: impl AsFd, len: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory that exists.
        let start = unsafe {
            mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)
        }?;
        Ok(Self { start: start.cast(), len })
    }

    /// Where it starts, for foreign code; what such code does there is beyond all promises of ours.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// `count` words from byte `at` on, a multiple of 8.
    #[inline]
    #[must_use]
    pub fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        assert!(at.is_multiple_of(8) && count <= self.len / 8, "words are aligned");
        // SAFETY: inside the mapping, aligned (the mapping starts on a page), and every access of them is atomic.
        unsafe { std::slice::from_raw_parts(self.at(at, 8 * count).cast().as_ptr(), count) }
    }

    /// `count` half words from byte `at` on, a multiple of 4.
    #[inline]
    #[must_use]
    pub fn halves(&self, at: usize, count: usize) -> &[AtomicU32] {
        assert!(at.is_multiple_of(4) && count <= self.len / 4, "words are aligned");
        // SAFETY: as in `words`.
        unsafe { std::slice::from_raw_parts(self.at(at, 4 * count).cast().as_ptr(), count) }
    }

    #[inline]
    fn at(&self, at: usize, len: usize) -> NonNull<u8> {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "inside the mapping");
        // SAFETY: just checked to lie inside the mapping, which lives as long as `self`.
        unsafe { self.start.add(at) }
    }

    /// The 64-bit word at byte `at`, a multiple of 8.
    #[inline]
    #[must_use]
    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8), "words are aligned");
        // SAFETY: inside the mapping, aligned (the mapping starts on a page), and every access of it is atomic.
        unsafe { self.at(at, 8).cast().as_ref() }
    }

    /// The 32-bit word at byte `at`, a multiple of 4.
    #[inline]
    #[must_use]
    pub fn half(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4), "words are aligned");
        // SAFETY: as in `word`.
        unsafe { self.at(at, 4).cast().as_ref() }
    }

    /// Where byte `at` lies, with `len` bytes of the mapping from there on: for what the C library keeps in it.
    #[inline]
    #[must_use]
    pub fn place(&self, at: usize, len: usize) -> NonNull<u8> {
        self.at(at, len)
    }

    /// Copies `bytes` to byte `at`.
    #[inline]
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let to = self.at(at, bytes.len());
        // SAFETY: the target lies inside the mapping, which no Rust reference to plain bytes ever covers.
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// A place of `len` bytes at byte `at`, to be filled from its start.
    #[inline]
    #[must_use]
    pub fn window(&self, at: usize, len: usize) -> Window<'_> {
        Window { next: self.at(at, len), left: len, mapping: PhantomData }
    }

    /// Writes up to `len` bytes from byte `at` to `fd`, straight from the mapping.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn write_to(&self, fd: impl AsFd, at: usize, len: usize) -> io::Result<usize> {
        let from = self.at(at, len);
        // SAFETY: the kernel reads `len` bytes inside the mapping, and writes none.
        let n = unsafe { libc::write(fd.as_fd().as_raw_fd(), from.as_ptr().cast(), len) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Appends `len` bytes from byte `at` to `out`.
    pub fn read(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        let from = self.at(at, len);
        out.reserve(len);
        let spare = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: the source lies inside the mapping and the target has room for `len` bytes; they are not one memory.
        unsafe { spare.copy_from_nonoverlapping(from.as_ptr(), len) };
        // SAFETY: these `len` bytes were just written.
        unsafe { out.set_len(out.len() + len) };
    }
}

/// Is it a memory file of at least `len` bytes that nobody can cut short?
///
/// # Errors
/// It is no memory file.
pub fn is_sealed(fd: impl AsFd, len: u64) -> io::Result<bool> {
    let seals = fcntl(&fd, FcntlArg::F_GET_SEALS)?;
    let size = nix::sys::stat::fstat(&fd)?.st_size;
    Ok(seals & SealFlag::F_SEAL_SHRINK.bits() != 0 && u64::try_from(size).is_ok_and(|size| size >= len))
}

/// Puts `bytes` into the file at byte `at`, beyond whatever is mapped of it.
///
/// # Errors
/// ENOSPC, ENOMEM, EFBIG (a limit of this process).
pub fn put_into(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let end = at + bytes.len() as u64;
    // Over the limit of a file's size the system sends a signal that ends the program, rather than an error.
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if end > limit {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    if file.metadata()?.len() < end {
        file.set_len(end)?;
    }
    file.write_all_at(bytes, at).inspect_err(|_| give_back(file, at..end))
}

/// Fills `bytes` from the start of a file.
///
/// # Errors
/// The file ends before, or what pread(2) says.
pub fn read_from(file: impl AsFd, bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let at = i64::try_from(done).map_err(|_| io::ErrorKind::InvalidInput)?;
        match nix::sys::uio::pread(file.as_fd(), &mut bytes[done..], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Appends the first `len` bytes of a file to `out`.
///
/// # Errors
/// The file ends before, or what pread(2) says.
pub fn read_into(file: impl AsFd, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
    out.reserve(len);
    use_large_pages(out);
    let mut done = 0;
    while done < len {
        let at = i64::try_from(done).map_err(|_| io::ErrorKind::InvalidInput)?;
        let spare = out.spare_capacity_mut();
        let most = spare.len().min(len - done);
        // SAFETY: the buffer is `spare`, ours and at least of that length; the kernel only writes to it.
        let n = unsafe { libc::pread(file.as_fd().as_raw_fd(), spare.as_mut_ptr().cast(), most, at) };
        match usize::try_from(n) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                // SAFETY: the kernel has just filled these `n` bytes of the spare room.
                unsafe { out.set_len(out.len() + n) };
                done += n;
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Gives the memory of a part of the file back to the system.
pub fn give_back(file: &File, part: Range<u64>) {
    let (Ok(start), Ok(len)) = (i64::try_from(part.start), i64::try_from(part.end - part.start)) else {
        return;
    };
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let _ = fallocate(file, hole, start, len);
}

/// Bytes that the other side has put into a file, and does not touch as long as this is used.
#[derive(Debug)]
pub struct Lent {
    start: NonNull<u8>,
    len: usize,
}

impl Lent {
    /// Maps `len` bytes from byte `at`, a multiple of the page size.
    ///
    /// # Errors
    /// The file ends before, or ENOMEM.
    pub fn new(file: impl AsFd, at: u64, len: usize) -> io::Result<Self> {
        let size = u64::try_from(nix::sys::stat::fstat(&file)?.st_size).unwrap_or(0);
        let fits = at.checked_add(len as u64).is_some_and(|end| end <= size);
        let (true, Some(length), Ok(offset)) = (fits, NonZeroUsize::new(len), i64::try_from(at)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file ends before what was lent"));
        };
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory that exists.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, flags, file, offset) }?;
        Ok(Self { start: start.cast(), len })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading as long as `self`; the file cannot be cut short (sealed), and the parent leaves a
        // part alone from the call that lends it until that call has ended.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing borrowed from it outlives `self`.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

/// Part of a [`Mapping`] that is being filled.
#[derive(Debug)]
pub struct Window<'a> {
    next: NonNull<u8>,
    left: usize,
    mapping: PhantomData<&'a Mapping>,
}

impl Window<'_> {
    /// Adds `bytes`; false, and nothing is added, if they do not fit.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.left {
            return false;
        }
        // SAFETY: `left` bytes from `next` on lie inside the mapping, which no Rust reference to plain bytes covers.
        unsafe { self.next.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        // SAFETY: still inside the mapping, or one past its end.
        self.next = unsafe { self.next.add(bytes.len()) };
        self.left -= bytes.len();
        true
    }

    /// How many bytes still fit.
    #[inline]
    #[must_use]
    pub const fn left(&self) -> usize {
        self.left
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing borrowed from it outlives `self`.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}
