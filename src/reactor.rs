//! One thread per process that waits: for descriptors, for deadlines, and for a wake. It knows nothing of tasks, and
//! sleeps while nothing happens: there is no tick.
//!
//! It is also the thread that spawns every worker, since the kernel ties a worker's life to the thread that spawned it
//! and this one lives as long as the process.

pub(crate) use crate::sys::poller::Interest;
use crate::sys::poller::Poller;
use crate::sys::wait;
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Somebody who waits.
pub(crate) trait Source: Send + Sync {
    /// A descriptor that was added under `token` can be read, can be written, or has hung up.
    fn on_ready(&self, token: u64);
    /// A deadline that was set under `token` has passed.
    fn on_deadline(&self, token: u64);
}

new_key_type! {
    /// Names one added descriptor.
    pub(crate) struct Watch;
}

/// Names one deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alarm(Instant, u64);

type Errand = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Book {
    watches: SlotMap<Watch, (Arc<dyn Source>, u64)>,
    alarms: BTreeMap<Alarm, (Weak<dyn Source>, u64)>,
    alarms_set: u64,
    errands: Vec<Errand>,
}

/// The reactor of this process.
pub(crate) struct Reactor {
    poller: Poller,
    book: Mutex<Book>,
    thread: OnceLock<ThreadId>,
}

/// The reactor, started on first use.
///
/// # Errors
/// EMFILE, ENOMEM, EAGAIN; the next call tries again.
pub(crate) fn reactor() -> io::Result<&'static Reactor> {
    static REACTOR: OnceLock<Reactor> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    if let Some(reactor) = REACTOR.get() {
        return Ok(reactor);
    }
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if REACTOR.get().is_none() {
        let fresh = Reactor::new()?;
        let (started, start) = std::sync::mpsc::channel::<&'static Reactor>();
        let thread = std::thread::Builder::new().name("procession".into()).stack_size(256 * 1024);
        wait::with_signals_blocked(|| {
            thread.spawn(move || {
                if let Ok(reactor) = start.recv() {
                    reactor.run();
                }
            })
        })?;
        let reactor = REACTOR.get_or_init(|| fresh);
        let _ = started.send(reactor);
    }
    REACTOR.get().ok_or_else(|| io::Error::other("the reactor was not started"))
}

impl Reactor {
    fn new() -> io::Result<Self> {
        Ok(Self { poller: Poller::new()?, book: Mutex::default(), thread: OnceLock::new() })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a descriptor until [`remove`](Self::remove).
    pub(crate) fn add(
        &self,
        fd: impl AsFd,
        interest: Interest,
        source: Arc<dyn Source>,
        token: u64,
    ) -> io::Result<Watch> {
        let watch = self.book().watches.insert((source, token));
        match self.poller.add(fd, interest, watch.data().as_ffi()) {
            Ok(()) => Ok(watch),
            Err(error) => {
                self.book().watches.remove(watch);
                Err(error)
            }
        }
    }

    /// Waits for something else at a watched descriptor.
    pub(crate) fn modify(&self, watch: Watch, fd: impl AsFd, interest: Interest) {
        self.poller.modify(fd, interest, watch.data().as_ffi());
    }

    /// Ends a watch; a call of `on_ready` that is under way may still come.
    pub(crate) fn remove(&self, watch: Watch, fd: impl AsFd) {
        self.poller.remove(fd);
        // Dropped outside the lock: the last reference to a source may be this one.
        let _source = self.book().watches.remove(watch);
    }

    /// Sets a deadline; whoever set it may be gone by then.
    pub(crate) fn set_alarm(&self, at: Instant, source: Weak<dyn Source>, token: u64) -> Alarm {
        let mut book = self.book();
        book.alarms_set += 1;
        let alarm = Alarm(at, book.alarms_set);
        let first = book.alarms.first_key_value().is_none_or(|(earliest, _)| alarm < *earliest);
        book.alarms.insert(alarm, (source, token));
        drop(book);
        if first {
            self.wake();
        }
        alarm
    }

    /// [`set_alarm`](Self::set_alarm) after so long; what is beyond all time is beyond this program's.
    pub(crate) fn set_alarm_after(&self, after: Duration, source: Weak<dyn Source>, token: u64) -> Alarm {
        let now = Instant::now();
        let at = now.checked_add(after).unwrap_or_else(|| now + Duration::from_secs(1 << 32));
        self.set_alarm(at, source, token)
    }

    /// Forgets a deadline.
    pub(crate) fn cancel_alarm(&self, alarm: Alarm) {
        let _source = self.book().alarms.remove(&alarm);
    }

    /// Runs something on the reactor's thread, soon; it must not wait.
    pub(crate) fn run_errand(&self, errand: impl FnOnce() + Send + 'static) {
        self.book().errands.push(Box::new(errand));
        self.wake();
    }

    /// Is the calling thread the reactor's?
    pub(crate) fn is_here(&self) -> bool {
        self.thread.get() == Some(&std::thread::current().id())
    }

    fn wake(&self) {
        if !self.is_here() {
            self.poller.wake();
        }
    }

    fn run(&self) {
        let _ = self.thread.set(std::thread::current().id());
        let mut ready = Vec::new();
        loop {
            self.run_errands();
            self.sound_alarms();
            self.poller.wait(self.next_deadline(), &mut ready);
            for token in ready.drain(..) {
                let watch = Watch::from(KeyData::from_ffi(token));
                let found =
                    self.book().watches.get(watch).map(|(source, token)| (Arc::clone(source), *token));
                if let Some((source, token)) = found {
                    shielded(|| source.on_ready(token));
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let book = self.book();
        if book.errands.is_empty() {
            book.alarms.first_key_value().map(|(Alarm(at, _), _)| *at)
        } else {
            Some(Instant::now())
        }
    }

    fn run_errands(&self) {
        let errands = std::mem::take(&mut self.book().errands);
        for errand in errands {
            shielded(errand);
        }
    }

    fn sound_alarms(&self) {
        let now = Instant::now();
        loop {
            let mut book = self.book();
            let due = book
                .alarms
                .first_entry()
                .filter(|entry| entry.key().0 <= now)
                .map(std::collections::btree_map::OccupiedEntry::remove);
            drop(book);
            let Some((source, token)) = due else { return };
            if let Some(source) = source.upgrade() {
                shielded(|| source.on_deadline(token));
            }
        }
    }
}

/// One source's mistake must not stop the others.
fn shielded(body: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(body));
}
