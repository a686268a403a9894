//! Every way in which a message or a connection may fail to come about.

use crate::sys::{EMFILE, ENFILE, ETOOMANYREFS};
use procession_worker::wire::codec::CodecError;
use procession_worker::wire::connection::{ReceiveTrouble, SendTrouble};
use procession_worker::wire::handshake::Refusal;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A message that was not sent, and why. Nothing of it arrives.
#[derive(Clone)]
pub struct SendError<T = ()> {
    /// Why.
    pub kind: SendErrorKind,
    /// The message, as it was.
    pub value: T,
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// Nobody holds the other end any more.
    #[doc(alias = "BrokenPipeError")]
    Closed,
    /// There was no room for it within the time limit.
    Full,
    /// The value cannot be encoded: what it said.
    Encode(Arc<str>),
    /// A receiver has seen it and did not take it: it was too long for it, its process has too many open files for what goes with
    /// the message or no memory for it, or the one of its several holders that was about to take it has died.
    Refused,
    /// What the system said: an errno.
    System(i32),
}

impl From<SendTrouble> for SendErrorKind {
    fn from(trouble: SendTrouble) -> Self {
        match trouble {
            SendTrouble::Closed => Self::Closed,
            SendTrouble::Late => Self::Full,
            SendTrouble::Refused => Self::Refused,
            SendTrouble::System(errno) => Self::System(errno),
        }
    }
}

impl From<SendTrouble> for SendError {
    fn from(trouble: SendTrouble) -> Self {
        Self { kind: trouble.into(), value: () }
    }
}

impl fmt::Display for SendErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection is closed: nobody holds its other end any more"),
            Self::Full => f.write_str("no room for the message within the time limit; is its receiver stuck?"),
            Self::Encode(text) => write!(f, "cannot encode the message: {text}"),
            Self::Refused => f.write_str(
                "the receiver did not take the message: too long for it, or it can open no more files (ulimit -n)",
            ),
            Self::System(errno) => system(f, "cannot send the message", *errno),
        }
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

/// As `Display`: it is what a `main` that returns an error shows.
impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> std::error::Error for SendError<T> {}

impl<T> From<SendError<T>> for io::Error {
    fn from(error: SendError<T>) -> Self {
        match error.kind {
            SendErrorKind::Closed => io::ErrorKind::BrokenPipe.into(),
            SendErrorKind::Full => io::ErrorKind::TimedOut.into(),
            SendErrorKind::System(errno) => Self::from_raw_os_error(errno),
            kind => Self::other(kind.to_string()),
        }
    }
}

/// Why there is no message. After all but [`System`](Self::System) the connection is as good as before.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecvError {
    /// None was there within the time limit.
    Empty,
    /// One came that cannot be decoded as what it should be; it is gone.
    Decode(Arc<str>),
    /// One came, but it, or its descriptors, found no place in this process, an errno says why; it is gone.
    NoPlace(i32),
    /// One came that is longer than the buffer given for it.
    TooShort {
        /// The whole of it.
        message: Vec<u8>,
    },
    /// One came that says it is longer than 1 TiB.
    TooLong {
        /// What it says, in bytes.
        length: u64,
    },
    /// What came is no message at all: the peer is none of this library's.
    Nonsense,
    /// What the system said: an errno.
    System(i32),
}

impl RecvError {
    pub(super) fn decoding(error: &CodecError, trouble: Option<i32>) -> Self {
        trouble.map_or_else(|| Self::Decode(error.to_string().into()), Self::NoPlace)
    }
}

impl From<ReceiveTrouble> for RecvError {
    fn from(trouble: ReceiveTrouble) -> Self {
        match trouble {
            ReceiveTrouble::Late => Self::Empty,
            ReceiveTrouble::NoPlace(errno) => Self::NoPlace(errno),
            ReceiveTrouble::TooLong { length, .. } => Self::TooLong { length },
            ReceiveTrouble::Nonsense => Self::Nonsense,
            ReceiveTrouble::System(errno) => Self::System(errno),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no message within the time limit"),
            Self::Decode(text) => {
                write!(f, "cannot decode the message: {text}; do both ends mean the same type?")
            }
            Self::NoPlace(errno) => system(f, "the message or its descriptors did not arrive", *errno),
            Self::TooShort { message } => {
                write!(
                    f,
                    "the buffer is too short for a message of {} bytes; it is in this error",
                    message.len()
                )
            }
            Self::TooLong { length } => write!(f, "a message of {length} bytes is over the limit of 1 TiB"),
            Self::Nonsense => f.write_str("what came is no message; is the peer another program?"),
            Self::System(errno) => system(f, "cannot receive", *errno),
        }
    }
}

/// As `Display`: it is what a `main` that returns an error shows.
impl fmt::Debug for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for RecvError {}

impl From<RecvError> for io::Error {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Empty => io::ErrorKind::TimedOut.into(),
            RecvError::System(errno) => Self::from_raw_os_error(errno),
            other => Self::other(other),
        }
    }
}

/// Why a client is not connected.
#[derive(Clone)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens under that name.
    #[doc(alias = "ConnectionRefusedError")]
    Absent(PathBuf),
    /// The listener did not answer within the time limit.
    TimedOut,
    /// The listener belongs to another user, whose id this is.
    Foreign(u32),
    /// The two did not come to terms, the text says why: one has no key, the keys differ, the listener does not let this user in, or
    /// somebody in between passes on what both say.
    #[doc(alias = "AuthenticationError")]
    Denied(Arc<str>),
    /// The listener hung up before it was done.
    Closed,
    /// What the system said: an errno.
    System(i32),
}

impl ConnectError {
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self::Denied(refusal.to_string().into())
    }

    pub(super) fn system(error: &io::Error, name: &Path) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::Absent(name.into()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::System(error.raw_os_error().unwrap_or(crate::sys::EIO)),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(name) => {
                write!(f, "nobody listens at {}; start the listener first", super::name::shown(name))
            }
            Self::TimedOut => {
                f.write_str("the listener did not answer within the time limit; does it accept?")
            }
            Self::Foreign(uid) => {
                write!(f, "the listener belongs to user {uid}; allow that with ClientBuilder::any_user")
            }
            Self::Denied(text) => f.write_str(text),
            Self::Closed => f.write_str("the listener hung up; is this user allowed in?"),
            Self::System(errno) => system(f, "cannot connect", *errno),
        }
    }
}

/// As `Display`: it is what a `main` that returns an error shows.
impl fmt::Debug for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConnectError {}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Absent(_) => io::ErrorKind::ConnectionRefused,
            ConnectError::TimedOut => io::ErrorKind::TimedOut,
            ConnectError::Foreign(_) | ConnectError::Denied(_) => io::ErrorKind::PermissionDenied,
            ConnectError::Closed => io::ErrorKind::ConnectionReset,
            ConnectError::System(errno) => return Self::from_raw_os_error(*errno),
        };
        Self::new(kind, error)
    }
}

fn system(f: &mut fmt::Formatter<'_>, what: &str, errno: i32) -> fmt::Result {
    write!(f, "{what}: {}", io::Error::from_raw_os_error(errno))?;
    match errno {
        EMFILE | ENFILE => f.write_str("; close some files, or raise the limit (ulimit -n)"),
        ETOOMANYREFS => f.write_str("; too many descriptors are on their way: receive some of them first"),
        _ => Ok(()),
    }
}
