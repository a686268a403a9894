//! Values that processes share and nobody changes any more.

use super::{refused, ticket};
use procession_worker::Plain;
use procession_worker::ipc::keep;
use procession_worker::sys::plain::{bytes_of, values_in};
use procession_worker::sys::segment::Frozen;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

/// A row of values in memory that processes share, and that none can change any more: a slice in each of them.
///
/// The way for large input. What travels is a descriptor; nothing is copied, and every process reads the same memory.
///
/// ```
/// use procession::{FrozenArray, Pool};
///
/// fn sum(numbers: FrozenArray<u64>, start: usize, end: usize) -> u64 {
///     numbers[start..end].iter().sum()
/// }
///
/// let numbers = FrozenArray::new((0..10_000).collect::<Vec<u64>>())?;
/// let pool = Pool::new(2)?;
/// let sums = pool.starmap(sum, (0..10).map(|n| (numbers.clone(), n * 1000, (n + 1) * 1000)))?;
/// assert_eq!(sums.iter().sum::<u64>(), 49_995_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The system itself vouches for it (a memory file sealed against writing, which it grants only when no process has it
/// mapped for writing), so a process that goes wrong cannot change it either.
///
/// A pool's worker keeps the last four that it has seen mapped, until others take their place or it has had no task for a second:
/// an array that comes with each item of a map costs nothing from the second one on. When all handles are dropped and
/// no worker keeps it, the memory is free.
pub struct FrozenArray<T> {
    memory: Arc<Frozen>,
    kind: PhantomData<T>,
}

impl<T: Plain> FrozenArray<T> {
    /// The values given, copied once.
    ///
    /// # Errors
    /// No memory for them; too many open descriptors.
    pub fn new(values: impl AsRef<[T]>) -> io::Result<Self> {
        Frozen::holding(c"procession-frozen", bytes_of(values.as_ref())).map(Self::over).map_err(refused)
    }

    pub(super) fn over(memory: Frozen) -> Self {
        Self { memory: Arc::new(memory), kind: PhantomData }
    }
}

impl<T: Plain> Deref for FrozenArray<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        values_in(self.memory.bytes())
    }
}

impl<T: Plain> AsRef<[T]> for FrozenArray<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<'a, T: Plain> IntoIterator for &'a FrozenArray<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> Clone for FrozenArray<T> {
    fn clone(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), kind: PhantomData }
    }
}

impl<T: Plain> fmt::Debug for FrozenArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenArray").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Only in a message of this crate; anywhere else it is an error.
impl<T: Plain> Serialize for FrozenArray<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        ticket::give(self.memory.file(), self.memory.bytes().len(), size_of::<T>(), to)
    }
}

impl<'de, T: Plain> Deserialize<'de> for FrozenArray<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        const { assert!(size_of::<T>() > 0, "values without bytes need no sharing") };
        let (file, ticket) = ticket::take(size_of::<T>(), from)?;
        keep::arrived(file, ticket.number, ticket.len)
            .map(|memory| Self { memory, kind: PhantomData })
            .map_err(|error| D::Error::custom(refused(error)))
    }
}

/// Why a memory could not be frozen, with the memory.
pub struct FreezeError<A> {
    error: io::Error,
    memory: Option<A>,
}

impl<A> FreezeError<A> {
    pub(super) fn new(error: io::Error, memory: Option<A>) -> Self {
        Self { error, memory }
    }

    /// The memory, as it was before. `None` only if the system had no room left to map it again.
    #[must_use]
    pub fn into_inner(self) -> Option<A> {
        self.memory
    }
}

impl<A> fmt::Display for FreezeError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error.kind() {
            io::ErrorKind::ResourceBusy => f.write_str(
                "the memory cannot be frozen while there is another handle to it, here or in another process: drop those first",
            ),
            _ => write!(f, "the memory cannot be frozen: {}", self.error),
        }
    }
}

impl<A> fmt::Debug for FreezeError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<A> std::error::Error for FreezeError<A> {}

impl<A> From<FreezeError<A>> for io::Error {
    fn from(error: FreezeError<A>) -> Self {
        Self::new(error.error.kind(), error.to_string())
    }
}
