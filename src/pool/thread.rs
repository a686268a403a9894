//! The same methods over threads: what isolation costs can be seen by changing one word.

use super::AsyncResult;
use super::chunk::Pace;
use super::sink::{Sink, read_value};
use crate::error::{Panic, SpawnError, TaskError};
use crate::sys::wait;
use procession_worker::panic;
use procession_worker::task::Task;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many chunks of an `imap` may be on their way, for each thread.
const WINDOW: u64 = 4;

type Errand = Box<dyn FnOnce() + Send>;

/// A [`Pool`](crate::Pool) over threads of this process: the same methods, without the isolation. Nothing is encoded, so
/// a task costs less; a crash ends the program, and what runs cannot be killed.
///
/// Python's `multiprocessing.pool.ThreadPool`, also known as `multiprocessing.dummy.Pool`.
///
/// ```
/// use procession::ThreadPool;
///
/// let pool = ThreadPool::new(2)?;
/// assert_eq!(pool.map(|x: u64| x * x, 0..5)?, [0, 1, 4, 9, 16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Drop
/// As [`terminate`](Self::terminate). A thread in the middle of a task ends after it, and is not waited for.
#[derive(Debug)]
#[doc(alias = "dummy")]
pub struct ThreadPool {
    shared: Arc<Shared>,
    threads: usize,
}

#[derive(Default)]
struct Queue {
    errands: VecDeque<Errand>,
    closing: bool,
    alive: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Maps that run look here between two items.
    terminated: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn serve(&self) {
        panic::watch_this_thread();
        let mut queue = lock(&self.queue);
        loop {
            if let Some(errand) = queue.errands.pop_front() {
                drop(queue);
                // A result that nobody wants may panic when it is dropped; the thread goes on.
                let _ = panic::catch(errand);
                queue = lock(&self.queue);
            } else if queue.closing {
                queue.alive -= 1;
                self.changed.notify_all();
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn add(&self, errands: impl IntoIterator<Item = Errand>) -> Result<(), TaskError> {
        let mut queue = lock(&self.queue);
        if queue.closing {
            return Err(TaskError::Closed);
        }
        queue.errands.extend(errands);
        drop(queue);
        self.changed.notify_all();
        Ok(())
    }

    fn close(&self, terminate: bool) {
        let mut queue = lock(&self.queue);
        queue.closing = true;
        self.terminated.fetch_or(terminate, Ordering::Relaxed);
        let dropped = if terminate { std::mem::take(&mut queue.errands) } else { VecDeque::new() };
        drop(queue);
        // Outside the lock: dropping them tells their callers, who may ask again.
        drop(dropped);
        self.changed.notify_all();
    }
}

/// Tells the caller that nothing will come, should the errand be dropped instead of run.
struct Owed<R: Send + 'static> {
    sink: Arc<Sink>,
    result: Option<Result<R, TaskError>>,
}

impl<R: Send + 'static> Owed<R> {
    fn pay(mut self, result: Result<R, TaskError>) {
        self.result = Some(result);
    }
}

impl<R: Send + 'static> Drop for Owed<R> {
    fn drop(&mut self) {
        self.sink.put(self.result.take().unwrap_or(Err(TaskError::Closed)));
    }
}

fn attempt<A, F: Task<A>>(f: F, args: A) -> Result<F::Output, TaskError> {
    panic::catch(|| f.run(args)).map_err(|record| TaskError::Panicked(Panic::new(record)))
}

impl ThreadPool {
    /// A pool of so many threads.
    ///
    /// # Errors
    /// `threads` is 0, or the system said no (EAGAIN, ENOMEM); no thread is left behind then.
    pub fn new(threads: usize) -> Result<Self, SpawnError> {
        if threads == 0 {
            return Err(SpawnError::NoWorkers);
        }
        let pool = Self { shared: Arc::default(), threads };
        for number in 1..=threads {
            let shared = Arc::clone(&pool.shared);
            lock(&pool.shared.queue).alive += 1;
            let thread = std::thread::Builder::new().name(format!("ThreadPool-worker-{number}"));
            if let Err(error) = thread.spawn(move || shared.serve()) {
                lock(&pool.shared.queue).alive -= 1;
                return Err(SpawnError::system("starting a thread")(error));
            }
        }
        Ok(pool)
    }

    /// As [`Pool::apply`](crate::Pool::apply).
    ///
    /// # Errors
    /// The task panicked, or the pool is closed.
    pub fn apply<A, F>(&self, f: F, args: A) -> Result<F::Output, TaskError>
    where
        F: Task<A>,
        A: Serialize + DeserializeOwned + Send + 'static,
        F::Output: Serialize + DeserializeOwned + Send + 'static,
    {
        self.apply_async(f, args).get()
    }

    /// As [`Pool::apply_async`](crate::Pool::apply_async).
    pub fn apply_async<A, F>(&self, f: F, args: A) -> AsyncResult<F::Output>
    where
        F: Task<A>,
        A: Serialize + DeserializeOwned + Send + 'static,
        F::Output: Serialize + DeserializeOwned + Send + 'static,
    {
        let sink = Sink::new(None);
        let owed = Owed { sink: Arc::clone(&sink), result: None };
        let errand = move || {
            if owed.sink.start() {
                owed.pay(attempt(f, args));
            }
        };
        // A closed pool drops the errand, which tells the caller.
        let _ = self.shared.add([Box::new(errand) as Errand]);
        AsyncResult::new(sink, None, read_value)
    }

    /// As [`Pool::map`](crate::Pool::map).
    ///
    /// # Errors
    /// The error of the first item that has one, with its index; every item is run.
    pub fn map<T, R, F>(&self, f: F, items: impl IntoIterator<Item = T>) -> Result<Vec<R>, TaskError>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        self.map_async(f, items).get()
    }

    /// As [`Pool::map_async`](crate::Pool::map_async).
    pub fn map_async<T, R, F>(&self, f: F, items: impl IntoIterator<Item = T>) -> AsyncResult<Vec<R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        self.starmap_async(f, items.into_iter().map(|item| (item,)))
    }

    /// As [`Pool::starmap`](crate::Pool::starmap).
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn starmap<A, F>(&self, f: F, items: impl IntoIterator<Item = A>) -> Result<Vec<F::Output>, TaskError>
    where
        F: Task<A>,
        A: Serialize + DeserializeOwned + Send + 'static,
        F::Output: Serialize + DeserializeOwned + Send + 'static,
    {
        self.starmap_async(f, items).get()
    }

    /// As [`Pool::starmap_async`](crate::Pool::starmap_async).
    pub fn starmap_async<A, F>(&self, f: F, items: impl IntoIterator<Item = A>) -> AsyncResult<Vec<F::Output>>
    where
        F: Task<A>,
        A: Serialize + DeserializeOwned + Send + 'static,
        F::Output: Serialize + DeserializeOwned + Send + 'static,
    {
        let sink = Sink::new(None);
        let items: Vec<A> = items.into_iter().collect();
        let total = items.len();
        let share = Arc::new(Share {
            input: Mutex::new(Portions { items: items.into_iter(), next: 0, pace: Pace::default() }),
            output: Mutex::new(Vec::new()),
            owed: Mutex::new(Some(Owed { sink: Arc::clone(&sink), result: None })),
            pool: Arc::clone(&self.shared),
            threads: self.threads,
            total,
        });
        let errands = (0..self.threads.min(total.max(1))).map(|_| {
            let share = Arc::clone(&share);
            Box::new(move || share.work(f)) as Errand
        });
        let _ = self.shared.add(errands);
        AsyncResult::new(sink, None, read_value)
    }

    /// As [`Pool::imap`](crate::Pool::imap).
    pub fn imap<T, R, F, I>(
        &self,
        f: F,
        items: I,
    ) -> impl Iterator<Item = Result<R, TaskError>> + use<T, R, F, I>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = T>,
    {
        self.iterate(f, items.into_iter(), true)
    }

    /// As [`Pool::imap_unordered`](crate::Pool::imap_unordered).
    pub fn imap_unordered<T, R, F, I>(
        &self,
        f: F,
        items: I,
    ) -> impl Iterator<Item = Result<R, TaskError>> + use<T, R, F, I>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = T>,
    {
        self.iterate(f, items.into_iter(), false)
    }

    fn iterate<T, R, F, I>(&self, f: F, items: I, in_order: bool) -> Imap<I, F, R>
    where
        I: Iterator<Item = T>,
        T: Send + 'static,
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        R: Send + 'static,
    {
        let mut imap = Imap {
            shared: Arc::clone(&self.shared),
            f,
            items,
            in_order,
            threads: self.threads,
            submitted: 0,
            yielded: 0,
            ended: false,
            arrived: Arc::default(),
            current: Vec::new().into_iter(),
            closed: false,
        };
        imap.refill();
        imap
    }

    /// The process id of each thread's process, which is this one's.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        vec![std::process::id(); self.threads]
    }

    /// Takes no more tasks. What was submitted is still done; then the threads end.
    pub fn close(&self) {
        self.shared.close(false);
    }

    /// Ends the pool: what is queued fails with [`TaskError::Closed`]. What runs goes on, since a thread cannot be killed.
    pub fn terminate(&self) {
        self.shared.close(true);
    }

    /// Closes the pool, and waits until everything is done.
    pub fn join(self) {
        self.shared.close(false);
        self.wait_empty(None);
    }

    /// Closes the pool, and waits until everything is done, but no longer than `limit`; is it?
    pub fn join_timeout(&self, limit: Duration) -> bool {
        self.shared.close(false);
        self.wait_empty(Instant::now().checked_add(limit))
    }

    fn wait_empty(&self, deadline: Option<Instant>) -> bool {
        let mut queue = lock(&self.shared.queue);
        while queue.alive > 0 {
            let in_time;
            (queue, in_time) = wait::sleep(&self.shared.changed, queue, deadline);
            if !in_time {
                return false;
            }
        }
        true
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// The items of a map, handed out in chunks sized as a process pool's are.
struct Portions<A> {
    items: std::vec::IntoIter<A>,
    next: u64,
    pace: Pace,
}

/// Results of items next to each other, from the first on.
type Stretch<R> = (u64, Vec<Result<R, TaskError>>);

struct Share<A, R: Send + 'static> {
    input: Mutex<Portions<A>>,
    output: Mutex<Vec<Stretch<R>>>,
    owed: Mutex<Option<Owed<Vec<R>>>>,
    pool: Arc<Shared>,
    threads: usize,
    total: usize,
}

impl<A, R: Send + 'static> Share<A, R> {
    fn work<F: Task<A, Output = R>>(&self, f: F) {
        if lock(&self.owed).as_ref().is_some_and(|owed| !owed.sink.start()) {
            return;
        }
        loop {
            let mut input = lock(&self.input);
            let left = input.items.len() as u64;
            let size = input.pace.next(left, self.threads);
            let first = input.next;
            let chunk: Vec<A> = input.items.by_ref().take(size as usize).collect();
            input.next += chunk.len() as u64;
            drop(input);
            if chunk.is_empty() {
                return self.finish();
            }
            let (start, count) = (Instant::now(), u32::try_from(chunk.len()).unwrap_or(u32::MAX));
            let mut results = Vec::with_capacity(chunk.len());
            for args in chunk {
                if self.pool.terminated.load(Ordering::Relaxed) {
                    return;
                }
                results.push(attempt(f, args));
            }
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            lock(&self.input).pace.learn(count, nanos);
            lock(&self.output).push((first, results));
        }
    }

    /// The last one to come here puts the results together.
    fn finish(&self) {
        let mut output = lock(&self.output);
        if output.iter().map(|(_, results)| results.len()).sum::<usize>() < self.total {
            return;
        }
        let mut all = std::mem::take(&mut *output);
        drop(output);
        let Some(owed) = lock(&self.owed).take() else { return };
        all.sort_unstable_by_key(|&(first, _)| first);
        let results = all.into_iter().flat_map(|(_, results)| results).zip(0..);
        owed.pay(results.map(|(result, item)| result.map_err(|error| error.at(item))).collect());
    }
}

/// Results by their first item, and a bell.
struct Arrived<R> {
    results: Mutex<BTreeMap<u64, Vec<Result<R, TaskError>>>>,
    pace: Mutex<Pace>,
    changed: Condvar,
    /// Nobody waits any more.
    dropped: AtomicBool,
}

impl<R> Default for Arrived<R> {
    fn default() -> Self {
        Self {
            results: Mutex::default(),
            pace: Mutex::default(),
            changed: Condvar::new(),
            dropped: AtomicBool::new(false),
        }
    }
}

/// A chunk's place in [`Arrived`], filled even if its errand is dropped.
struct Place<R> {
    arrived: Arc<Arrived<R>>,
    first: u64,
    count: usize,
    results: Vec<Result<R, TaskError>>,
}

impl<R> Place<R> {
    fn work<T, F: Fn(T) -> R + Copy + Send + Sync + 'static>(mut self, f: F, items: Vec<T>) {
        let start = Instant::now();
        for (item, index) in items.into_iter().zip(self.first..) {
            if self.arrived.dropped.load(Ordering::Relaxed) {
                return;
            }
            self.results.push(attempt(f, (item,)).map_err(|error| error.at(index)));
        }
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        lock(&self.arrived.pace).learn(u32::try_from(self.count).unwrap_or(u32::MAX), nanos);
    }
}

impl<R> Drop for Place<R> {
    fn drop(&mut self) {
        let mut results = std::mem::take(&mut self.results);
        results.resize_with(self.count, || Err(TaskError::Closed));
        lock(&self.arrived.results).insert(self.first, results);
        self.arrived.changed.notify_all();
    }
}

struct Imap<I, F, R> {
    shared: Arc<Shared>,
    f: F,
    items: I,
    in_order: bool,
    threads: usize,
    submitted: u64,
    yielded: u64,
    ended: bool,
    arrived: Arc<Arrived<R>>,
    current: std::vec::IntoIter<Result<R, TaskError>>,
    /// The pool takes no more; told once, in its turn.
    closed: bool,
}

impl<I, T, F, R> Imap<I, F, R>
where
    I: Iterator<Item = T>,
    T: Send + 'static,
    F: Fn(T) -> R + Copy + Send + Sync + 'static,
    R: Send + 'static,
{
    /// Takes as much input as keeps the threads busy.
    fn refill(&mut self) {
        let size = lock(&self.arrived.pace).next(u64::MAX, 1);
        let window = WINDOW * self.threads as u64 * u64::from(size);
        while !self.ended && self.submitted - self.yielded < window {
            if lock(&self.shared.queue).closing {
                (self.ended, self.closed) = (true, true);
                return;
            }
            let items: Vec<T> = self.items.by_ref().take(size as usize).collect();
            self.ended = items.len() < size as usize;
            if items.is_empty() {
                return;
            }
            let (arrived, count) = (Arc::clone(&self.arrived), items.len());
            let place = Place { arrived, first: self.submitted, count, results: Vec::with_capacity(count) };
            self.submitted += count as u64;
            let f = self.f;
            let _ = self.shared.add([Box::new(move || place.work(f, items)) as Errand]);
        }
    }
}

impl<I, T, F, R> Iterator for Imap<I, F, R>
where
    I: Iterator<Item = T>,
    T: Send + 'static,
    F: Fn(T) -> R + Copy + Send + Sync + 'static,
    R: Send + 'static,
{
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(result) = self.current.next() {
                self.yielded += 1;
                return Some(result);
            }
            self.refill();
            if self.yielded == self.submitted {
                return std::mem::take(&mut self.closed).then_some(Err(TaskError::Closed));
            }
            let mut results = lock(&self.arrived.results);
            self.current = loop {
                let next =
                    results.first_entry().filter(|entry| !self.in_order || *entry.key() == self.yielded);
                match next {
                    Some(entry) => break entry.remove().into_iter(),
                    None => {
                        results = self.arrived.changed.wait(results).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
        }
    }
}

impl<I, F, R> Drop for Imap<I, F, R> {
    fn drop(&mut self) {
        self.arrived.dropped.store(true, Ordering::Relaxed);
    }
}
