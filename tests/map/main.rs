//! `procession map`, the real program: what it prints byte by byte, every exit code, signals, the log, and nobody left behind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what must not be is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod around;
mod bytes;
mod compare;
mod exits;
mod log;
mod modes;
mod next;
mod orphans;
mod scarce;
mod signals;
mod statuses;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// The tool with these words.
pub(crate) fn map(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_procession"));
    command.arg("map").args(["--progress", "none"]).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    support::fresh(&mut command);
    command
}

/// All that it says, given this on its standard input.
pub(crate) fn fed(mut command: Command, input: impl Into<Vec<u8>>) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.into());
    // It may end before it has read everything.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

/// The code as a shell would see it.
pub(crate) fn code(output: &Output) -> i32 {
    let status = output.status;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn numbers(count: u32) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

/// Waits until the tool has ended.
pub(crate) fn end(child: Child) -> Output {
    child.wait_with_output().unwrap()
}
