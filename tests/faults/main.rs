//! The robustness tests: every way to misbehave, at every moment of a worker's life; what a death costs, counted; and
//! what the parent's own death leaves behind. `tests/README.md` has the table.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what must not be is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod once;
mod orphans;
mod pool;
mod process;
mod table;
