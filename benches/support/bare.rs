//! The bare semaphores of the C library in a memory file, and another process that uses them.
#![allow(unsafe_code, reason = "it is what the library spares its users")]

use crate::peer::again;
use crate::support::Outcome;
use nix::libc::{self, sem_t};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child, Stdio};

const SIZE: usize = 4096;

/// Semaphores in one page.
pub(crate) struct Bare {
    file: OwnedFd,
    start: *mut sem_t,
}

impl Bare {
    /// New ones, with these values.
    pub(crate) fn new(values: &[u32]) -> Outcome<Self> {
        // SAFETY: a constant name.
        let fd = unsafe { libc::memfd_create(c"bare".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: the kernel has just made this descriptor for us.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        nix::unistd::ftruncate(&file, SIZE.try_into()?)?;
        let bare = Self::map(file)?;
        for (n, &value) in values.iter().enumerate() {
            // SAFETY: inside the page, and nobody else knows it yet.
            unsafe { libc::sem_init(bare.at(n), 1, value) };
        }
        Ok(bare)
    }

    /// Those that somebody else made and gave us as standard input.
    pub(crate) fn inherited() -> Outcome<Self> {
        use std::os::fd::AsFd;
        Self::map(std::io::stdin().as_fd().try_clone_to_owned()?)
    }

    fn map(file: OwnedFd) -> Outcome<Self> {
        let (flags, fd): (_, RawFd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, flags, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(Self { file, start: start.cast() })
    }

    fn at(&self, n: usize) -> *mut sem_t {
        self.start.wrapping_add(n * 2)
    }

    #[inline]
    pub(crate) fn wait(&self, n: usize) {
        // SAFETY: made by `new`, mapped as long as `self`.
        while unsafe { libc::sem_wait(self.at(n)) } != 0 {}
    }

    #[inline]
    pub(crate) fn post(&self, n: usize) {
        // SAFETY: as in `wait`.
        unsafe { libc::sem_post(self.at(n)) };
    }

    /// This program again in a part, with these as its standard input.
    pub(crate) fn shared_with(&self, part: &str) -> Outcome<Child> {
        Ok(again(part)?.stdin(Stdio::from(self.file.try_clone()?)).spawn()?)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: ours, and used no more.
        unsafe { libc::munmap(self.start.cast(), SIZE) };
    }
}
