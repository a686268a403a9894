//! A map whose results are taken one by one, and whose input is taken only as fast as they are.

use super::core::Core;
use super::job::{HELD, Input};
use super::sink::{Batch, Sink, outcome};
use super::state::JobId;
use crate::error::TaskError;
use procession_worker::task::Token;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// The iterator that [`Pool::imap`](super::Pool::imap) and its kin return.
///
/// # Drop
/// What is queued never runs; who runs one of its items is killed and replaced.
pub(crate) struct Imap<I, R> {
    core: Arc<Core>,
    job: Option<JobId>,
    sink: Arc<Sink>,
    items: Option<I>,
    input: Input,
    in_order: bool,
    /// How many items have been yielded.
    yielded: u64,
    /// How many outcomes have been taken from the sink.
    taken: u64,
    /// What has arrived and is not yielded, by its first item.
    arrived: BTreeMap<u64, Arrived>,
    /// The batch being read, and how far: byte and item.
    current: Option<(Batch, usize, u64)>,
    /// An item that could not be handed over ends the input; it is told in its turn.
    broken: Option<TaskError>,
    result: PhantomData<fn() -> R>,
}

enum Arrived {
    Batch(Batch),
    Failed(std::ops::Range<u64>, TaskError),
}

impl<I, R> fmt::Debug for Imap<I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap").field("yielded", &self.yielded).finish_non_exhaustive()
    }
}

impl<I, T, R> Imap<I, R>
where
    I: Iterator<Item = T>,
    T: Serialize,
{
    pub(crate) fn new(core: Arc<Core>, token: Result<Token, TaskError>, items: I, in_order: bool) -> Self {
        let sink = Sink::new(None);
        let (job, broken) = match token.and_then(|token| core.open(token, &sink)) {
            Ok(job) => (Some(job), None),
            Err(error) => (None, Some(error)),
        };
        let mut imap = Self {
            core,
            job,
            sink,
            items: job.is_some().then_some(items),
            input: Input::default(),
            in_order,
            yielded: 0,
            taken: 0,
            arrived: BTreeMap::new(),
            current: None,
            broken,
            result: PhantomData,
        };
        imap.refill();
        imap
    }

    /// Takes as much input as the window allows.
    fn refill(&mut self) {
        let (Some(job), Some(items)) = (self.job, &mut self.items) else { return };
        if let Some(error) = self.core.over() {
            // Input may be endless; what is on its way is told, and then this.
            self.broken = Some(error);
            self.items = None;
            self.sink.set_total(self.input.position());
            self.core.seal(job);
            return;
        }
        let window = self.core.window(job);
        let mut held = self.core.held(job);
        let mut ended = false;
        while self.input.position() - self.yielded < window && held < HELD {
            match items.next() {
                None => {
                    ended = true;
                    break;
                }
                Some(item) => {
                    if let Err(error) = self.input.push(&item) {
                        self.broken = Some(error.at(self.input.position()));
                        ended = true;
                        break;
                    }
                    if self.input.is_full() {
                        held = self.core.feed(job, self.input.take());
                    }
                }
            }
        }
        if self.input.len() > 0 {
            self.core.feed(job, self.input.take());
        }
        if ended {
            self.items = None;
            self.sink.set_total(self.input.position());
            self.core.seal(job);
        }
    }

    /// Everything that was handed over has been yielded.
    fn is_over(&self) -> bool {
        self.items.is_none() && self.yielded == self.input.position()
    }

    /// Waits for more; what has arrived is then sorted in.
    fn receive(&mut self) {
        if let Some(job) = self.job {
            let nothing = self.sink.tally().batches.is_empty();
            if nothing {
                self.core.hurry(job);
            }
        }
        let mut tally = self.sink.wait_beyond(self.taken);
        self.taken = tally.resolved();
        let (batches, errors) = (std::mem::take(&mut tally.batches), std::mem::take(&mut tally.errors));
        drop(tally);
        for batch in batches {
            self.arrived.insert(batch.first, Arrived::Batch(batch));
        }
        for (items, error) in errors {
            self.arrived.insert(items.start, Arrived::Failed(items, error));
        }
    }
}

impl<I, T, R> Iterator for Imap<I, R>
where
    I: Iterator<Item = T>,
    T: Serialize,
    R: DeserializeOwned,
{
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((batch, at, item)) = &mut self.current {
                let came = batch.came.take();
                if let Some((frame, next)) = batch.frame(*at) {
                    let result = outcome(frame, came).map_err(|error| error.at(*item));
                    (*at, *item) = (next, *item + 1);
                    self.yielded += 1;
                    return Some(result);
                }
                self.current = None;
                self.refill();
            }
            if self.is_over() {
                return self.broken.take().map(Err);
            }
            let next =
                self.arrived.first_entry().filter(|entry| !self.in_order || *entry.key() == self.yielded);
            match next.map(std::collections::btree_map::OccupiedEntry::remove) {
                None => {
                    self.refill();
                    self.receive();
                }
                Some(Arrived::Batch(batch)) => {
                    let first = batch.first;
                    self.current = Some((batch, 0, first));
                }
                Some(Arrived::Failed(items, error)) => {
                    let item = items.start;
                    self.yielded += 1;
                    if item + 1 < items.end {
                        self.arrived.insert(item + 1, Arrived::Failed(item + 1..items.end, error.clone()));
                    }
                    return Some(Err(error.at(item)));
                }
            }
        }
    }
}

impl<I, R> Drop for Imap<I, R> {
    fn drop(&mut self) {
        if let Some(job) = self.job
            && self.sink.cancel()
        {
            self.core.cancel(job);
        }
    }
}
