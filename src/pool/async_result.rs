//! The promise of a result.

use super::core::Core;
use super::sink::{Sink, Tally};
use super::state::JobId;
use crate::error::TaskError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// What a running or waiting task will come to: of one task, or of a whole map.
///
/// It is also a [`Future`], which any executor can await; the pool needs no runtime for it.
///
/// # Drop
/// The task goes on, and its result is thrown away. [`cancel`](Self::cancel) is what stops it.
///
/// ```
/// use procession::Pool;
/// use std::time::Duration;
///
/// let pool = Pool::new(1)?;
/// let mut slow = pool.apply_async(|| std::thread::sleep(Duration::from_secs(60)), ());
/// assert!(slow.get_timeout(Duration::from_millis(10))?.is_none(), "not yet, and it goes on");
/// assert!(slow.cancel(), "its worker is replaced");
/// assert_eq!(pool.apply(|| 1 + 1, ())?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "an AsyncResult that is dropped lets its task run, but nobody learns what came of it"]
pub struct AsyncResult<R> {
    sink: Arc<Sink>,
    job: Option<(Weak<Core>, JobId)>,
    /// The one place that knows how the bytes become an `R`.
    read: fn(&mut Tally) -> Result<R, TaskError>,
}

impl<R> fmt::Debug for AsyncResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult").field("ready", &self.ready()).finish_non_exhaustive()
    }
}

impl<R> AsyncResult<R> {
    pub(crate) fn new(
        sink: Arc<Sink>,
        job: Option<(&Arc<Core>, JobId)>,
        read: fn(&mut Tally) -> Result<R, TaskError>,
    ) -> Self {
        Self { sink, job: job.map(|(core, job)| (Arc::downgrade(core), job)), read }
    }

    /// One that has failed already.
    pub(crate) fn failed(error: TaskError, read: fn(&mut Tally) -> Result<R, TaskError>) -> Self {
        let sink = Sink::new(Some(1));
        sink.fail(0..1, error).tell();
        Self { sink, job: None, read }
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// What became of the task instead.
    pub fn get(self) -> Result<R, TaskError> {
        (self.read)(&mut self.sink.wait_done(None))
    }

    /// Waits for the result, but no longer than `limit`: `None`, and the task goes on; ask again.
    ///
    /// The result is given once; after that it is [`TaskError::Taken`].
    ///
    /// # Errors
    /// What became of the task instead.
    #[doc(alias = "TimeoutError")]
    pub fn get_timeout(&mut self, limit: Duration) -> Result<Option<R>, TaskError> {
        let mut tally = self.sink.wait_done(Instant::now().checked_add(limit));
        if tally.is_done() { (self.read)(&mut tally).map(Some) } else { Ok(None) }
    }

    /// Waits until there is a result, good or bad, but no longer than `limit`; is there one?
    #[doc(alias = "wait")]
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        self.sink.wait_done(Instant::now().checked_add(limit)).is_done()
    }

    /// Is there a result, good or bad?
    #[must_use]
    pub fn ready(&self) -> bool {
        self.sink.tally().is_done()
    }

    /// Stops the task. One that waits never runs; one that runs is killed with its worker, which is replaced. Other tasks
    /// of that worker are not harmed. The result is then [`TaskError::Cancelled`].
    ///
    /// False if there was a result already, or (in a [`ThreadPool`](crate::ThreadPool), where nothing that runs can be
    /// killed) if it had been started.
    pub fn cancel(&self) -> bool {
        let first = self.sink.cancel();
        if let Some((core, job)) = self.job.as_ref().filter(|_| first)
            && let Some(core) = core.upgrade()
        {
            core.cancel(*job);
        }
        first
    }

    /// Calls `f` with the result as soon as there is one, on a thread of its own for all callbacks. A slow callback
    /// delays only other callbacks, and a panic in one is reported by the program's panic hook and ends nothing.
    ///
    /// Python's `callback` and `error_callback` in one.
    #[doc(alias("error_callback", "add_done_callback"))]
    pub fn callback(self, f: impl FnOnce(Result<R, TaskError>) + Send + 'static)
    where
        R: 'static,
    {
        let Self { sink, read, .. } = self;
        let own = Arc::clone(&sink);
        sink.when_done(move || {
            let result = read(&mut own.tally());
            f(result);
        });
    }
}

impl<R> Future for AsyncResult<R> {
    type Output = Result<R, TaskError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.sink.poll_done(context.waker()) {
            Poll::Ready((self.read)(&mut self.sink.tally()))
        } else {
            Poll::Pending
        }
    }
}
