//! Messages between processes: pipes, connections, and named doors to get one. The picture is in `README.md`.

mod client;
mod ends;
mod error;
mod handles;
mod host;
mod listener;
mod name;
#[cfg(feature = "cli")]
pub(crate) use name::{Claim, claim};
mod wait;

pub use client::{Client, ClientBuilder};
pub use ends::{Connection, Receiver, Sender};
pub use error::{ConnectError, RecvError, SendError, SendErrorKind};
pub use listener::{Listener, ListenerBuilder, Peer};
pub use wait::wait;

use procession_worker::wire::connection;
use std::io;

/// A one-way connection: what is sent at one end is received at the other.
///
/// Each end can be cloned, shared by threads, and sent to other processes, in arguments, results and messages; each
/// message goes, whole, to exactly one receiver. It takes no thread and no file, and two descriptors.
///
/// # Errors
/// Too many descriptors are open here or in the system, or it is out of memory.
///
/// ```
/// let (sender, receiver) = procession::pipe::<(u32, String)>()?;
/// sender.send((7, "seven".into()))?;
/// drop(sender);
/// assert_eq!(receiver.recv()?, Some((7, "seven".into())));
/// assert_eq!(receiver.recv()?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Pipe")]
pub fn pipe<T>() -> io::Result<(Sender<T>, Receiver<T>)> {
    let (sender, receiver) = connection::pair()?;
    Ok((Sender::new(sender), Receiver::new(receiver)))
}

/// A two-way connection: one end sends `A` and receives `B`, the other the reverse.
///
/// # Errors
/// As [`pipe`].
///
/// ```
/// let (here, there) = procession::duplex::<u64, String>()?;
/// here.send(42)?;
/// let asked = there.recv()?.expect("it was sent");
/// there.send(format!("{asked} it is"))?;
/// assert_eq!(here.recv()?.as_deref(), Some("42 it is"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Pipe")]
pub fn duplex<A, B>() -> io::Result<(Connection<A, B>, Connection<B, A>)> {
    let (left, right) = connection::pair()?;
    Ok((Connection::new(left, None), Connection::new(right, None)))
}
