#![doc = include_str!("../README.md")]
#![cfg(target_os = "linux")]

mod actor;
mod cause;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod connection;
#[cfg(feature = "cli")]
mod control;
mod cpu;
mod error;
mod exit;
pub mod handle;
mod keeper;
pub mod map;
mod memory;
mod pool;
mod process;
mod program;
mod queue;
mod reactor;
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "some of it is for the tool alone"))]
mod supervise;
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "some of it is for the tool alone"))]
mod supervisor;
mod sync;
mod sys;

pub use actor::{Actor, ActorBuilder, Dict, List, Namespace};
pub use cause::{Cause, Loss, Oom};
pub use connection::{
    Client, ClientBuilder, ConnectError, Connection, Listener, ListenerBuilder, Peer, Receiver, RecvError,
    SendError, SendErrorKind, Sender, duplex, pipe, wait,
};
pub use cpu::{CpuLimit, cpu_count, cpu_limit};
pub use error::{Codec, Half, Lost, Panic, SpawnError, TaskError, TimedOut};
pub use exit::Exit;
pub use handle::Handle;
pub use keeper::{Ended, Keeper, KeeperBuilder, Running, Usage};
pub use memory::{Array, FreezeError, FrozenArray, OutOfBounds, SharedMemory, Value};
pub use pool::{AsyncResult, Pool, PoolBuilder, ThreadPool};
pub use process::{Child, ChildInfo, Process, Run, Stdio, active_children};
pub use procession_worker::current::{Current, Parent, current_process};
#[doc(hidden)]
pub use procession_worker::drill;
pub use procession_worker::{Bytes, Method, Plain, Task, init, plain};
pub use program::{Limit, Program, Stage};
pub use queue::{GetError, Iter, Lease, PutError, Queue, QueueBuilder};
pub use supervise::{
    Happening, HappeningKind, LogDir, Outcome, Place, PlaceStatus, SuperviseError, Supervisor,
    SupervisorBuilder,
};
pub use supervisor::{ExitSet, OnLimit, PlaceState, Restart, RestartLimit, Until};
pub use sync::{
    Abandoned, AcquireError, Barrier, BarrierError, BoundedSemaphore, Condition, Event, Guard, Lock, Passage,
    Permit, RLock, Semaphore, SyncError,
};
