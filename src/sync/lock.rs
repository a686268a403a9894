//! Mutual exclusion between processes, and between the threads of one.

use super::error::Abandoned;
use super::object::{Kind, Object};
use crate::sys::robust::{Locked, Until};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A lock between processes.
///
/// A clone, or what arrives when it is sent (as an argument, a result, or an item), is another handle of the same lock. A holder
/// that dies, by whatever and at whatever instant, does not keep it: who comes next gets it at once, and is told by
/// [`Abandoned`]. A thread that ends with a forgotten guard counts as dead.
///
/// Give handles only to processes that you trust: the C library follows pointers that lie in the memory of a lock, to its other holders' memory,
/// when it is released. A process that writes nonsense there on purpose can crash, or worse, who holds it.
///
/// Python's `Lock` has no owner: any process may release it, and nobody notices when its holder is gone. For
/// signalling use a [`Semaphore`](crate::Semaphore) or an [`Event`](crate::Event).
///
/// ```
/// use procession::{Lock, Process};
///
/// fn report(lock: Lock, who: u32) {
///     let _guard = lock.acquire_anyway(); // and lock.acquire()? to be told that a holder died with it
///     println!("{who} writes two lines,");
///     println!("and nobody else writes between them");
/// }
///
/// let lock = Lock::new()?;
/// let children: Vec<_> =
///     (0..3).map(|who| Process::new(report, (lock.clone(), who)).start()).collect::<Result<_, _>>()?;
/// for child in children {
///     child.join()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[doc(alias("Mutex", "SemLock"))]
pub struct Lock(Arc<Object>);

/// A lock that its holder, a thread, may acquire again and again; it is free when all the guards are gone.
///
/// All else is as with [`Lock`].
///
/// ```
/// let lock = procession::RLock::new()?;
/// let outer = lock.acquire()?;
/// let inner = lock.acquire()?;
/// drop(outer);
/// assert!(lock.locked());
/// drop(inner);
/// assert!(!lock.locked());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
#[doc(alias = "ReentrantLock")]
pub struct RLock(Arc<Object>);

/// Holds a lock; dropped, it releases it (of an [`RLock`], one level).
///
/// It belongs to the thread that acquired it.
#[must_use = "the lock is released when the guard is dropped"]
pub struct Guard<'a> {
    object: &'a Object,
    of_this_thread: PhantomData<*const ()>,
}

#[inline]
#[track_caller]
fn take(object: &Object, until: Until) -> Result<Option<Guard<'_>>, Abandoned<Guard<'_>>> {
    let guard = || Guard { object, of_this_thread: PhantomData };
    match object.mutex().lock(until) {
        Locked::Free => {
            object.depth().store(object.depth().load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            Ok(Some(guard()))
        }
        Locked::Busy => Ok(None),
        Locked::Abandoned => {
            object.depth().store(1, Ordering::Relaxed);
            Err(Abandoned::new(guard()))
        }
        Locked::Mine if until == Until::Now => Ok(None),
        Locked::Mine => own_deadlock(),
    }
}

/// std leaves open whether it panics or hangs; to hang is worse.
#[cold]
#[track_caller]
#[expect(
    clippy::panic,
    reason = "a mistake in the calling program, which would otherwise wait for itself for ever"
)]
fn own_deadlock() -> ! {
    panic!(
        "this thread has the lock already and would wait for itself; use an RLock, or drop the first guard"
    )
}

/// Whoever waits without end gets it.
#[inline]
fn certain<'a>(
    taken: Result<Option<Guard<'a>>, Abandoned<Guard<'a>>>,
) -> Result<Guard<'a>, Abandoned<Guard<'a>>> {
    Ok(taken?.expect("only a deadline ends the wait"))
}

macro_rules! lock {
    ($Lock:ident, $kind:expr, $again:literal) => {
        impl $Lock {
            /// A new one, free.
            ///
            /// # Errors
            /// EMFILE, ENFILE, ENOMEM: each takes a descriptor and a page of memory.
            pub fn new() -> io::Result<Self> {
                Ok(Self(Object::make($kind, |_| ())?))
            }

            /// Waits until it is free, and takes it.
            ///
            /// # Errors
            /// Its last holder died with it; the guard is inside.
            ///
            #[doc = $again]
            #[inline]
            #[track_caller]
            pub fn acquire(&self) -> Result<Guard<'_>, Abandoned<Guard<'_>>> {
                certain(take(&self.0, Until::Forever))
            }

            /// [`acquire`](Self::acquire) where it does not matter how the last holder ended: what the lock guards needs no care.
            ///
            #[doc = $again]
            #[inline]
            #[track_caller]
            pub fn acquire_anyway(&self) -> Guard<'_> {
                self.acquire().unwrap_or_else(Abandoned::into_inner)
            }

            /// [`acquire`](Self::acquire) that waits for at most `limit`; `None` if it was not free by then.
            ///
            /// # Errors
            /// As for `acquire`.
            ///
            #[doc = $again]
            #[track_caller]
            pub fn acquire_timeout(
                &self,
                limit: Duration,
            ) -> Result<Option<Guard<'_>>, Abandoned<Guard<'_>>> {
                take(&self.0, Until::after(limit))
            }

            /// Takes it if it is free.
            ///
            /// # Errors
            /// As for `acquire`.
            #[doc(alias = "block=False")]
            pub fn try_acquire(&self) -> Result<Option<Guard<'_>>, Abandoned<Guard<'_>>> {
                take(&self.0, Until::Now)
            }

            /// Does anybody hold it at this moment, this thread included? By the time one looks at the answer it may be otherwise.
            #[must_use]
            pub fn locked(&self) -> bool {
                self.0.mutex().is_locked()
            }

            pub(super) fn object(&self) -> &Arc<Object> {
                &self.0
            }
        }

        impl fmt::Debug for $Lock {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($Lock)).field("locked", &self.locked()).finish()
            }
        }

        /// Within a message of procession; elsewhere an error.
        impl Serialize for $Lock {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.hand_over(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $Lock {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Object::take_over(deserializer, &[$kind]).map(Self)
            }
        }
    };
}

lock!(Lock, Kind::Lock, "# Panics\nThis thread holds it already: it would wait for itself.");
lock!(RLock, Kind::RLock, "");

/// Either lock, for what stands on one.
#[derive(Debug, Clone)]
pub(super) enum AnyLock {
    Once(Lock),
    Again(RLock),
}

impl AnyLock {
    pub(super) fn object(&self) -> &Arc<Object> {
        match self {
            Self::Once(lock) => lock.object(),
            Self::Again(lock) => lock.object(),
        }
    }

    pub(super) fn acquire(&self, until: Until) -> Result<Option<Guard<'_>>, Abandoned<Guard<'_>>> {
        take(self.object(), until)
    }

    pub(super) fn acquire_for_ever(&self) -> Result<Guard<'_>, Abandoned<Guard<'_>>> {
        certain(self.acquire(Until::Forever))
    }

    pub(super) fn take_over<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::take_over(deserializer, &[Kind::Lock, Kind::RLock])?;
        Ok(if object.kind == Kind::Lock { Self::Once(Lock(object)) } else { Self::Again(RLock(object)) })
    }
}

impl Guard<'_> {
    pub(super) fn is_of(&self, object: &Object) -> bool {
        std::ptr::eq(self.object, object)
    }

    /// Runs `body` without the lock, all of its levels, and takes them again. True if it was abandoned meanwhile.
    pub(super) fn suspend(&mut self, body: impl FnOnce()) -> bool {
        let (mutex, depth) = (self.object.mutex(), self.object.depth());
        let levels = depth.swap(0, Ordering::Relaxed);
        for _ in 0..levels {
            mutex.unlock();
        }
        body();
        let abandoned = mutex.lock(Until::Forever) == Locked::Abandoned;
        for _ in 1..levels {
            mutex.lock(Until::Forever);
        }
        depth.store(levels, Ordering::Relaxed);
        abandoned
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        let depth = self.object.depth();
        let left = depth.load(Ordering::Relaxed).saturating_sub(1);
        depth.store(left, Ordering::Relaxed);
        if !self.object.mutex().unlock() {
            // Its memory was spoiled: it is in this thread's list of locks for good, and must stay mapped.
            depth.store(left + 1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}
