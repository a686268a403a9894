//! Why a queue did not take or give an item.

use std::fmt;
use std::io;

/// Why an item was not put; it has the value.
#[non_exhaustive]
pub enum PutError<T> {
    /// There was no room in time, or the host did not take the item in time.
    Full(T),
    /// The queue has been closed.
    Closed(T),
    /// The process that made the queue has ended.
    Gone(T),
    /// The value cannot be encoded, and why.
    Encode(T, String),
    /// The value alone is larger than the queue's limit: its encoded length in bytes.
    TooLarge(T, usize),
    /// The system said no.
    Io(T, io::Error),
}

impl<T> PutError<T> {
    /// The value.
    #[must_use]
    pub fn into_value(self) -> T {
        match self {
            Self::Full(value)
            | Self::Closed(value)
            | Self::Gone(value)
            | Self::Encode(value, _)
            | Self::TooLarge(value, _)
            | Self::Io(value, _) => value,
        }
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the queue is full; take items out, or wait longer"),
            Self::Closed(_) => f.write_str("the queue is closed"),
            Self::Gone(_) => f.write_str("the process that made the queue has ended, and the queue with it"),
            Self::Encode(_, text) => write!(f, "cannot encode the item: {text}"),
            Self::TooLarge(_, len) => {
                write!(f, "an item of {len} bytes is larger than the whole queue may be; raise its limit")
            }
            Self::Io(_, error) => write!(f, "cannot put the item: {error}"),
        }
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> std::error::Error for PutError<T> {}

/// Why there is no item.
#[non_exhaustive]
pub enum GetError {
    /// There was none in time.
    Empty,
    /// There is none and there will be none: the queue was closed, or all other handles are gone.
    Closed,
    /// The process that made the queue has ended.
    Gone,
    /// The item is not of the queue's type, and why. It is lost.
    Decode(String),
    /// The system said no; the item is in the queue.
    Io(io::Error),
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the queue is empty; wait longer"),
            Self::Closed => f.write_str("the queue is empty, and closed, or nobody else has it any more"),
            Self::Gone => f.write_str("the process that made the queue has ended, and the queue with it"),
            Self::Decode(text) => write!(f, "cannot decode the item: {text}"),
            Self::Io(error) => write!(f, "cannot receive the item: {error}"),
        }
    }
}

impl fmt::Debug for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for GetError {}

impl PartialEq for GetError {
    /// System errors are equal when their kinds are.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Decode(one), Self::Decode(other)) => one == other,
            (Self::Io(one), Self::Io(other)) => one.kind() == other.kind(),
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl From<GetError> for io::Error {
    fn from(error: GetError) -> Self {
        let kind = match &error {
            GetError::Empty => io::ErrorKind::TimedOut,
            GetError::Closed => io::ErrorKind::UnexpectedEof,
            GetError::Gone => io::ErrorKind::BrokenPipe,
            GetError::Decode(_) => io::ErrorKind::InvalidData,
            GetError::Io(system) => system.kind(),
        };
        Self::new(kind, error)
    }
}

impl<T> From<PutError<T>> for io::Error {
    fn from(error: PutError<T>) -> Self {
        let kind = match &error {
            PutError::Full(_) => io::ErrorKind::TimedOut,
            PutError::Closed(_) | PutError::Gone(_) => io::ErrorKind::BrokenPipe,
            PutError::Encode(..) => io::ErrorKind::InvalidData,
            PutError::TooLarge(..) => io::ErrorKind::InvalidInput,
            PutError::Io(_, system) => system.kind(),
        };
        Self::new(kind, error.to_string())
    }
}
