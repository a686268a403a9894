#![doc = include_str!("../README.md")]
#![cfg(target_os = "linux")]

mod cause;
mod cpu;
mod error;
mod exit;
mod keeper;
mod pool;
mod process;
mod program;
mod reactor;
mod supervisor;
mod sys;

pub use cause::{Cause, Loss, Oom};
pub use cpu::{CpuLimit, cpu_count, cpu_limit};
pub use error::{Codec, Half, Lost, Panic, SpawnError, TaskError, TimedOut};
pub use exit::Exit;
pub use keeper::{Ended, Keeper, KeeperBuilder, Running, Usage};
pub use pool::{AsyncResult, Pool, PoolBuilder, ThreadPool};
pub use process::{Child, ChildInfo, Process, Run, Stdio, active_children};
pub use procession_worker::current::{Current, Parent, current_process};
#[doc(hidden)]
pub use procession_worker::drill;
pub use procession_worker::{Bytes, Task, init};
pub use program::{Limit, Program, Stage};
