//! The tool on a terminal: what is drawn, and the keys that stop it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what must not be is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod map;
mod pty;
mod run;

use std::time::Duration;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
