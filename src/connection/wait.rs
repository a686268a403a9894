//! Waiting for the first of many.

use crate::sys::wait as sys;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Waits until at least one of these is ready, at most so long (`None`: without end), and gives the indices of those that are:
/// in their order, none at the time limit.
///
/// [`Connection`](crate::Connection) and [`Receiver`](crate::Receiver) are ready when a message can be received or the other end is
/// closed, a [`Sender`](crate::Sender) when its other end is closed, a [`Child`](crate::Child) when it has ended, a
/// [`Listener`](crate::Listener) when somebody knocks; and whatever else is a descriptor when it can be read. The cost
/// grows with the number of objects (it is poll(2)).
///
/// # Errors
/// More objects than this process may open files (EINVAL), or out of memory.
///
/// ```
/// use procession::{Process, pipe, wait};
///
/// let child = Process::new(|| (), ()).start()?;
/// let (sender, receiver) = pipe::<u32>()?;
/// assert_eq!(wait(&[&receiver, &child], None)?, [1]);
/// sender.send(1)?;
/// assert_eq!(wait(&[&receiver, &child], None)?, [0, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn wait(objects: &[&dyn AsFd], limit: Option<Duration>) -> io::Result<Vec<usize>> {
    sys::any_ready(objects, limit.and_then(|limit| Instant::now().checked_add(limit)))
}
