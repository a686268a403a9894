//! `procession run` as an operator has it: the real binary, its exit codes, signals, output, socket and deaths.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what must not be is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod control;
mod deaths;
mod ends;
mod hostile;
mod options;
mod output;
mod ready;
mod signals;
mod tool;

use std::time::Duration;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
