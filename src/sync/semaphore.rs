//! So many permits, and those who wait for one.

use super::error::{Abandoned, AcquireError, SyncError};
use super::monitor::{self, Woken};
use super::object::{Kind, Object};
use super::permits::{self, Asked};
use super::table::State;
use crate::sys::robust::Until;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// So many permits, shared by processes; first come, first served.
///
/// A permit given back goes straight to the one who has waited longest. What a process held when it died, by whatever and
/// at whatever instant, comes back within milliseconds, and whoever gets it is told by [`Abandoned`]. A clone, or what
/// arrives when it is sent, is another handle of the same semaphore.
///
/// As in Python it also serves for signalling: [`release`](Self::release) without a permit adds one, and
/// [`Permit::forget`] takes one away for good.
///
/// ```
/// use procession::{Process, Semaphore};
///
/// fn fetch(doors: Semaphore, n: u64) -> u64 {
///     let _permit = doors.acquire().expect("nobody dies in this example");
///     n * n // at most two at a time
/// }
///
/// let doors = Semaphore::new(2)?;
/// let children: Vec<_> = (0..4).map(|n| Process::new(fetch, (doors.clone(), n)).start()).collect::<Result<_, _>>()?;
/// let squares: Vec<u64> = children.into_iter().map(|child| child.join()).collect::<Result<_, _>>()?;
/// assert_eq!(squares, [0, 1, 4, 9]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Semaphore(Arc<Object>);

/// A [`Semaphore`] that never has more permits than it began with: to release one too many is an error.
#[derive(Clone)]
pub struct BoundedSemaphore(Arc<Object>);

/// One of a semaphore's permits; dropped, it goes back.
///
/// It belongs to the process, and may go from thread to thread.
#[must_use = "the permit goes back when it is dropped"]
pub struct Permit<'a> {
    object: &'a Object,
    slot: usize,
}

impl Permit<'_> {
    /// Keeps it taken, and nobody's: this process's death does not bring it back, `release` does.
    ///
    /// # Errors
    /// [`SyncError::Interrupted`].
    pub fn forget(self) -> Result<(), SyncError> {
        let inside = monitor::enter_at_last(self.object)?;
        permits::forget(inside.table(), self.slot);
        drop(inside);
        // Its slot is no longer ours to give back.
        let _ = std::mem::ManuallyDrop::new(self);
        Ok(())
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Ok(inside) = monitor::enter_at_last(self.object) {
            permits::give_back(inside.table(), self.slot, &mut inside.beds());
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

type Taken<'a> = Result<Option<Permit<'a>>, AcquireError<Permit<'a>>>;

fn permit(object: &Object, slot: usize, abandoned: bool) -> Taken<'_> {
    let permit = Permit { object, slot };
    if abandoned { Err(AcquireError::Abandoned(Abandoned::new(permit))) } else { Ok(Some(permit)) }
}

fn take(object: &Object, until: Until) -> Taken<'_> {
    let party = monitor::party(object)?;
    let mut sought = false;
    loop {
        let Some(inside) = monitor::enter(object, until)? else { return Ok(None) };
        let asked = permits::ask(inside.table(), party, until != Until::Now, &mut inside.beds());
        drop(inside);
        match asked {
            Ok(Asked::Got { slot, abandoned }) => return permit(object, slot, abandoned),
            Ok(Asked::InLine(slot)) => return wait(object, slot, until),
            // The dead may hold what there is.
            Ok(Asked::None) | Err(SyncError::TooManySleepers(_)) if !sought => {
                sought = true;
                monitor::bury(object, until, true)?;
            }
            Ok(Asked::None) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait(object: &Object, at: usize, until: Until) -> Taken<'_> {
    let table = object.table();
    loop {
        match monitor::sleep(object, at, until) {
            Woken::Turned(slot) => {
                let abandoned = match slot.state {
                    State::Chosen => false,
                    State::ChosenAbandoned => true,
                    _ => return Err(SyncError::Spoiled.into()),
                };
                table.turn(at, slot, State::Held);
                return permit(object, at, abandoned);
            }
            // If somebody chose us at this very moment, we have been.
            Woken::TimeUp(slot) if table.turn(at, slot, State::Free) => return Ok(None),
            Woken::Failed(slot, error) if table.turn(at, slot, State::Free) => return Err(error.into()),
            Woken::TimeUp(_) | Woken::Failed(..) => {}
        }
    }
}

macro_rules! semaphore {
    ($Semaphore:ident, $kind:expr, $release:literal) => {
        impl $Semaphore {
            /// A new one with so many permits.
            ///
            /// # Errors
            /// EMFILE, ENFILE, ENOMEM: each takes a descriptor and four pages of memory.
            pub fn new(permits: u64) -> io::Result<Self> {
                let fill = |object: &Object| {
                    object.table().set_value(permits);
                    object.table().set_limit(permits);
                };
                Ok(Self(Object::make($kind, fill)?))
            }

            /// Waits for a permit, and takes it.
            ///
            /// # Errors
            /// Its last holder died with it (the permit is inside), or this process could not wait safely.
            pub fn acquire(&self) -> Result<Permit<'_>, AcquireError<Permit<'_>>> {
                Ok(take(&self.0, Until::Forever)?.expect("only a deadline ends the wait"))
            }

            /// [`acquire`](Self::acquire) where it does not matter how the permit's last holder ended.
            ///
            /// # Errors
            /// This process could not wait safely.
            pub fn acquire_anyway(&self) -> Result<Permit<'_>, SyncError> {
                self.acquire().or_else(AcquireError::into_inner)
            }

            /// [`acquire`](Self::acquire) that waits for at most `limit`; `None` if there was none by then.
            ///
            /// # Errors
            /// As for `acquire`.
            pub fn acquire_timeout(
                &self,
                limit: Duration,
            ) -> Result<Option<Permit<'_>>, AcquireError<Permit<'_>>> {
                take(&self.0, Until::after(limit))
            }

            /// Takes a permit if there is one.
            ///
            /// # Errors
            /// As for `acquire`.
            #[doc(alias = "block=False")]
            pub fn try_acquire(&self) -> Result<Option<Permit<'_>>, AcquireError<Permit<'_>>> {
                take(&self.0, Until::Now)
            }

            #[doc = $release]
            pub fn release(&self) -> Result<(), SyncError> {
                let inside = monitor::enter_at_last(&self.0)?;
                let bounded = self.0.kind == Kind::BoundedSemaphore;
                permits::add(inside.table(), bounded, &mut inside.beds())
            }

            /// How many permits are to be had at this moment.
            #[doc(alias = "get_value")]
            #[must_use]
            pub fn value(&self) -> u64 {
                // Several words, read as one: nobody changes any of them in the gate.
                let _inside = monitor::enter(&self.0, Until::after(Duration::from_millis(100)));
                permits::left(self.0.table())
            }

            /// Is no permit to be had at this moment?
            #[must_use]
            pub fn locked(&self) -> bool {
                self.value() == 0
            }
        }

        impl fmt::Debug for $Semaphore {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($Semaphore)).field("value", &self.value()).finish()
            }
        }

        /// Within a message of procession; elsewhere an error.
        impl Serialize for $Semaphore {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.hand_over(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $Semaphore {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Object::take_over(deserializer, &[$kind]).map(Self)
            }
        }
    };
}

semaphore!(
    Semaphore,
    Kind::Semaphore,
    "Adds a permit, as a signal: one that nobody has to have acquired.\n\n# Errors\n[`SyncError::Interrupted`]; 2^64 permits."
);
semaphore!(
    BoundedSemaphore,
    Kind::BoundedSemaphore,
    "Adds a permit, in place of one that was acquired and [forgotten](Permit::forget).\n\n# Errors\n\
     [`SyncError::ReleasedTooOften`]: there would be more than at the start."
);
