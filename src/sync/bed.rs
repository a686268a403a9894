//! Where one sleeps: a binary semaphore of one word, rung by anybody, and nobody waits for the sleeper.
//!
//! Not the C library's: that one keeps its flags in the shared memory, too, and ends the program when they make no sense.

use crate::sys::futex;
use crate::sys::robust::Until;
use std::sync::atomic::{AtomicU32, Ordering};

/// A bed at its place in the object's memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bed<'a>(pub(super) &'a AtomicU32);

impl Bed<'_> {
    /// For somebody else; nobody may be in it.
    pub(super) fn make(self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Wakes whoever sleeps there, or is about to; one act of the kernel, of which no death leaves a half.
    pub(super) fn ring(self) {
        futex::raise(self.0);
    }

    /// Sleeps until it is rung; false when the time has come. It may wake for nothing.
    pub(super) fn sleep(self, until: Until) -> bool {
        self.0.swap(0, Ordering::AcqRel) != 0 || {
            let in_time = futex::wait(self.0, 0, until);
            self.0.swap(0, Ordering::AcqRel) != 0 || in_time
        }
    }
}
