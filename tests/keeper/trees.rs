//! Families that are hard to get rid of.

use crate::support::{is_gone, poll_or};
use procession::{Program, Running, Stdio};
use std::io::{BufRead, BufReader};
use std::time::Duration;

/// A grandchild in a session of its own, forked twice, deaf to all that can be ignored. It prints its number.
pub(crate) const DAEMON: &str = "(setsid sh -c 'trap \"\" TERM INT HUP QUIT; echo $$; exec sleep 1000' &)";

/// A program that starts so many daemons, and then does something.
pub(crate) fn family(daemons: usize, then: &str) -> Program {
    let script = [vec![DAEMON; daemons].join("\n"), then.to_owned()].join("\n");
    crate::shell(&script).stdout(Stdio::Piped)
}

/// The numbers that a family's daemons print, and what is left to read.
pub(crate) fn daemons(running: &mut Running, count: usize) -> (Vec<u32>, impl BufRead + use<>) {
    let mut lines = BufReader::new(running.take_stdout().unwrap());
    let pids = (0..count).map(|_| {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        line.trim().parse().unwrap_or_else(|_| panic!("no number: {line:?}"))
    });
    (pids.collect(), lines)
}

/// The children of a process, by what the kernel says.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

#[track_caller]
pub(crate) fn all_gone(pids: &[u32], limit: Duration) {
    poll_or("all gone", limit, || {
        let left: Vec<_> = pids.iter().filter(|&&pid| !is_gone(pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} live")) }
    });
}

/// All are gone already.
#[track_caller]
pub(crate) fn none_left(pids: &[u32]) {
    let left: Vec<_> = pids.iter().filter(|&&pid| !is_gone(pid)).collect();
    assert!(left.is_empty(), "{left:?} live");
}
