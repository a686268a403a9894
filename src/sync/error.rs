//! What can come of taking something that processes share.

use std::fmt;
use std::io;

/// It is yours, and whoever had it before died with it: what it guards may be half done.
///
/// As with [`std::sync::PoisonError`] the guard is inside, and is let go with it; unlike poison it is told once, to the one
/// who comes next. By `?` in a function that returns `Box<dyn Error>` (`Send + Sync` or not) or [`io::Error`] the guard is let go and the
/// news go on; where what is guarded needs no care, there is [`acquire_anyway`](crate::Lock::acquire_anyway).
///
/// ```
/// fn add_line(lock: &procession::Lock) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     let _guard = lock.acquire()?;
///     Ok(())
/// }
/// # add_line(&procession::Lock::new().unwrap()).unwrap();
/// ```
#[doc(alias("PoisonError", "AbandonedMutexException"))]
pub struct Abandoned<G> {
    guard: G,
}

impl<G> Abandoned<G> {
    pub(super) const fn new(guard: G) -> Self {
        Self { guard }
    }

    /// The guard.
    pub fn into_inner(self) -> G {
        self.guard
    }

    /// A look at the guard.
    pub const fn get_ref(&self) -> &G {
        &self.guard
    }
}

impl<G> fmt::Debug for Abandoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<G> fmt::Display for Abandoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        WasAbandoned.fmt(f)
    }
}

/// The news of [`Abandoned`] without the guard, which has been let go: what becomes of it at a `?`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WasAbandoned;

impl fmt::Display for WasAbandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "whoever had it before died with it, so what it guards may be half done: look, and go on by \
             Abandoned::into_inner, or take it by acquire_anyway()",
        )
    }
}

impl std::error::Error for WasAbandoned {}

/// For functions that return [`io::Result`]; the guard is let go.
impl<G> From<Abandoned<G>> for io::Error {
    fn from(_: Abandoned<G>) -> Self {
        Self::other(WasAbandoned)
    }
}

// An error with a guard inside could not leave the function that borrows the lock. Only what is no `Error` itself may say what it becomes
// in a box.
macro_rules! let_go {
    ($Error:ident => $owned:expr) => {
        /// For `?`; the guard is let go.
        impl<G> From<$Error<G>> for Box<dyn std::error::Error> {
            fn from(error: $Error<G>) -> Self {
                $owned(error).into()
            }
        }

        /// For `?`; the guard is let go.
        impl<G> From<$Error<G>> for Box<dyn std::error::Error + Send + Sync> {
            fn from(error: $Error<G>) -> Self {
                $owned(error).into()
            }
        }
    };
}
let_go!(Abandoned => |_| WasAbandoned);
let_go!(AcquireError => io::Error::from);

/// Why something that processes share could not be used at all. Nothing has changed.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncError {
    /// So many processes use one object already.
    TooManyProcesses(usize),
    /// So many sleep at one object, or hold a permit of it, already.
    TooManySleepers(usize),
    /// It was released more often than acquired: only a plain semaphore may be.
    ReleasedTooOften,
    /// The guard is of another lock than the condition's.
    ForeignGuard,
    /// A process wrote into the object's memory what makes no sense there.
    Spoiled,
    /// It was used by a signal's handler, which had interrupted another use of it on the same thread.
    Interrupted,
    /// The system said no.
    System {
        /// What was being done.
        stage: &'static str,
        /// What the system said.
        errno: i32,
    },
}

impl SyncError {
    pub(super) fn system(stage: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { stage, errno: error.raw_os_error().unwrap_or(crate::sys::EIO) }
    }
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyProcesses(most) => {
                write!(f, "{most} processes use this object already; drop handles that are not needed, or make more objects")
            }
            Self::TooManySleepers(most) => {
                write!(f, "{most} sleep at this object or hold a permit of it already; make more objects, or fewer of these")
            }
            Self::ReleasedTooOften => {
                f.write_str("the semaphore was released more often than acquired; use a Semaphore, or forget() a permit first")
            }
            Self::ForeignGuard => f.write_str("the guard is of another lock; use the one of condition.acquire()"),
            Self::Spoiled => {
                f.write_str("the object's shared memory makes no sense; a process wrote where it should not: make a new object")
            }
            Self::Interrupted => f.write_str("a signal's handler used the object that it had interrupted; set an Event there"),
            Self::System { stage, errno } => {
                write!(f, "{stage}: {}", io::Error::from_raw_os_error(*errno))?;
                f.write_str(match *errno {
                    crate::sys::EMFILE => "; one descriptor is needed for each process to be watched: raise the limit (ulimit -n)",
                    crate::sys::ENOENT => "; mount /proc",
                    _ => "",
                })
            }
        }
    }
}

impl std::error::Error for SyncError {}

impl From<SyncError> for io::Error {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::System { errno, .. } => Self::from_raw_os_error(errno),
            other => Self::other(other),
        }
    }
}

/// What else than a plain success came of an attempt to acquire.
#[non_exhaustive]
pub enum AcquireError<G> {
    /// It is yours; see [`Abandoned`].
    Abandoned(Abandoned<G>),
    /// It is not.
    Failed(SyncError),
}

impl<G> AcquireError<G> {
    /// What was acquired, abandoned or not.
    ///
    /// # Errors
    /// It was not acquired.
    ///
    /// ```
    /// use procession::{AcquireError, Semaphore};
    ///
    /// let rooms = Semaphore::new(2)?;
    /// let permit = rooms.acquire().or_else(AcquireError::into_inner)?;
    /// # drop(permit);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_inner(self) -> Result<G, SyncError> {
        match self {
            Self::Abandoned(abandoned) => Ok(abandoned.into_inner()),
            Self::Failed(error) => Err(error),
        }
    }
}

impl<G> fmt::Debug for AcquireError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abandoned(abandoned) => abandoned.fmt(f),
            Self::Failed(error) => fmt::Debug::fmt(error, f),
        }
    }
}

impl<G> fmt::Display for AcquireError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abandoned(abandoned) => abandoned.fmt(f),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl<G> From<SyncError> for AcquireError<G> {
    fn from(error: SyncError) -> Self {
        Self::Failed(error)
    }
}

impl<G> From<AcquireError<G>> for io::Error {
    fn from(error: AcquireError<G>) -> Self {
        match error {
            AcquireError::Abandoned(abandoned) => abandoned.into(),
            AcquireError::Failed(error) => error.into(),
        }
    }
}

/// Why a barrier was not passed.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "BrokenBarrierError")]
pub enum BarrierError {
    /// A party died or ran out of time while it waited, or the barrier was aborted or reset.
    Broken,
    /// This party could not wait.
    Failed(SyncError),
}

impl fmt::Display for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken => f.write_str(
                "the barrier is broken: a party died or ran out of time there, or it was aborted or reset; reset() mends it",
            ),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BarrierError {}

impl From<SyncError> for BarrierError {
    fn from(error: SyncError) -> Self {
        Self::Failed(error)
    }
}

impl From<BarrierError> for io::Error {
    fn from(error: BarrierError) -> Self {
        match error {
            BarrierError::Broken => Self::other(error),
            BarrierError::Failed(error) => error.into(),
        }
    }
}

impl fmt::Debug for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
