//! Open files, sockets and pipes that travel as values; as a module, for `#[serde(with = "procession::handle")]`.

use procession_worker::ipc::handoff;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// An open descriptor in a message: `File`, `OwnedFd`, `UnixStream`, `TcpListener`, `PipeReader`, whatever stands on one.
///
/// As an argument, a result, or an item of a queue or connection, by itself or inside other values. The other process
/// gets a descriptor of its own for the same open file (one position, one set of flags); the sender keeps what it has,
/// so drop it if the other side is to see its end. Any number of them may go in one message, up to 16,192. By any
/// other way (a file, JSON) it cannot be encoded.
///
/// # Errors
/// Encoding fails when this process has no descriptor left for the copy, decoding when the message came without one: when
/// the receiver is at its limit of open files (`ulimit -n`). Nothing stays open that did not arrive.
///
/// ```
/// use procession::{Handle, pipe};
/// use std::io::{Read, Write};
///
/// let (sender, receiver) = pipe::<(String, Handle<std::io::PipeReader>)>()?;
/// let (reader, mut writer) = std::io::pipe()?;
/// sender.send(("the news".into(), reader.into()))?;
/// let (name, mut reader) = receiver.recv()?.expect("it was sent");
/// writer.write_all(b"none")?;
/// drop(writer);
/// let mut text = String::new();
/// reader.read_to_string(&mut text)?;
/// assert_eq!((name.as_str(), text.as_str()), ("the news", "none"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// In a type of your own, the field may have the plain type:
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Log {
///     name: String,
///     #[serde(with = "procession::handle")]
///     file: std::fs::File,
/// }
///
/// let (sender, receiver) = procession::pipe()?;
/// sender.send(Log { name: "null".into(), file: std::fs::File::create("/dev/null")? })?;
/// assert_eq!(receiver.recv()?.expect("it was sent").name, "null");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[doc(alias("DupFd", "reduction", "send_handle", "recv_handle"))]
pub struct Handle<T>(pub T);

impl<T> Handle<T> {
    /// What it is about.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> From<T> for Handle<T> {
    fn from(inner: T) -> Self {
        Self(inner)
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Handle<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: AsFd> AsFd for Handle<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T: AsFd> Serialize for Handle<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de, T: From<OwnedFd>> Deserialize<'de> for Handle<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

/// Sets a copy of the descriptor aside, to go with the message: for `#[serde(with = "procession::handle")]`.
///
/// # Errors
/// As [`Handle`] says.
pub fn serialize<T: AsFd, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let copy = value.as_fd().try_clone_to_owned().map_err(|error| {
        S::Error::custom(format_args!("an open descriptor cannot be copied for the message: {error}"))
    })?;
    handoff::give(Arc::new(copy)).map_err(S::Error::custom)?;
    serializer.serialize_unit()
}

/// Takes the descriptor that came with the message: for `#[serde(with = "procession::handle")]`.
///
/// # Errors
/// As [`Handle`] says.
pub fn deserialize<'de, T: From<OwnedFd>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    <()>::deserialize(deserializer)?;
    handoff::take().map(T::from).map_err(D::Error::custom)
}
