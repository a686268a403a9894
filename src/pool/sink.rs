//! Where the outcomes of one job arrive, and where its caller waits. Bytes only: they are decoded where their type is
//! known.

use crate::error::{Codec, Half, Panic, TaskError};
use crate::sys::wait;
use procession_worker::ipc::handoff::{self, Incoming};
use procession_worker::wire::codec;
use procession_worker::wire::frame::{Frame, MAX_PAYLOAD, split};
use procession_worker::wire::message::{PanicRecord, Up, unsealed};
use serde::de::DeserializeOwned;
use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

/// Outcomes of items next to each other: whole frames, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) bytes: Vec<u8>,
    /// What came with the only one of them.
    pub(crate) came: Option<Box<Incoming>>,
}

/// What has arrived so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) batches: Vec<Batch>,
    pub(crate) errors: Vec<(Range<u64>, TaskError)>,
    /// A thread pool's results have never been bytes.
    pub(crate) value: Option<Box<dyn Any + Send>>,
    resolved: u64,
    total: Option<u64>,
    cancelled: bool,
    taken: bool,
    /// A thread has begun, and a thread cannot be stopped.
    started: bool,
    waiters: usize,
    /// The least that any of them wants to be resolved before it is woken.
    wanted: u64,
    waker: Option<Waker>,
    then: Option<Box<dyn FnOnce() + Send>>,
}

impl Tally {
    pub(crate) fn is_done(&self) -> bool {
        self.cancelled || self.total == Some(self.resolved)
    }

    pub(crate) fn resolved(&self) -> u64 {
        self.resolved
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled
    }
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tally")
            .field("resolved", &self.resolved)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

/// Who has to be told that everything has arrived: user code, so never under a lock.
#[derive(Default)]
#[must_use]
pub(crate) struct Tell {
    waker: Option<Waker>,
    then: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Tell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tell").finish_non_exhaustive()
    }
}

impl Tell {
    pub(crate) fn tell(self) {
        if let Some(waker) = self.waker {
            waker.wake();
        }
        if let Some(then) = self.then {
            super::callback::run(then);
        }
    }
}

/// The sink; see the module.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    tally: Mutex<Tally>,
    changed: Condvar,
}

impl Sink {
    /// For `total` items, if that is known already.
    pub(crate) fn new(total: Option<u64>) -> Arc<Self> {
        let sink = Self::default();
        sink.tally().total = total;
        Arc::new(sink)
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Outcomes have arrived. Who is to be told of it is told by the caller, without locks of its own.
    pub(crate) fn deliver(&self, batch: Batch) -> Tell {
        self.change(|tally| {
            tally.resolved += batch.count;
            tally.batches.push(batch);
        })
    }

    /// Items will have no outcome. Who is to be told of it is told by the caller, without locks of its own.
    pub(crate) fn fail(&self, items: Range<u64>, error: TaskError) -> Tell {
        self.change(|tally| {
            tally.resolved += items.end - items.start;
            tally.errors.push((items, error));
        })
    }

    /// A thread pool's result, of the type that [`read_value`] will ask for.
    pub(crate) fn put<R: Send + 'static>(&self, result: Result<R, TaskError>) {
        self.change(|tally| {
            tally.value = Some(Box::new(result));
            tally.total = Some(tally.resolved);
        })
        .tell();
    }

    /// So many items it is, in all.
    pub(crate) fn set_total(&self, total: u64) {
        self.change(|tally| tally.total = Some(total)).tell();
    }

    /// The caller gives up; true if there was still something to give up.
    pub(crate) fn cancel(&self) -> bool {
        let mut first = false;
        self.change(|tally| {
            first = !tally.is_done() && !tally.started;
            tally.cancelled |= first;
        })
        .tell();
        first
    }

    /// A thread begins; false if the caller has given up.
    pub(crate) fn start(&self) -> bool {
        let mut tally = self.tally();
        tally.started = !tally.is_done();
        tally.started
    }

    fn change(&self, change: impl FnOnce(&mut Tally)) -> Tell {
        let mut tally = self.tally();
        let before = tally.is_done();
        change(&mut tally);
        let done = tally.is_done() && !before;
        let notify = tally.waiters > 0 && (done || tally.resolved >= tally.wanted);
        let waker = if done { tally.waker.take() } else { None };
        let then = if done { tally.then.take() } else { None };
        drop(tally);
        if notify {
            self.changed.notify_all();
        }
        Tell { waker, then }
    }

    /// Waits until everything has arrived, `wanted` items have, or the deadline.
    fn wait(&self, wanted: u64, deadline: Option<Instant>) -> MutexGuard<'_, Tally> {
        let mut tally = self.tally();
        while !tally.is_done() && tally.resolved < wanted {
            tally.wanted = if tally.waiters == 0 { wanted } else { tally.wanted.min(wanted) };
            tally.waiters += 1;
            let in_time;
            (tally, in_time) = wait::sleep(&self.changed, tally, deadline);
            tally.waiters -= 1;
            if !in_time {
                break;
            }
        }
        tally
    }

    /// Waits until everything has arrived, or the deadline.
    pub(crate) fn wait_done(&self, deadline: Option<Instant>) -> MutexGuard<'_, Tally> {
        self.wait(u64::MAX, deadline)
    }

    /// Waits until more than `resolved` items are resolved, or all.
    pub(crate) fn wait_beyond(&self, resolved: u64) -> MutexGuard<'_, Tally> {
        self.wait(resolved + 1, None)
    }

    /// Has everything arrived? If not, `waker` will be told.
    pub(crate) fn poll_done(&self, waker: &Waker) -> bool {
        // A waker is user code: neither its clone nor its drop happens under the lock.
        let mut fresh = Some(waker.clone());
        let mut tally = self.tally();
        let done = tally.is_done();
        if !done {
            std::mem::swap(&mut tally.waker, &mut fresh);
        }
        drop(tally);
        done
    }

    /// Runs `then` when everything has arrived, on the thread for callbacks.
    pub(crate) fn when_done(&self, then: impl FnOnce() + Send + 'static) {
        let mut tally = self.tally();
        if tally.is_done() {
            drop(tally);
            super::callback::run(Box::new(then));
        } else {
            tally.then = Some(Box::new(then));
        }
    }
}

/// A frame as what it means for its caller.
#[inline]
pub(crate) fn outcome<R: DeserializeOwned>(
    frame: Frame<'_>,
    came: Option<Box<Incoming>>,
) -> Result<R, TaskError> {
    let payload = unsealed(frame.payload);
    match Up::from_kind(frame.kind) {
        Some(Up::Value) => match came {
            None => codec::decode(payload),
            Some(came) => handoff::unpack(*came, || codec::decode(payload)),
        }
        .map_err(|error| TaskError::Decode(Codec::new(Half::Result, error))),
        kind => Err(fault(kind, payload)),
    }
}

#[cold]
pub(crate) fn fault(kind: Option<Up>, payload: &[u8]) -> TaskError {
    let text = || String::from_utf8_lossy(payload).into_owned();
    match kind {
        Some(Up::Panicked) => {
            TaskError::Panicked(Panic::new(codec::decode(payload).unwrap_or_else(|error| PanicRecord {
                message: error.to_string(),
                ..PanicRecord::default()
            })))
        }
        Some(Up::Undecodable) => TaskError::Decode(Codec::new(Half::Arguments, text())),
        _ => TaskError::Encode(Codec::new(Half::Result, text())),
    }
}

impl Batch {
    /// The frame at byte `at`, and where the next one begins.
    #[inline]
    pub(crate) fn frame(&self, at: usize) -> Option<(Frame<'_>, usize)> {
        split(self.bytes.get(at..)?, MAX_PAYLOAD).ok().flatten().map(|(frame, len)| (frame, at + len))
    }
}

/// The one outcome of a single task.
pub(crate) fn read_one<R: DeserializeOwned>(tally: &mut Tally) -> Result<R, TaskError> {
    if tally.is_cancelled() {
        return Err(TaskError::Cancelled);
    }
    if let Some((_, error)) = tally.errors.pop() {
        return Err(error);
    }
    let mut batch = tally.batches.pop().ok_or(TaskError::Taken)?;
    let came = batch.came.take();
    match batch.frame(0) {
        Some((frame, _)) => outcome(frame, came),
        None => Err(TaskError::Taken),
    }
}

/// The results of a map, put together as they arrive.
#[derive(Debug)]
pub(crate) struct Gathering<R> {
    stretches: Vec<(u64, Vec<R>)>,
    first_error: Option<(u64, TaskError)>,
}

impl<R: DeserializeOwned> Gathering<R> {
    pub(crate) const fn new() -> Self {
        Self { stretches: Vec::new(), first_error: None }
    }

    fn blame(&mut self, item: u64, error: TaskError) {
        if self.first_error.as_ref().is_none_or(|(first, _)| item < *first) {
            self.first_error = Some((item, error));
        }
    }

    /// Takes what has arrived out of the tally, and the lock with it, and decodes it.
    pub(crate) fn take(&mut self, mut tally: MutexGuard<'_, Tally>) {
        let (batches, errors) = (std::mem::take(&mut tally.batches), std::mem::take(&mut tally.errors));
        drop(tally);
        self.absorb(batches, errors);
    }

    fn absorb(&mut self, batches: Vec<Batch>, errors: Vec<(Range<u64>, TaskError)>) {
        for (items, error) in errors {
            self.blame(items.start, error);
        }
        for mut batch in batches {
            let mut came = batch.came.take();
            let mut results = Vec::with_capacity(usize::try_from(batch.count).unwrap_or(0));
            let mut at = 0;
            while let Some((frame, next)) = batch.frame(at) {
                at = next;
                match outcome(frame, came.take()) {
                    Ok(value) => results.push(value),
                    Err(error) => {
                        self.blame(batch.first + results.len() as u64, error);
                        break;
                    }
                }
            }
            self.stretches.push((batch.first, results));
        }
    }

    /// All results in the order of the input, or the error of the first item that has one.
    pub(crate) fn finish(mut self) -> Result<Vec<R>, TaskError> {
        if let Some((item, error)) = self.first_error {
            return Err(error.at(item));
        }
        self.stretches.sort_unstable_by_key(|&(first, _)| first);
        let total = self.stretches.iter().map(|(_, results)| results.len()).sum();
        let mut all = Vec::with_capacity(total);
        for (_, results) in self.stretches {
            all.extend(results);
        }
        Ok(all)
    }
}

/// The outcomes of a map that has waited for all of them.
pub(crate) fn read_all<R: DeserializeOwned>(tally: &mut Tally) -> Result<Vec<R>, TaskError> {
    if tally.is_cancelled() {
        return Err(TaskError::Cancelled);
    }
    if std::mem::replace(&mut tally.taken, true) {
        return Err(TaskError::Taken);
    }
    let mut gathering = Gathering::new();
    gathering.absorb(std::mem::take(&mut tally.batches), std::mem::take(&mut tally.errors));
    gathering.finish()
}

/// A thread pool's result.
pub(crate) fn read_value<R: 'static>(tally: &mut Tally) -> Result<R, TaskError> {
    if tally.is_cancelled() {
        return Err(TaskError::Cancelled);
    }
    let value = tally.value.take().and_then(|value| value.downcast::<Result<R, TaskError>>().ok());
    value.map_or(Err(TaskError::Taken), |result| *result)
}
