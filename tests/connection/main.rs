//! Pipes, connections, named doors, and descriptors as values: what they promise, and what no peer can do to them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what must not be is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod door;
mod family;
mod hostile;
mod killed;
mod semantics;
mod shared;
mod travel;

use std::time::Duration;

/// More than any of these takes, on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(120);
/// So long one waits for what must not come.
const MOMENT: Duration = Duration::from_millis(30);

/// Bytes that tell where they belong.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(31) ^ seed.wrapping_mul(131) ^ (n >> 8)) as u8).collect()
}
