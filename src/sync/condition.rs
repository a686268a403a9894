//! Sleeping, without the lock, until somebody says that what the lock guards has changed.

use super::error::{Abandoned, AcquireError, SyncError};
use super::lock::{AnyLock, Guard, Lock, RLock};
use super::monitor::{self, Woken};
use super::notices;
use super::object::{Kind, Object};
use super::table::State;
use crate::sys::robust::Until;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A lock, and a place to sleep until what it guards has changed.
///
/// Notifying waits for nobody. A notice belongs to the sleeper who has waited longest, and passes on to the next if that one dies
/// before it has the lock again. After a death, and only then, a sleeper may wake for nothing; so what was waited for
/// belongs into [`wait_for`](Self::wait_for). A clone, or what arrives when it is sent, is another handle of the same
/// condition and the same lock.
///
/// ```
/// use procession::{Condition, Event, Process};
///
/// fn announce(changed: Condition, flag: Event) {
///     let _guard = changed.acquire().expect("nobody dies in this example");
///     flag.set();
///     changed.notify_all().expect("nobody dies in this example");
/// }
///
/// let (changed, flag) = (Condition::new()?, Event::new()?);
/// let mut guard = changed.acquire().expect("nobody dies in this example");
/// let child = Process::new(announce, (changed.clone(), flag.clone())).start()?;
/// changed.wait_for(&mut guard, || flag.is_set())?;
/// drop(guard);
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[doc(alias = "Condvar")]
pub struct Condition {
    object: Arc<Object>,
    lock: AnyLock,
}

impl Condition {
    /// A new one, with an [`RLock`] of its own.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM: it takes two descriptors and five pages of memory.
    pub fn new() -> io::Result<Self> {
        Self::with_rlock(RLock::new()?)
    }

    /// A new one, with this lock.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_lock(lock: Lock) -> io::Result<Self> {
        Ok(Self { object: Object::make(Kind::Condition, |_| ())?, lock: AnyLock::Once(lock) })
    }

    /// A new one, with this lock.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_rlock(lock: RLock) -> io::Result<Self> {
        Ok(Self { object: Object::make(Kind::Condition, |_| ())?, lock: AnyLock::Again(lock) })
    }

    /// Takes the lock; as [`Lock::acquire`].
    ///
    /// # Errors
    /// Its last holder died with it; the guard is inside.
    ///
    /// # Panics
    /// This thread holds it already, and it is no `RLock`.
    pub fn acquire(&self) -> Result<Guard<'_>, Abandoned<Guard<'_>>> {
        self.lock.acquire_for_ever()
    }

    /// Takes the lock within `limit`; as [`Lock::acquire_timeout`].
    ///
    /// # Errors
    /// As for `acquire`.
    ///
    /// # Panics
    /// As `acquire`.
    pub fn acquire_timeout(&self, limit: Duration) -> Result<Option<Guard<'_>>, Abandoned<Guard<'_>>> {
        self.lock.acquire(Until::after(limit))
    }

    /// Takes the lock if it is free; as [`Lock::try_acquire`].
    ///
    /// # Errors
    /// As for `acquire`.
    pub fn try_acquire(&self) -> Result<Option<Guard<'_>>, Abandoned<Guard<'_>>> {
        self.lock.acquire(Until::Now)
    }

    /// Releases the lock (an `RLock` with all its levels), sleeps until notified, and takes it again.
    ///
    /// # Errors
    /// [`AcquireError::Abandoned`]: a holder of the lock died with it in the meantime; the guard holds it all the same.
    /// Else it could not sleep, and nothing was released: the guard is of another lock, or too many sleep here.
    pub fn wait(&self, guard: &mut Guard<'_>) -> Result<(), AcquireError<()>> {
        self.sleep(guard, Until::Forever).map(|_| ())
    }

    /// [`wait`](Self::wait) for at most `limit`; false if no notice came by then. The lock is taken again in any case.
    ///
    /// # Errors
    /// As for `wait`.
    pub fn wait_timeout(&self, guard: &mut Guard<'_>, limit: Duration) -> Result<bool, AcquireError<()>> {
        self.sleep(guard, Until::after(limit))
    }

    /// Waits until `ready` says so; it is asked with the lock held, first of all before any sleep.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn wait_for(
        &self,
        guard: &mut Guard<'_>,
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), AcquireError<()>> {
        while !ready() {
            self.sleep(guard, Until::Forever)?;
        }
        Ok(())
    }

    /// [`wait_for`](Self::wait_for) for at most `limit`; what `ready` said last.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn wait_for_timeout(
        &self,
        guard: &mut Guard<'_>,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<bool, AcquireError<()>> {
        let until = Until::after(limit);
        loop {
            if ready() {
                return Ok(true);
            }
            if !self.sleep(guard, until)? {
                return Ok(ready());
            }
        }
    }

    /// Wakes up to `most` sleepers, those who have waited longest; how many there were.
    ///
    /// Hold the lock, so that none of them misses it between its look and its sleep.
    ///
    /// # Errors
    /// [`SyncError::Interrupted`].
    pub fn notify(&self, most: usize) -> Result<usize, SyncError> {
        let inside = monitor::enter_at_last(&self.object)?;
        let woken = notices::notify(inside.table(), most as u64, &mut inside.beds());
        Ok(usize::try_from(woken).unwrap_or(usize::MAX))
    }

    /// Wakes all sleepers; how many there were.
    ///
    /// # Errors
    /// As for [`notify`](Self::notify).
    pub fn notify_all(&self) -> Result<usize, SyncError> {
        self.notify(usize::MAX)
    }

    /// `None` if the gate was not free in time.
    fn lie_down(&self, until: Until) -> Result<Option<usize>, SyncError> {
        let object = &*self.object;
        let party = monitor::party(object)?;
        let once = || {
            let Some(inside) = monitor::enter(object, until)? else { return Ok(None) };
            notices::lie_down(inside.table(), party, &mut inside.beds()).map(Some)
        };
        match once() {
            Err(SyncError::TooManySleepers(_)) if monitor::bury(object, until, true)? => once(),
            other => other,
        }
    }

    /// True if notified.
    fn sleep(&self, guard: &mut Guard<'_>, until: Until) -> Result<bool, AcquireError<()>> {
        if !guard.is_of(self.lock.object()) {
            return Err(SyncError::ForeignGuard.into());
        }
        let Some(at) = self.lie_down(until)? else { return Ok(false) };
        let table = self.object.table();
        let mut notified = Ok(false);
        let abandoned = guard.suspend(|| notified = self.until_notified(at, until));
        if *notified.as_ref().unwrap_or(&false) {
            // Only now: should we die before, the notice is another's.
            table.put(at, table.slot(at), State::Free);
        }
        let notified = notified?;
        if abandoned { Err(AcquireError::Abandoned(Abandoned::new(()))) } else { Ok(notified) }
    }

    fn until_notified(&self, at: usize, until: Until) -> Result<bool, SyncError> {
        let table = self.object.table();
        loop {
            match monitor::sleep(&self.object, at, until) {
                Woken::Turned(slot) if slot.state == State::Chosen => return Ok(true),
                Woken::Turned(_) => return Err(SyncError::Spoiled),
                Woken::TimeUp(slot) if table.turn(at, slot, State::Free) => return Ok(false),
                Woken::Failed(slot, error) if table.turn(at, slot, State::Free) => return Err(error),
                Woken::TimeUp(_) | Woken::Failed(..) => {}
            }
        }
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").field("lock", &self.lock).finish_non_exhaustive()
    }
}

/// Within a message of procession; elsewhere an error.
impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Half(&self.object), Half(self.lock.object())).serialize(serializer)
    }
}

struct Half<'a>(&'a Object);

impl Serialize for Half<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.hand_over(serializer)
    }
}

struct Sleepers(Arc<Object>);

impl<'de> Deserialize<'de> for Sleepers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Object::take_over(deserializer, &[Kind::Condition]).map(Self)
    }
}

struct Mutual(AnyLock);

impl<'de> Deserialize<'de> for Mutual {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        AnyLock::take_over(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (Sleepers(object), Mutual(lock)) = Deserialize::deserialize(deserializer)?;
        Ok(Self { object, lock })
    }
}
