//! POSIX semaphores in a mapping: beds, from which a sleeper is rung by anybody and never waited for.
#![allow(unsafe_code, reason = "the cellar")]

use super::robust::{Until, timespec_of};
use libc::{c_int, clockid_t, sem_t, timespec};
use procession_worker::sys::memory::Mapping;
use std::io;

unsafe extern "C" {
    // glibc 2.30; the libc package does not name it.
    fn sem_clockwait(semaphore: *mut sem_t, clock: clockid_t, until: *const timespec) -> c_int;
}

/// The bytes that one takes.
pub(crate) const SIZE: usize = size_of::<sem_t>();
const _: () = assert!(SIZE == 32, "the layout of what is shared has room for these");

/// A semaphore at a fixed place of a mapping.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Semaphore<'a> {
    mapping: &'a Mapping,
    at: usize,
}

impl<'a> Semaphore<'a> {
    /// The semaphore at byte `at`, a multiple of 8.
    pub(crate) const fn new(mapping: &'a Mapping, at: usize) -> Self {
        Self { mapping, at }
    }

    fn raw(&self) -> *mut sem_t {
        self.mapping.place(self.at, SIZE).as_ptr().cast()
    }

    /// Makes it anew, at 0; nobody may be using it.
    pub(crate) fn make(&self) {
        // SAFETY: the place is inside the mapping, aligned, and large enough.
        unsafe { libc::sem_init(self.raw(), 1, 0) };
    }

    /// Adds one; whoever sleeps there wakes.
    pub(crate) fn post(&self) {
        // SAFETY: the memory is mapped; a semaphore is two numbers, and any two will do.
        unsafe { libc::sem_post(self.raw()) };
    }

    /// Takes one; false when the time has come first. A signal's handler runs, and the wait goes on.
    pub(crate) fn wait(&self, until: Until) -> bool {
        loop {
            // SAFETY (all three): as in `post`.
            let done = match until {
                // SAFETY: as above.
                Until::Now => unsafe { libc::sem_trywait(self.raw()) },
                // SAFETY: as above.
                Until::Forever => unsafe { libc::sem_wait(self.raw()) },
                Until::Time(nanos) => {
                    let time = timespec_of(nanos);
                    // SAFETY: as above; the time is ours.
                    unsafe { sem_clockwait(self.raw(), libc::CLOCK_MONOTONIC, &raw const time) }
                }
            };
            if done == 0 {
                return true;
            }
            if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                return false;
            }
        }
    }
}
