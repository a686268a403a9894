//! Python's own `multiprocessing.Pool`.

use crate::peer::Peer;
use crate::support::Outcome;
use std::process::Command;

/// A warm pool of so many workers in Python; the error says why there is none.
pub(crate) fn python(workers: usize) -> Outcome<Peer> {
    Peer::start(Command::new("python3").args(["-c", include_str!("peer.py"), &workers.to_string()]))
}
