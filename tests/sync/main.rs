//! Locks and their kin: Python's semantics, and what is left when holders, waiters, notifiers and parties are killed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what must not be is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod barriers;
mod conditions;
mod events;
mod hostile;
mod left;
mod locks;
mod parts;
mod semaphores;
mod torture;
