//! What the engine is told by other threads.

use super::Status;
use crate::error::SpawnError;
use crate::keeper::Ended;
use crate::sys::poller::Poller;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, ThreadId};

/// One thing to hear.
#[derive(Debug)]
pub(crate) enum Event {
    /// There are tasks to be taken.
    Tasks,
    /// The program of a slot, of that many at this slot, has ended or could not be started.
    Ended(usize, u64, Result<Ended, SpawnError>),
    /// Reports have left the house: the engine waits for it.
    Written,
    /// So much of what programs print has left the house that more may be read.
    Room,
    /// Whoever takes the reports cannot go on.
    Broken,
    Stop(i32),
    Kill(i32),
    Drain(i32),
    Resize(bool),
    Pause(SyncSender<()>),
    Resume,
    Status(SyncSender<Status>),
}

#[derive(Debug)]
pub(crate) struct Inbox {
    events: Mutex<Vec<Event>>,
    pub(crate) poller: Poller,
    home: OnceLock<ThreadId>,
    /// How much has been written since the engine last looked.
    written: AtomicUsize,
    waits: AtomicBool,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            events: Mutex::default(),
            poller: Poller::new()?,
            home: OnceLock::new(),
            written: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
        })
    }

    /// This thread is the engine's: it needs no wake.
    pub(crate) fn settle(&self) {
        let _ = self.home.set(thread::current().id());
    }

    pub(crate) fn push(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        if self.home.get() != Some(&thread::current().id()) {
            self.poller.wake();
        }
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn note_written(&self, weight: usize) {
        self.written.fetch_add(weight, Ordering::AcqRel);
        if self.waits.swap(false, Ordering::AcqRel) {
            self.push(Event::Written);
        }
    }

    /// What was written; `waits`: and the next time it is to be told.
    pub(crate) fn written(&self, waits: bool) -> usize {
        self.waits.store(waits, Ordering::Release);
        self.written.swap(0, Ordering::AcqRel)
    }
}
