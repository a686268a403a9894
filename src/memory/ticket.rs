//! What a message says of a memory whose descriptor comes with it.

use procession_worker::ipc::handoff::{self, Handle};
use procession_worker::sys::segment::Identity;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::os::fd::OwnedFd;

/// Which file it must be, and how it is divided: a descriptor that was confused with another one is told at once.
#[derive(Serialize, Deserialize)]
pub(super) struct Ticket {
    pub(super) number: u64,
    pub(super) len: usize,
    size: usize,
}

/// Gives the memory to the message that is being encoded; its values are of `size` bytes each.
pub(super) fn give<S: Serializer>(file: &Handle, len: usize, size: usize, to: S) -> Result<S::Ok, S::Error> {
    let number = Identity::of(&**file).map_err(S::Error::custom)?.number;
    handoff::give(Handle::clone(file)).map_err(S::Error::custom)?;
    Ticket { number, len, size }.serialize(to)
}

/// Takes the memory from the message that is being decoded.
pub(super) fn take<'de, D: Deserializer<'de>>(size: usize, from: D) -> Result<(OwnedFd, Ticket), D::Error> {
    let ticket = Ticket::deserialize(from)?;
    let file = handoff::take().map_err(D::Error::custom)?;
    if ticket.size == size {
        Ok((file, ticket))
    } else {
        let theirs = ticket.size;
        Err(D::Error::custom(format!(
            "the shared memory that came holds values of {theirs} bytes, not of {size}"
        )))
    }
}
