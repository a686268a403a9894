//! Many tasks over many children.

mod async_result;
mod builder;
mod callback;
mod chunk;
mod core;
mod hearing;
mod imap;
mod job;
mod lead;
mod seat;
mod sink;
mod state;
mod thread;

pub use async_result::AsyncResult;
pub use builder::PoolBuilder;
pub use thread::ThreadPool;

use crate::error::{SpawnError, TaskError};
use core::Core;
use imap::Imap;
use job::{HELD, Input};
use procession_worker::task::{Task, Token};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sink::{Gathering, Sink, read_all, read_one};
use state::JobId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A map's caller is woken when so many results have come together.
const DECODED_TOGETHER: u64 = 50_000;

/// How long `Drop` waits for killed workers; only a process stuck in the kernel takes longer.
const BURIAL: Duration = Duration::from_secs(5);

/// A fixed number of worker processes that run whatever tasks they are given.
///
/// A task that crashes costs itself and nothing else: its caller gets [`TaskError::Lost`] with the cause, its worker is
/// replaced, every other task is answered, and nothing runs twice. Several threads may use one pool, and tasks may have
/// pools of their own.
///
/// ```
/// use procession::Pool;
///
/// fn square(x: u64) -> u64 { x * x }
///
/// let pool = Pool::new(2)?;
/// assert_eq!(pool.map(square, 0..5)?, [0, 1, 4, 9, 16]);
/// assert_eq!(pool.apply(|a: i32, b: i32| a - b, (5, 3))?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A closure that captures something does not compile; pass what it needs as an argument:
///
/// ```compile_fail
/// let pool = procession::Pool::new(2).unwrap();
/// let factor = 3;
/// pool.map(move |x: u64| x * factor, 0..5).unwrap();
/// ```
///
/// # Drop
/// As [`terminate`](Self::terminate), and waits until all workers are reaped: at most 5 s, in case one is stuck in the
/// kernel. Nothing is left behind by a pool that was never closed or joined.
#[derive(Debug)]
#[must_use = "dropped, its workers are ended"]
pub struct Pool {
    core: Arc<Core>,
}

impl Pool {
    /// A pool of so many workers, with the defaults of [`PoolBuilder`].
    ///
    /// # Errors
    /// `workers` is 0, or the system said no (EMFILE, EAGAIN, ENOMEM); no worker is left behind then.
    pub fn new(workers: usize) -> Result<Self, SpawnError> {
        Self::builder().workers(workers).build()
    }

    /// Settings first.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// Calls `f` with `args`, a tuple, in a worker, and waits for the result.
    ///
    /// # Errors
    /// What became of the task instead.
    pub fn apply<A, F>(&self, f: F, args: A) -> Result<F::Output, TaskError>
    where
        F: Task<A>,
        A: Serialize + DeserializeOwned + 'static,
        F::Output: Serialize + DeserializeOwned,
    {
        let token = token(f)?;
        let sink = Sink::new(Some(1));
        self.core.single(token, Input::one(&args)?, &sink, true)?;
        read_one(&mut sink.tally())
    }

    /// Calls `f` with `args`, a tuple, in a worker, some time. Does not wait: any number of tasks may be queued, each
    /// weighs its encoded arguments and a few hundred bytes.
    ///
    /// What goes wrong at once (arguments that cannot be encoded, a closed pool) is told by the result, too.
    pub fn apply_async<A, F>(&self, f: F, args: A) -> AsyncResult<F::Output>
    where
        F: Task<A>,
        A: Serialize + DeserializeOwned + 'static,
        F::Output: Serialize + DeserializeOwned,
    {
        let sink = Sink::new(Some(1));
        let job = token(f).and_then(|token| self.core.single(token, Input::one(&args)?, &sink, false));
        match job {
            Ok(job) => AsyncResult::new(sink, Some((&self.core, job)), read_one),
            Err(error) => AsyncResult::failed(error, read_one),
        }
    }

    /// Calls `f` with each item, in the workers, and waits for all results, which come in the order of the items.
    ///
    /// The items are taken as they can be encoded; each result is held until the end.
    ///
    /// # Errors
    /// As in Python every item is run, and then the error of the first one that has one is returned, with its index. To
    /// go on after an error, use [`imap`](Self::imap).
    pub fn map<T, R, F>(&self, f: F, items: impl IntoIterator<Item = T>) -> Result<Vec<R>, TaskError>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned,
    {
        self.collect(token::<(T,), F>(f)?, items)
    }

    /// [`map`](Self::map) without waiting. The items are all encoded before this returns.
    pub fn map_async<T, R, F>(&self, f: F, items: impl IntoIterator<Item = T>) -> AsyncResult<Vec<R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned,
    {
        self.collect_async(token::<(T,), F>(f), items)
    }

    /// [`map`](Self::map) for a function of several arguments: the items are tuples of them.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn starmap<A, F>(&self, f: F, items: impl IntoIterator<Item = A>) -> Result<Vec<F::Output>, TaskError>
    where
        F: Task<A>,
        A: Serialize + DeserializeOwned + 'static,
        F::Output: Serialize + DeserializeOwned,
    {
        self.collect(token(f)?, items)
    }

    /// [`starmap`](Self::starmap) without waiting.
    pub fn starmap_async<A, F>(&self, f: F, items: impl IntoIterator<Item = A>) -> AsyncResult<Vec<F::Output>>
    where
        F: Task<A>,
        A: Serialize + DeserializeOwned + 'static,
        F::Output: Serialize + DeserializeOwned,
    {
        self.collect_async(token(f), items)
    }

    /// A map whose results are taken one by one, in the order of the items, while the rest is being worked on.
    ///
    /// Input is taken only as fast as results are, by a window that grows with the speed of the items, so it may be
    /// endless. An item's error is told in its place, and the iteration goes on.
    ///
    /// # Drop
    /// Of the iterator: what is queued never runs, and who runs one of its items is killed and replaced.
    ///
    /// ```
    /// let pool = procession::Pool::new(2)?;
    /// let halves = pool.imap(|x: u32| { assert!(x % 2 == 0, "{x} is odd"); x / 2 }, 0..);
    /// let (good, bad): (Vec<_>, Vec<_>) = halves.take(10).partition(Result::is_ok);
    /// assert_eq!((good.len(), bad.len()), (5, 5));
    /// # Ok::<(), procession::SpawnError>(())
    /// ```
    pub fn imap<T, R, F, I>(
        &self,
        f: F,
        items: I,
    ) -> impl Iterator<Item = Result<R, TaskError>> + use<T, R, F, I>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        Imap::new(Arc::clone(&self.core), token::<(T,), F>(f), items.into_iter(), true)
    }

    /// [`imap`](Self::imap) with results as they come.
    pub fn imap_unordered<T, R, F, I>(
        &self,
        f: F,
        items: I,
    ) -> impl Iterator<Item = Result<R, TaskError>> + use<T, R, F, I>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        Imap::new(Arc::clone(&self.core), token::<(T,), F>(f), items.into_iter(), false)
    }

    /// The process ids of the workers that live now.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        self.core.pids()
    }

    /// Takes no more tasks. What was submitted is still done; then the workers go.
    pub fn close(&self) {
        self.core.close();
    }

    /// Ends the pool now: workers are killed with what they have started, and what is not done fails with
    /// [`TaskError::Closed`].
    pub fn terminate(&self) {
        self.core.terminate();
    }

    /// Closes the pool, and waits until everything is done and all workers are gone.
    pub fn join(self) {
        self.core.close();
        self.core.wait_empty(None);
    }

    /// Closes the pool, and waits until everything is done and all workers are gone, but no longer than `limit`; are they?
    /// What is not done goes on.
    pub fn join_timeout(&self, limit: Duration) -> bool {
        self.core.close();
        self.core.wait_empty(Instant::now().checked_add(limit))
    }

    fn collect<T, R>(&self, token: Token, items: impl IntoIterator<Item = T>) -> Result<Vec<R>, TaskError>
    where
        T: Serialize,
        R: DeserializeOwned,
    {
        let sink = Sink::new(None);
        let job = self.core.open(token, &sink)?;
        let mut results = Gathering::new();
        let fed = self.feed(job, items, |held| {
            // The workers are behind; memory is not the place to wait in.
            if held >= HELD {
                let resolved = sink.tally().resolved();
                // Still so much, after that look: so something is yet to come.
                if self.core.held(job) >= HELD {
                    results.take(sink.wait_beyond(resolved));
                }
            }
        });
        match fed {
            Ok(total) => sink.set_total(total),
            Err(error) => {
                self.core.cancel(job);
                return Err(error);
            }
        }
        loop {
            // Decoded in portions while the workers go on.
            let resolved = sink.tally().resolved();
            let tally = sink.wait_beyond(resolved + DECODED_TOGETHER);
            let done = tally.is_done();
            results.take(tally);
            if done {
                return results.finish();
            }
        }
    }

    fn collect_async<T, R>(
        &self,
        token: Result<Token, TaskError>,
        items: impl IntoIterator<Item = T>,
    ) -> AsyncResult<Vec<R>>
    where
        T: Serialize,
        R: DeserializeOwned,
    {
        let sink = Sink::new(None);
        let job = match token.and_then(|token| self.core.open(token, &sink)) {
            Ok(job) => job,
            Err(error) => return AsyncResult::failed(error, read_all),
        };
        match self.feed(job, items, |_| {}) {
            Ok(total) => sink.set_total(total),
            Err(error) => {
                self.core.cancel(job);
                return AsyncResult::failed(error, read_all);
            }
        }
        AsyncResult::new(sink, Some((&self.core, job)), read_all)
    }

    /// Encodes and hands over all items; how many they are.
    fn feed<T: Serialize>(
        &self,
        job: JobId,
        items: impl IntoIterator<Item = T>,
        mut fed: impl FnMut(usize),
    ) -> Result<u64, TaskError> {
        let mut input = Input::default();
        for item in items {
            input.push(&item).map_err(|error| error.at(input.position()))?;
            if input.is_full() {
                fed(self.core.feed(job, input.take()));
            }
        }
        if input.len() > 0 {
            self.core.feed(job, input.take());
        }
        self.core.seal(job);
        Ok(input.position())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.core.terminate();
        let here = crate::reactor::reactor().is_ok_and(crate::reactor::Reactor::is_here);
        if !here {
            self.core.wait_empty(Instant::now().checked_add(BURIAL));
        }
    }
}

fn token<A, F>(f: F) -> Result<Token, TaskError>
where
    F: Task<A>,
    F::Output: Serialize,
    A: DeserializeOwned + 'static,
{
    Token::of(f).map_err(|error| TaskError::Spawn(error.into()))
}
