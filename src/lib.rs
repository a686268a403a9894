#![doc = include_str!("../README.md")]
#![cfg(target_os = "linux")]

mod cpu;
mod error;
mod exit;
mod pool;
mod process;
mod reactor;
mod supervisor;
mod sync;
mod sys;

pub use cpu::{CpuLimit, cpu_count, cpu_limit};
pub use error::{Codec, Half, Lost, Panic, SpawnError, TaskError, TimedOut};
pub use exit::Exit;
pub use pool::{AsyncResult, Pool, PoolBuilder, ThreadPool};
pub use process::{Child, ChildInfo, Process, Run, Stdio, active_children};
pub use procession_worker::current::{Current, Parent, current_process};
#[doc(hidden)]
pub use procession_worker::drill;
pub use procession_worker::{Bytes, Task, init};
pub use sync::{
    Abandoned, AcquireError, Barrier, BarrierError, BoundedSemaphore, Condition, Event, Guard, Lock, Passage,
    Permit, RLock, Semaphore, SyncError,
};
