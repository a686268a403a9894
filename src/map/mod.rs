//! Tasks fed to programs: what `procession map` does, for a Rust program.
//!
//! [`Map`] is the description, [`Map::run`] makes it happen: a process for each task (or long-lived ones that are asked
//! line by line), so many at once, results in the order of the tasks, and the exact cause of every failure. The picture is in
//! `src/map/README.md`.

mod engine;
mod halt;
mod hopper;
mod inbox;
#[cfg(feature = "cli")]
pub(crate) mod joblog;
pub(crate) mod json;
mod order;
mod outbox;
mod pace;
mod plan;
mod report;
mod retry;
mod rules;
mod seat;
mod spill;
mod state;
pub(crate) mod template;

pub use halt::{Halt, NoHalt};
pub use plan::{Map, Mode, Print};
pub use report::{Ending, MapError, News, Output, Piece, Remote, Report, Status, Summary, Worker};
pub use retry::RetryOn;

pub(crate) use plan::Plan;
