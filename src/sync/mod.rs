//! Locks and their kin: shared by processes, and by the threads of one; see README.md.

mod barrier;
mod bed;
mod condition;
mod error;
mod event;
mod lock;
mod monitor;
mod notices;
mod object;
mod peer;
mod permits;
mod semaphore;
mod table;
mod turns;
mod ward;

#[cfg(test)]
mod tests;

pub use barrier::{Barrier, Passage};
pub use condition::Condition;
pub use error::{Abandoned, AcquireError, BarrierError, SyncError};
pub use event::Event;
pub use lock::{Guard, Lock, RLock};
pub use semaphore::{BoundedSemaphore, Permit, Semaphore};
