//! What a child process of [procession](https://docs.rs/procession) runs, and the contract that both sides share.
//!
//! Users see the crate `procession`, which re-exports what is theirs from here. One question places every file of the
//! project: *which process may run this line?* Either side, or the child: this crate. Only the parent: `procession`.
//!
//! ```text
//! exec of the same program ─► entry ─► serve ──► task ─► chunk ──────────────► outlet ─► pipe
//!                             claims    one call   claim · decode · run ·     ring, then
//!                             its fds   at a time  answer, item by item       pipe in batches
//! ```
#![cfg(target_os = "linux")]

mod bytes;
pub mod chunk;
pub mod current;
#[doc(hidden)]
pub mod drill;
pub mod entry;
pub mod host;
pub mod ipc;
pub mod keeper;
pub mod method;
pub mod outlet;
pub mod panic;
pub mod serve;
pub mod sys;
pub mod task;
pub mod wire;

pub use bytes::Bytes;
pub use entry::init;
pub use method::Method;
pub use sys::plain::Plain;
pub use task::Task;
