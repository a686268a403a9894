//! A queue's settings.

use super::{Capacity, PIECE, Queue};
use std::marker::PhantomData;

/// A queue, not made yet.
#[derive(Debug)]
#[must_use = "nothing is made before `build`"]
pub struct QueueBuilder<T> {
    capacity: Capacity,
    item: PhantomData<fn(T) -> T>,
}

impl<T> QueueBuilder<T> {
    pub(super) const fn new() -> Self {
        Self { capacity: Capacity::Unbounded, item: PhantomData }
    }

    /// At most so many items, instead of any limit set before; 0 is no limit.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = match u32::try_from(items) {
            Ok(0) | Err(_) => Capacity::Unbounded,
            Ok(items) => Capacity::Items(items),
        };
        self
    }

    /// At most so many bytes of encoded items (each counts for at least 64), instead of any limit set before; 0 is no limit.
    /// Over it [`put`](Queue::put) waits and [`try_put`](Queue::try_put) fails.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.capacity = if bytes == 0 { Capacity::Unbounded } else { Capacity::Bytes(bytes.max(PIECE)) };
        self
    }

    /// Makes it.
    pub fn build(self) -> Queue<T> {
        Queue::with(self.capacity)
    }
}
