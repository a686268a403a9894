//! The keeper: what a program is born with and how it fails to be, its limits, its end with everything it has started, and
//! the deaths of owner and keeper.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what must not be is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod birth;
mod deaths;
mod ends;
mod limits;
mod trees;
mod workers;

use procession::{Keeper, Program, Running, Stdio};
use std::io::Read;
use std::time::Duration;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A shell that runs a script.
pub(crate) fn shell(script: &str) -> Program {
    Program::new("sh").args(["-c", script])
}

/// Everything that a program prints.
pub(crate) fn said(keeper: &Keeper, program: Program) -> String {
    let mut running = keeper.start(program.stdout(Stdio::Piped)).unwrap();
    let text = read(&mut running);
    let ended = running.wait().unwrap();
    assert!(ended.cause().is_ok(), "{ended:?} {text}");
    text
}

/// What it prints from now on.
pub(crate) fn read(running: &mut Running) -> String {
    let mut text = String::new();
    running.take_stdout().unwrap().read_to_string(&mut text).unwrap();
    text
}
