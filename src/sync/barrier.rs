//! A place that parties pass together.

use super::error::{BarrierError, SyncError};
use super::monitor::{self, Woken};
use super::object::{Kind, Object};
use super::table::State;
use super::turns::{self, Came};
use crate::sys::robust::Until;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A place that so many parties, processes or threads, pass together, again and again.
///
/// A party that dies or runs out of time while it waits breaks it: the others are told at once, and so is whoever comes, until
/// [`reset`](Self::reset). A clone, or what arrives when it is sent, is another handle of the same barrier.
///
/// Python's `action` is what the [leader](Passage::is_leader) does; if the others must see it done, it is followed by a
/// second `wait`.
///
/// ```
/// use procession::{Barrier, Process};
///
/// fn party(barrier: Barrier) -> bool {
///     barrier.wait().expect("nobody dies in this example").is_leader()
/// }
///
/// let barrier = Barrier::new(3)?;
/// let children: Vec<_> =
///     (0..2).map(|_| Process::new(party, (barrier.clone(),)).start()).collect::<Result<_, _>>()?;
/// let mut leaders = u32::from(barrier.wait()?.is_leader());
/// for child in children {
///     leaders += u32::from(child.join()?);
/// }
/// assert_eq!(leaders, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Barrier(Arc<Object>);

/// A barrier was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "BarrierWaitResult")]
pub struct Passage {
    index: usize,
}

impl Passage {
    /// How many of the parties that passed with this one had come before it: each has another number, from 0 on.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Is it the one with number 0?
    #[must_use]
    pub const fn is_leader(&self) -> bool {
        self.index == 0
    }
}

impl Barrier {
    /// A new one for so many parties, at least one.
    ///
    /// # Errors
    /// None at all (`InvalidInput`); EMFILE, ENFILE, ENOMEM: each takes a descriptor and four pages of memory.
    pub fn new(parties: usize) -> io::Result<Self> {
        if parties == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a barrier is for at least one party"));
        }
        let fill = |object: &Object| object.table().set_limit(parties as u64);
        Ok(Self(Object::make(Kind::Barrier, fill)?))
    }

    /// Waits until all parties are here.
    ///
    /// # Errors
    /// It is broken, or this party could not wait safely.
    pub fn wait(&self) -> Result<Passage, BarrierError> {
        self.pass(Until::Forever)
    }

    /// [`wait`](Self::wait) for at most `limit`; after that the barrier is broken, for everybody.
    ///
    /// # Errors
    /// As for `wait`.
    pub fn wait_timeout(&self, limit: Duration) -> Result<Passage, BarrierError> {
        self.pass(Until::after(limit))
    }

    /// Breaks it: whoever waits is told, and whoever comes, until it is reset.
    ///
    /// # Errors
    /// [`SyncError::Interrupted`].
    pub fn abort(&self) -> Result<(), SyncError> {
        let inside = monitor::enter_at_last(&self.0)?;
        turns::break_up(inside.table(), &mut inside.beds());
        Ok(())
    }

    /// Makes it as new; whoever waits at this moment is told that it broke.
    ///
    /// # Errors
    /// [`SyncError::Interrupted`].
    pub fn reset(&self) -> Result<(), SyncError> {
        let inside = monitor::enter_at_last(&self.0)?;
        turns::reset(inside.table(), &mut inside.beds());
        Ok(())
    }

    /// How many pass together.
    #[must_use]
    pub fn parties(&self) -> usize {
        usize::try_from(self.0.table().limit()).unwrap_or(usize::MAX)
    }

    /// How many wait at this moment.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        usize::try_from(self.0.table().count(State::Waiting)).unwrap_or(usize::MAX)
    }

    /// Is it broken?
    #[must_use]
    pub fn broken(&self) -> bool {
        turns::is_broken(self.0.table())
    }

    fn come(&self, until: Until) -> Result<Came, BarrierError> {
        let object = &*self.0;
        let party = monitor::party(object)?;
        let once = |sure| match monitor::enter(object, until)? {
            Some(inside) => turns::come(inside.table(), party, sure, &mut inside.beds()),
            None => Err(BarrierError::Broken),
        };
        match once(false) {
            // Those who wait may have died with nobody there to see it; and the dead may fill the table.
            Ok(Came::Unsure) | Err(BarrierError::Failed(SyncError::TooManySleepers(_))) => {
                monitor::bury(object, until, true)?;
                once(true)
            }
            other => other,
        }
    }

    fn pass(&self, until: Until) -> Result<Passage, BarrierError> {
        let (before, at) = match self.come(until)? {
            Came::Last(before) => return Ok(passage(before)),
            Came::Early(before, at) => (before, at),
            Came::Unsure => return Err(SyncError::Spoiled.into()),
        };
        let table = self.0.table();
        let mut failed = None;
        let mut woken = monitor::sleep(&self.0, at, until);
        while let Woken::TimeUp(slot) | Woken::Failed(slot, _) = woken {
            if table.turn(at, slot, State::Late) {
                // Should a stopped process hold the gate, whoever enters it next does this.
                if let Some(inside) = monitor::enter(&self.0, Until::after(Duration::from_millis(100)))? {
                    turns::mend(inside.table(), &mut inside.beds());
                }
            }
            if let Woken::Failed(_, error) = woken {
                failed = Some(error);
            }
            woken = Woken::Turned(table.slot(at));
        }
        let Woken::Turned(slot) = woken else { return Err(SyncError::Spoiled.into()) };
        match slot.state {
            State::Chosen | State::Broken => table.put(at, slot, State::Free),
            State::Late => {}
            _ => return Err(SyncError::Spoiled.into()),
        }
        match (slot.state, failed) {
            (State::Chosen, _) => Ok(passage(before)),
            (_, Some(error)) => Err(error.into()),
            _ => Err(BarrierError::Broken),
        }
    }
}

fn passage(before: u64) -> Passage {
    Passage { index: usize::try_from(before).unwrap_or(usize::MAX) }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("parties", &self.parties())
            .field("waiting", &self.n_waiting())
            .field("broken", &self.broken())
            .finish()
    }
}

/// Within a message of procession; elsewhere an error.
impl Serialize for Barrier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.hand_over(serializer)
    }
}

impl<'de> Deserialize<'de> for Barrier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Object::take_over(deserializer, &[Kind::Barrier]).map(Self)
    }
}
