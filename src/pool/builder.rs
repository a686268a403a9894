//! A pool's settings.

use super::Pool;
use super::core::{Core, Template};
use super::state::Limits;
use crate::error::SpawnError;
use crate::process::BIRTH_LIMIT;
use crate::process::call::Call;
use crate::process::plan::Settings;
use procession_worker::task::Task;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsStr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Libraries that start threads of their own, and how to tell them how many.
const INNER_THREADS: [&str; 7] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
];

/// Settings of a [`Pool`] to be; every one has a default.
///
/// ```
/// use procession::Pool;
/// use std::time::Duration;
///
/// let pool = Pool::builder().workers(2).task_timeout(Duration::from_secs(30)).retries(1).build()?;
/// # Ok::<(), procession::SpawnError>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is started until it is built"]
pub struct PoolBuilder {
    workers: usize,
    name: Option<String>,
    settings: Settings,
    initializer: Option<Result<Call, SpawnError>>,
    max_tasks: Option<NonZeroU64>,
    task_timeout: Option<Duration>,
    retries: u32,
    chunk_size: Option<NonZeroU32>,
    birth_limit: Duration,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            workers: crate::cpu_count(),
            name: None,
            settings: Settings::default(),
            initializer: None,
            max_tasks: None,
            task_timeout: None,
            retries: 0,
            chunk_size: None,
            birth_limit: BIRTH_LIMIT,
        }
    }
}

impl PoolBuilder {
    /// How many workers; [`cpu_count`](crate::cpu_count) unless given.
    #[doc(alias = "processes")]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// What the workers' names begin with: `NAME-worker-1`. `Pool-N` unless given.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Called with `args` in each worker before its first task. If it panics, or its worker dies of it, again and again,
    /// the pool fails with [`SpawnError::Initializer`], which every task then gets.
    #[doc(alias = "initargs")]
    pub fn initializer<A, F>(mut self, f: F, args: A) -> Self
    where
        F: Task<A>,
        F::Output: Serialize,
        A: Serialize + DeserializeOwned + 'static,
    {
        self.initializer = Some(Call::new(f, &args));
        self
    }

    /// A worker is replaced after so many tasks (items of a map count one by one); never unless given.
    #[doc(alias = "maxtasksperchild")]
    pub fn max_tasks_per_worker(mut self, tasks: NonZeroU64) -> Self {
        self.max_tasks = Some(tasks);
        self
    }

    /// A task, or an item of a map, that runs longer is killed with its worker and with what it has started, and fails
    /// with [`TaskError::TimedOut`](crate::TaskError::TimedOut). The time counts from the start of that very item. No limit
    /// unless given.
    pub fn task_timeout(mut self, limit: Duration) -> Self {
        self.task_timeout = Some(limit);
        self
    }

    /// How often a task is run again after its worker died or its time ran out under it; 0 unless given. Without retries
    /// nothing ever runs twice. A panic is an answer, and is not retried.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// How many items of a map travel together. Unless given, as many as keep a worker busy for about 2 ms, by
    /// measurement, and fewer towards the end.
    #[doc(alias = "chunksize")]
    pub fn chunk_size(mut self, items: NonZeroU32) -> Self {
        self.chunk_size = Some(items);
        self
    }

    /// Sets an environment variable of the workers.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.settings.set_env(key.as_ref(), Some(value.as_ref()));
        self
    }

    /// Takes an environment variable from the workers.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.settings.set_env(key.as_ref(), None);
        self
    }

    /// Where the workers work.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.settings.current_dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Has the workers live below a [`Keeper`](crate::Keeper), one for all of this program that are to: then nothing
    /// that a worker starts survives it, nor this process, wherever it has gone (setsid, double fork), not even when this
    /// process is killed with SIGKILL. Without one that holds for the workers and their process groups. Off unless given.
    ///
    /// A worker runs in a session of its own, and its birth takes a message more. Should the keeper be killed, its workers die
    /// with it, their tasks are lost, and the next worker gets a new one.
    ///
    /// ```
    /// let pool = procession::Pool::builder().workers(2).keeper(true).build()?;
    /// assert_eq!(pool.map(|x: u32| x * x, 0..4)?, [0, 1, 4, 9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keeper(mut self, yes: bool) -> Self {
        self.settings.keep(yes);
        self
    }

    /// How long a worker may take from its start until it is ready, initializer included; 30 s unless given.
    pub fn birth_timeout(mut self, limit: Duration) -> Self {
        self.birth_limit = limit;
        self
    }

    /// Starts the workers. Returns when each of them exists as a process; they get ready by themselves.
    ///
    /// So that libraries with threads of their own do not start one for every processor in every worker, workers see
    /// `OMP_NUM_THREADS`, `OPENBLAS_NUM_THREADS`, `MKL_NUM_THREADS`, `BLIS_NUM_THREADS`, `VECLIB_MAXIMUM_THREADS`,
    /// `NUMEXPR_NUM_THREADS` and `RAYON_NUM_THREADS` as `max(1, cpu_count / workers)`, each unless it is set already.
    ///
    /// # Errors
    /// No workers were asked for, the initializer's arguments could not be encoded, or the system said no; no worker is
    /// left behind then.
    pub fn build(mut self) -> Result<Pool, SpawnError> {
        if self.workers == 0 {
            return Err(SpawnError::NoWorkers);
        }
        let share = (crate::cpu_count() / self.workers).max(1).to_string();
        for key in INNER_THREADS {
            self.settings.set_default_env(key, &share);
        }
        self.settings.prepare()?;
        static POOLS: AtomicU64 = AtomicU64::new(0);
        let number = POOLS.fetch_add(1, Ordering::Relaxed) + 1;
        let template = Template {
            name: self.name.unwrap_or_else(|| format!("Pool-{number}")),
            settings: self.settings,
            initializer: self.initializer.transpose()?,
            task_timeout: self.task_timeout,
            birth_limit: self.birth_limit,
        };
        let limits = Limits {
            workers: self.workers,
            max_tasks: self.max_tasks.map(NonZeroU64::get),
            chunk_size: self.chunk_size.map(NonZeroU32::get),
            retries: self.retries,
        };
        Ok(Pool { core: Core::start(template, limits)? })
    }
}
