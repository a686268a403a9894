//! How many descriptors the queues of this process keep for others: who sends items that nobody takes must not leave it
//! without any.

use crate::sys::open_files_limit;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What descriptors are kept for, and how many eighths of the limit on open files they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Those of items.
    Items = 4,
    /// Those of tickets that others made, and of who came by any.
    Guests = 3,
}

static ITEMS: AtomicUsize = AtomicUsize::new(0);
static GUESTS: AtomicUsize = AtomicUsize::new(0);

impl Purpose {
    const fn counter(self) -> &'static AtomicUsize {
        match self {
            Self::Items => &ITEMS,
            Self::Guests => &GUESTS,
        }
    }

    fn most(self) -> usize {
        open_files_limit() / 8 * self as usize
    }
}

/// A part of that; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    purpose: Purpose,
    count: usize,
}

impl Held {
    /// None when that is too many.
    pub(super) fn take(purpose: Purpose, count: usize) -> Option<Self> {
        let held = Self { purpose, count };
        let before = purpose.counter().fetch_add(count, Ordering::Relaxed);
        (before + count <= purpose.most()).then_some(held)
    }

    /// Is more than half of it in use?
    pub(super) fn is_scarce(&self) -> bool {
        self.purpose.counter().load(Ordering::Relaxed) > self.purpose.most() / 2
    }

    /// Both as one.
    pub(super) fn and(mut self, mut other: Self) -> Self {
        self.count += std::mem::take(&mut other.count);
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.purpose.counter().fetch_sub(self.count, Ordering::Relaxed);
    }
}
