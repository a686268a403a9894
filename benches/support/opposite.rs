//! What connections and queues are measured against: processes at the other end of a bare socket or pipe.

use crate::cpu::move_to;
use crate::support::Outcome;
use procession::{Child, Handle, Process};
use procession_worker::sys::socket;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};

/// The size of a large message.
pub(crate) const LARGE: usize = 1 << 20;
/// So many of them are measured at once.
pub(crate) const LARGE_ONES: u32 = 200;

/// Starts the other end on that processor.
pub(crate) fn opposite<R>(child: Process<R>, cpu: u32) -> Outcome<Child<R>>
where
    R: serde::de::DeserializeOwned + Send + 'static,
{
    let child = child.start()?;
    move_to(cpu, child.pid())?;
    Ok(child)
}

/// A bare SOCK_SEQPACKET pair, and nothing but `write` and `read`.
pub(crate) fn bare_pair() -> Outcome<(File, Handle<File>)> {
    let (here, there) = socket::pair()?;
    Ok((here.into(), Handle(there.into())))
}

/// Answers each number with the next one.
pub(crate) fn bare_add_one(socket: Handle<File>) {
    let (mut socket, mut bytes) = (socket.into_inner(), [0; 8]);
    while socket.read(&mut bytes).is_ok_and(|n| n == 8) {
        let answer = u64::from_ne_bytes(bytes) + 1;
        if socket.write(&answer.to_ne_bytes()).is_err() {
            return;
        }
    }
}

/// Pours as many numbers as it is told.
pub(crate) fn bare_pour(socket: Handle<File>) {
    let (mut socket, mut bytes) = (socket.into_inner(), [0; 8]);
    while socket.read(&mut bytes).is_ok_and(|n| n == 8) {
        if !(0..u64::from_ne_bytes(bytes)).all(|n| socket.write(&n.to_ne_bytes()).is_ok()) {
            return;
        }
    }
}

/// Reads large messages, and says so after each [`LARGE_ONES`].
pub(crate) fn bare_swallow(input: Handle<PipeReader>, output: Handle<PipeWriter>) {
    let (mut input, mut output) = (input.into_inner(), output.into_inner());
    loop {
        for _ in 0..LARGE_ONES {
            // As much room as a message's receiver has, and as new.
            let mut bytes = Vec::with_capacity(LARGE);
            if (&mut input).take(LARGE as u64).read_to_end(&mut bytes).is_err() || bytes.len() != LARGE {
                return;
            }
        }
        if output.write_all(&[1]).is_err() {
            return;
        }
    }
}
