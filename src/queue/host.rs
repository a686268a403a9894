//! The host of a queue: the thin shell round its rules, in the process that made it. Whoever holds the lock carries out what
//! the rules decide: the reactor's thread for other processes, a caller for itself.

mod doors;

use super::desk::{Desk, DoorId};
use super::item::{Body, Bytes, Item};
use super::line::{Line, Lines};
use super::state::{ClientId, State};
use super::{Capacity, GetError};
use crate::reactor::{Source, reactor};
use crate::sys::bell::Bell;
use crate::sys::wait;
use procession_worker::ipc::handoff::{Handle, Incoming};
use slotmap::{KeyData, SlotMap};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What the system did not have is asked for again after so long.
const AGAIN: Duration = Duration::from_millis(100);

/// Tokens of doors; those of clients have this bit clear.
const DOOR: u64 = 1 << 63;

pub(super) struct Host {
    me: Weak<Self>,
    capacity: Capacity,
    desk: Mutex<Desk>,
    changed: Condvar,
    /// Rung by clients when somebody here waits.
    bell: OnceLock<Bell>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    pub(super) fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            capacity,
            desk: Mutex::new(Desk {
                state: State::new(capacity.units()),
                lines: Lines::default(),
                doors: SlotMap::with_key(),
                opened: Vec::new(),
                asked: VecDeque::new(),
                news: false,
                led: false,
                sleepers: 0,
                capacity,
            }),
            changed: Condvar::new(),
            bell: OnceLock::new(),
        })
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is to be done, and tells those here whom it concerns.
    fn finish(&self, mut desk: MutexGuard<'_, Desk>) {
        let led = desk.led;
        desk.settle(led);
        let opened = std::mem::take(&mut desk.opened);
        for (door, held) in opened {
            let _ = self.open_door(&mut desk, door, Some(held));
        }
        self.ring(&mut desk);
    }

    fn ring(&self, desk: &mut Desk) {
        if std::mem::take(&mut desk.lines.try_again)
            && !desk.lines.alarmed
            && let Ok(reactor) = reactor()
        {
            desk.lines.alarmed = true;
            reactor.set_alarm_after(AGAIN, Weak::clone(&self.me) as Weak<dyn Source>, 0);
        }
        if std::mem::take(&mut desk.lines.wake_local) {
            match (desk.led, self.bell.get()) {
                (true, Some(bell)) => bell.ring(),
                _ => self.wake(desk),
            }
        }
    }

    // ---- for this process -----------------------------------------------------------------------------------------

    /// The last handle in this process is gone.
    pub(super) fn abandon(&self) {
        let mut desk = self.desk();
        desk.state.abandon();
        self.finish(desk);
    }

    /// All but one handle in this process are gone: whoever waits by it may wait for nobody.
    pub(super) fn look_again(&self) {
        let mut desk = self.desk();
        desk.lines.wake_local = desk.state.local_waits();
        self.finish(desk);
    }

    pub(super) fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Tries until something comes of it, the deadline passes, or `over`.
    fn wait_until<R>(
        &self,
        deadline: Option<Instant>,
        who: Waiting,
        mut attempt: impl FnMut(&mut Desk) -> Option<R>,
    ) -> Option<R> {
        let mut desk = self.desk();
        if let Some(result) = attempt(&mut desk) {
            self.finish_if_needed(desk);
            return Some(result);
        }
        who.count(&mut desk.state, 1);
        let result = loop {
            // What is on its way to one who has just died comes back before anything is taken from behind it.
            let by_socket = !desk.state.has_items() && desk.state.has_given();
            desk.pump_all(by_socket);
            if let Some(result) = attempt(&mut desk) {
                break Some(result);
            }
            // Clients are asked to tell, and what they did before they were asked is looked at.
            let by_bell = desk.led || self.can_lead(&desk);
            desk.settle(by_bell);
            // What was found here may be for others who sleep.
            desk.lines.wake_local = std::mem::take(&mut desk.news);
            self.ring(&mut desk);
            if let Some(result) = attempt(&mut desk) {
                break Some(result);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break None;
            }
            desk = self.sleep(desk, deadline);
        };
        who.count(&mut desk.state, -1);
        // Whoever slept beside us looks for itself now.
        desk.lines.wake_local = true;
        self.finish(desk);
        result
    }

    /// The lock's way out when nothing has been waited for.
    fn finish_if_needed(&self, desk: MutexGuard<'_, Desk>) {
        let wanted =
            |(client, line): (_, &Line)| line.idle != desk.state.rests(client) || line.asks().is_some();
        if desk.state.anybody_waits() || desk.lines.all.iter().any(wanted) {
            self.finish(desk);
        }
    }

    /// Those who sleep without a bell look for themselves.
    fn wake(&self, desk: &Desk) {
        if desk.sleepers > 0 {
            self.changed.notify_all();
        }
    }

    /// Is the bell free, and there somebody to ring it?
    fn can_lead(&self, desk: &Desk) -> bool {
        self.bell.get().is_some() && !desk.led && !desk.lines.all.is_empty()
    }

    fn sleep<'a>(
        &'a self,
        mut desk: MutexGuard<'a, Desk>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, Desk> {
        match self.bell.get().filter(|_| self.can_lead(&desk)) {
            Some(bell) => {
                desk.led = true;
                drop(desk);
                let [_] = wait::ready([(bell.as_fd(), false)], deadline);
                let mut desk = self.desk();
                desk.led = false;
                bell.hush();
                self.wake(&desk);
                desk
            }
            None => {
                desk.sleepers += 1;
                let (mut desk, _) = wait::sleep(&self.changed, desk, deadline);
                desk.sleepers -= 1;
                desk
            }
        }
    }

    /// Puts an item; it comes back if there is no room until the deadline, or the queue is closed.
    pub(super) fn put(&self, item: Item, deadline: Option<Instant>) -> Result<(), NotPut> {
        let mut item = Some(item);
        self.wait_until(deadline, Waiting::Putter, |desk| {
            if desk.state.is_closed() {
                return Some(Err(NotPut::Closed));
            }
            match desk.state.put(item.take()?) {
                Ok(()) => Some(Ok(())),
                Err(back) => {
                    item = Some(back);
                    None
                }
            }
        })
        .unwrap_or(Err(NotPut::Full))
    }

    /// Takes an item, if there is one until the deadline. With `sole` the caller is the only one here who could put.
    pub(super) fn get(&self, deadline: Option<Instant>, sole: impl Fn() -> bool) -> Result<Item, GetError> {
        self.take(deadline, sole, |_| {})
    }

    fn take(
        &self,
        deadline: Option<Instant>,
        sole: impl Fn() -> bool,
        taken: impl Fn(&mut State),
    ) -> Result<Item, GetError> {
        self.wait_until(deadline, Waiting::Getter, |desk| match desk.state.pop(&mut desk.lines) {
            Some(item) => {
                taken(&mut desk.state);
                Some(Ok(item))
            }
            None => desk.state.is_over(None, sole()).then_some(Err(GetError::Closed)),
        })
        .unwrap_or(Err(GetError::Empty))
    }

    /// What was just taken here, and could not be looked at, goes back.
    pub(super) fn put_back(&self, item: Item) {
        let mut desk = self.desk();
        desk.state.lease_here();
        desk.state.lease_here_ended(Some(item));
        desk.lines.wake_local = true;
        self.finish(desk);
    }

    /// Takes an item, and keeps it as well.
    pub(super) fn lease(&self, deadline: Option<Instant>, sole: impl Fn() -> bool) -> Result<Item, GetError> {
        self.take(deadline, sole, State::lease_here)
    }

    /// A lease that was taken here has come to its end: the item goes back, if it is there, or is done, or is lost.
    pub(super) fn lease_ended(&self, item: Option<Item>, done: bool) {
        let mut desk = self.desk();
        desk.state.lease_here_ended(item);
        if done {
            desk.pump_all(false);
            let _ = desk.state.task_done(None);
        }
        desk.lines.wake_local = true;
        self.finish(desk);
    }

    /// What the rules say, after everything that clients have done.
    pub(super) fn ask<R>(&self, question: impl FnOnce(&State) -> R) -> R {
        let mut desk = self.desk();
        desk.pump_all(false);
        let answer = question(&desk.state);
        self.finish(desk);
        answer
    }

    pub(super) fn close(&self) {
        let mut desk = self.desk();
        desk.close();
        desk.lines.wake_local = true;
        self.finish(desk);
    }

    pub(super) fn task_done(&self) -> bool {
        let mut desk = self.desk();
        desk.pump_all(false);
        let any = desk.state.task_done(None);
        self.finish(desk);
        any
    }

    /// Waits until all tasks are done; false at the deadline.
    pub(super) fn join(&self, deadline: Option<Instant>) -> bool {
        self.wait_until(deadline, Waiting::Joiner, |desk| (desk.state.unfinished() == 0).then_some(()))
            .is_some()
    }
}

/// Why an item was not put.
#[derive(Debug)]
pub(super) enum NotPut {
    Full,
    Closed,
    Gone,
    Io(io::Error),
}

#[derive(Debug, Clone, Copy)]
enum Waiting {
    Getter,
    Putter,
    Joiner,
}

impl Waiting {
    fn count(self, state: &mut State, by: isize) {
        match self {
            Self::Getter => state.wait_locally(by, 0, 0),
            Self::Putter => state.wait_locally(0, by, 0),
            Self::Joiner => state.wait_locally(0, 0, by),
        }
    }
}

impl Source for Host {
    fn on_ready(&self, token: u64) {
        let mut desk = self.desk();
        if token & DOOR != 0 {
            self.at_door(&mut desk, DoorId::from(KeyData::from_ffi(token & !DOOR)));
        } else {
            let client = ClientId::from(KeyData::from_ffi(token));
            if let Some(line) = desk.lines.all.get_mut(client) {
                line.flush();
            }
            desk.pump_or_bury(client, true);
            desk.lines.wake_local |= desk.state.local_waits();
        }
        self.finish(desk);
    }

    fn on_deadline(&self, _: u64) {
        let mut desk = self.desk();
        desk.lines.alarmed = false;
        desk.lines.all.values_mut().for_each(|line| line.rests = false);
        self.finish(desk);
    }
}

/// The descriptors of an item that was got here.
pub(super) fn came_with(item: Item) -> Result<Incoming, GetError> {
    let own = |handle: Handle| Arc::try_unwrap(handle).or_else(|handle| handle.try_clone());
    let fds: io::Result<Vec<OwnedFd>> = item.handles.into_iter().map(own).collect();
    Ok(Incoming::new(fds.map_err(GetError::Io)?, None))
}

/// Bytes of an item that was got here.
pub(super) fn bytes_of(item: &Item) -> io::Result<Bytes> {
    match &item.body {
        Body::Bytes(bytes, range) => Ok(Bytes::Shared(Arc::clone(bytes), range.clone())),
        Body::File(file, len) => Bytes::of_file(file, *len),
    }
}
