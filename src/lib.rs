#![doc = include_str!("../README.md")]
#![cfg(target_os = "linux")]

mod error;
mod process;
mod reactor;
mod sys;

pub use error::{Codec, Half, Lost, Panic, SpawnError, TaskError, TimedOut};
pub use process::{Child, ChildInfo, Exit, Process, Run, Stdio, active_children};
pub use procession_worker::current::{Current, Parent, current_process};
pub use procession_worker::{Task, init};
