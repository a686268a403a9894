//! Memory that processes share: one value, a row of them, or bytes.
//!
//! Each is a memory file without a name. It travels as its descriptor in any message, and is gone when the last process
//! has closed it: there is nothing to unlink, and nothing that a killed process could leave behind.

mod array;
mod frozen;
mod raw;
mod ticket;
mod value;

pub use array::Array;
pub use frozen::{FreezeError, FrozenArray};
pub use raw::SharedMemory;
pub use value::Value;

use std::fmt;
use std::io;

/// A place outside of an [`Array`] or [`SharedMemory`] was meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OutOfBounds {
    start: usize,
    count: usize,
    len: usize,
}

impl OutOfBounds {
    /// Do `count` places from `start` on lie within `len`?
    #[inline]
    fn check(start: usize, count: usize, len: usize) -> Result<(), Self> {
        match start.checked_add(count) {
            Some(end) if end <= len => Ok(()),
            _ => Err(Self { start, count, len }),
        }
    }
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, count, len } = self;
        match count {
            1 => write!(f, "index {start} is out of bounds: the shared memory has {len} places"),
            _ => write!(f, "{count} places from {start} on are out of bounds: the shared memory has {len}"),
        }
    }
}

impl std::error::Error for OutOfBounds {}

impl From<OutOfBounds> for io::Error {
    fn from(error: OutOfBounds) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// What the system said to a new memory, with what to do about it.
fn refused(error: io::Error) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::OutOfMemory => "it does not fit into the memory that is available here",
        io::ErrorKind::StorageFull => "free some of /dev/shm",
        io::ErrorKind::FileTooLarge => "raise this process's limit on the size of files (ulimit -f)",
        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists | io::ErrorKind::InvalidInput => return error,
        _ => {
            "each shared value, array or memory holds an open descriptor: \
              put what belongs together into one Array, or raise the limit (ulimit -n)"
        }
    };
    io::Error::new(error.kind(), format!("shared memory: {error}; {remedy}"))
}

/// So many bytes for so many values; what cannot be is larger than any memory.
fn size_of_all<T>(len: usize) -> io::Result<usize> {
    len.checked_mul(size_of::<T>())
        .filter(|size| *size <= isize::MAX as usize - 8)
        .ok_or_else(|| refused(io::ErrorKind::OutOfMemory.into()))
}

impl fmt::Debug for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
