//! One worker's place in a pool: its link, what the reactor watches for it, and where it is in its life.

use crate::error::{SpawnError, TaskError};
use crate::process::call::Parcel;
use crate::process::link::{Link, Way};
use crate::reactor::{Alarm, Interest, Source, Watch, reactor};
use crate::sys::wait;
use procession_worker::ipc::handoff::Incoming;
use procession_worker::sys::life::now;
use procession_worker::wire::message::CallHead;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

pub(super) const PROCESS: u64 = 0;
pub(super) const OUTCOMES: u64 = 1;
pub(super) const CALLS: u64 = 2;
pub(super) const TRAY: u64 = 3;
pub(super) const BIRTH: u64 = 4;
pub(super) const TASK: u64 = 5;
pub(super) const FAREWELL: u64 = 6;

/// A worker that was told to go has so long for its exit handlers.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// Where a worker is in its life.
#[derive(Debug)]
pub(super) enum Life {
    /// Not heard of yet; will it have to run an initializer?
    Unborn {
        initializer: bool,
    },
    Initializing {
        error: Option<TaskError>,
    },
    Refused(SpawnError),
    Serving,
}

impl Life {
    #[inline]
    pub(super) const fn is_serving(&self) -> bool {
        matches!(self, Self::Serving)
    }
}

pub(super) struct Seat {
    pub(super) link: Link,
    pub(super) life: Life,
    ear: Arc<dyn Source>,
    watches: [Option<Watch>; 4],
    /// Does the reactor wait for outcomes, rather than nobody or a caller?
    armed: bool,
    led: bool,
    closed: bool,
    /// What came with the outcome that is next.
    pub(super) came: Option<Incoming>,
    alarm: Option<Alarm>,
    deadline: Option<Alarm>,
    /// When the call that runs now came to run, as far as we know; a deadline never counts from before.
    front_since: u64,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("link", &self.link).field("life", &self.life).finish_non_exhaustive()
    }
}

impl Seat {
    pub(super) fn new(link: Link, ear: Arc<dyn Source>, initializer: bool) -> Self {
        Self {
            link,
            life: Life::Unborn { initializer },
            ear,
            watches: [None; 4],
            armed: false,
            led: false,
            closed: false,
            came: None,
            alarm: None,
            deadline: None,
            front_since: 0,
        }
    }

    fn weak(&self) -> Weak<dyn Source> {
        Arc::downgrade(&self.ear)
    }

    fn fd(&self, which: u64) -> BorrowedFd<'_> {
        match which {
            PROCESS => self.link.ends.process.as_fd(),
            OUTCOMES => self.link.ends.outcomes.as_fd(),
            TRAY => self.link.ends.tray.as_fd(),
            _ => self.link.ends.calls.as_fd(),
        }
    }

    fn add(&mut self, which: u64, interest: Interest) -> io::Result<()> {
        let ear = Arc::clone(&self.ear);
        self.watches[which as usize] = Some(reactor()?.add(self.fd(which), interest, ear, which)?);
        Ok(())
    }

    fn remove(&mut self, which: u64) {
        if let (Some(watch), Ok(reactor)) = (self.watches[which as usize].take(), reactor()) {
            reactor.remove(watch, self.fd(which));
        }
    }

    /// Begins to watch; it has so long to be ready.
    pub(super) fn watch(&mut self, birth_limit: Duration) -> io::Result<()> {
        if let Err(error) =
            self.add(PROCESS, Interest::Read).and_then(|()| self.add(OUTCOMES, Interest::Read))
        {
            self.unwatch();
            return Err(error);
        }
        self.armed = true;
        self.set_alarm(birth_limit, BIRTH);
        Ok(())
    }

    pub(super) fn unwatch(&mut self) {
        for which in [PROCESS, OUTCOMES, CALLS, TRAY] {
            self.remove(which);
        }
        self.quiet_alarm();
        if let (Some(deadline), Ok(reactor)) = (self.deadline.take(), reactor()) {
            reactor.cancel_alarm(deadline);
        }
    }

    fn set_alarm(&mut self, after: Duration, which: u64) {
        self.quiet_alarm();
        if let Ok(reactor) = reactor() {
            self.alarm = Some(reactor.set_alarm_after(after, self.weak(), which));
        }
    }

    pub(super) fn quiet_alarm(&mut self) {
        if let (Some(alarm), Ok(reactor)) = (self.alarm.take(), reactor()) {
            reactor.cancel_alarm(alarm);
        }
    }

    // ---- calls ----------------------------------------------------------------------------------------------------

    /// Lines up a call.
    pub(super) fn call(&mut self, head: CallHead, items: Parcel) {
        self.link.call(head, items);
        if !self.led {
            self.arm();
        }
    }

    /// Tells the worker to go when it is done, and sees to it that it does.
    pub(super) fn retire(&mut self) {
        self.link.retire();
        self.set_alarm(FAREWELL_LIMIT, FAREWELL);
    }

    /// Writes what waits, and has the reactor write the rest.
    pub(super) fn flush(&mut self) {
        self.link.flush();
        let full = match self.link.waits_for() {
            None => None,
            Some(Way::Pipe) => Some(CALLS),
            Some(Way::Tray) => Some(TRAY),
        };
        for way in [CALLS, TRAY] {
            if full != Some(way) {
                self.remove(way);
            }
        }
        if let Some(full) = full
            && self.watches[full as usize].is_none()
            && !self.led
        {
            // Without a watch the rest would never be written; without the worker it goes elsewhere.
            if self.add(full, Interest::Write).is_err() {
                self.link.ends.process.kill_all();
            }
        }
    }

    /// Whatever call is first now runs from now.
    pub(super) fn next_call(&mut self) {
        self.front_since = now();
    }

    // ---- who reads ------------------------------------------------------------------------------------------------

    fn arm(&mut self) {
        if let (false, false, Some(watch), Ok(reactor)) =
            (self.armed, self.closed, self.watches[OUTCOMES as usize], reactor())
        {
            reactor.modify(watch, self.fd(OUTCOMES), Interest::Read);
            self.armed = true;
        }
    }

    /// A caller reads from now on, if nobody else does; false if somebody does.
    pub(super) fn begin_lead(&mut self) -> bool {
        if self.led || self.closed {
            return false;
        }
        if let (true, Some(watch), Ok(reactor)) = (self.armed, self.watches[OUTCOMES as usize], reactor()) {
            reactor.modify(watch, self.fd(OUTCOMES), Interest::Nothing);
            self.armed = false;
        }
        self.led = true;
        true
    }

    /// The reactor reads again, as soon as there is something to wait for.
    pub(super) fn end_lead(&mut self, busy: bool) {
        self.led = false;
        self.flush();
        if busy {
            self.arm();
        }
    }

    /// Does anything lie in its pipe?
    pub(super) fn has_spoken(&self) -> bool {
        let [spoke] = wait::ready([(self.fd(OUTCOMES), false)], Some(Instant::now()));
        spoke
    }

    pub(super) const fn is_led(&self) -> bool {
        self.led
    }

    /// The worker has closed its pipe. If it is not about to die, it will be helped.
    pub(super) fn closed(&mut self) {
        self.remove(OUTCOMES);
        self.closed = true;
        self.set_alarm(crate::process::CLOSING, OUTCOMES);
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    // ---- birth ----------------------------------------------------------------------------------------------------

    pub(super) fn said_hello(&mut self) {
        if let Life::Unborn { initializer } = self.life {
            self.life = if initializer { Life::Initializing { error: None } } else { Life::Serving };
        }
    }

    /// Is there an initializer that has not come to its end?
    pub(super) const fn has_initializer(&self) -> bool {
        matches!(self.life, Life::Unborn { initializer: true } | Life::Initializing { .. })
    }

    pub(super) const fn is_initializing(&self) -> bool {
        matches!(self.life, Life::Initializing { .. })
    }

    pub(super) fn initializer_failed(&mut self, failure: TaskError) {
        self.life = Life::Initializing { error: Some(failure) };
    }

    pub(super) fn initialized(&mut self) {
        if matches!(self.life, Life::Initializing { error: None }) {
            self.life = Life::Serving;
        }
    }

    pub(super) fn refused(&mut self, refusal: SpawnError) {
        self.life = Life::Refused(refusal);
    }

    /// What it said of its failure to be born.
    pub(super) fn stillborn(&self) -> Option<SpawnError> {
        match &self.life {
            Life::Initializing { error } => {
                error.clone().map(|error| SpawnError::Initializer(Box::new(error)))
            }
            Life::Refused(refusal) => Some(refusal.clone()),
            _ => None,
        }
    }

    // ---- deadlines ------------------------------------------------------------------------------------------------

    /// Looks at the clock again after `after`, unless a look is due anyway.
    pub(super) fn watch_deadline(&mut self, after: Duration) {
        if self.deadline.is_none()
            && let Ok(reactor) = reactor()
        {
            self.deadline = Some(reactor.set_alarm_after(after, self.weak(), TASK));
        }
    }

    pub(super) fn deadline_sounded(&mut self) {
        self.deadline = None;
    }

    /// How much of its time the running item has left; `None` if nothing is.
    pub(super) fn overrun(&self, limit: Duration) -> Option<Duration> {
        // Neither a clock that the worker made up nor one from before this call shortens the time.
        let now = now();
        let start = self.link.page.since().max(self.front_since).min(now);
        limit.checked_sub(Duration::from_nanos(now - start)).filter(|left| !left.is_zero())
    }
}
