//! Mutexes between processes whose owner's death the kernel tells to whoever comes next.
#![allow(unsafe_code, reason = "the cellar")]

use libc::{c_int, clockid_t, pthread_mutex_t, pthread_mutexattr_t, timespec};
use procession_worker::sys::life::now;
use procession_worker::sys::memory::Mapping;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

unsafe extern "C" {
    // glibc 2.30; the libc package does not name it.
    fn pthread_mutex_clocklock(
        mutex: *mut pthread_mutex_t,
        clock: clockid_t,
        until: *const timespec,
    ) -> c_int;
}

/// What came of an attempt to lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locked {
    /// Ours.
    Free,
    /// Ours, and whoever had it died with it; or its memory was spoiled, and is as new.
    Abandoned,
    /// Somebody else has it.
    Busy,
    /// The calling thread has it already.
    Mine,
}

/// How long to wait for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Not at all.
    Now,
    /// To this moment, in nanoseconds on the monotonic clock.
    Time(u64),
    /// As long as it takes.
    Forever,
}

impl Until {
    /// So long from now on.
    pub(crate) fn after(limit: std::time::Duration) -> Self {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Self::Time(now().saturating_add(limit))
    }

    /// Has the moment come?
    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::Now => true,
            Self::Time(nanos) => now() >= nanos,
            Self::Forever => false,
        }
    }
}

/// A moment on the monotonic clock, as the system writes it.
pub(super) fn timespec_of(nanos: u64) -> timespec {
    let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    timespec { tv_sec: part(nanos / 1_000_000_000), tv_nsec: part(nanos % 1_000_000_000) }
}

/// Which rule a mutex follows: its attributes, made once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Locked once; its owner's second attempt is an error.
    Once,
    /// Locked again and again by its owner.
    Recursive,
}

/// glibc keeps the kind of a mutex as an int at this byte, on every 64-bit Linux.
const KIND: usize = 16;
/// Robust (16), shared between processes (128), and the rule.
const ROBUST_SHARED: c_int = 16 | 128;

/// A mutex at a fixed place of a mapping.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Robust<'a> {
    mapping: &'a Mapping,
    at: usize,
    rule: Rule,
}

impl<'a> Robust<'a> {
    /// The mutex at byte `at`, a multiple of 64.
    #[inline]
    pub(crate) const fn new(mapping: &'a Mapping, at: usize, rule: Rule) -> Self {
        Self { mapping, at, rule }
    }

    #[inline]
    fn raw(&self) -> *mut pthread_mutex_t {
        self.mapping.place(self.at, size_of::<pthread_mutex_t>()).as_ptr().cast()
    }

    #[inline]
    const fn kind(&self) -> c_int {
        ROBUST_SHARED
            | match self.rule {
                Rule::Once => libc::PTHREAD_MUTEX_ERRORCHECK,
                Rule::Recursive => libc::PTHREAD_MUTEX_RECURSIVE,
            }
    }

    /// Makes it anew, free.
    ///
    /// # Errors
    /// A C library that knows no such mutexes.
    pub(crate) fn make(&self) -> io::Result<()> {
        let mut attributes = MaybeUninit::<pthread_mutexattr_t>::uninit();
        let at = attributes.as_mut_ptr();
        // SAFETY: it has room for the attributes; the calls after it get them initialised.
        check(unsafe { libc::pthread_mutexattr_init(at) })?;
        // SAFETY: initialised above.
        check(unsafe { libc::pthread_mutexattr_setpshared(at, libc::PTHREAD_PROCESS_SHARED) })?;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_setrobust(at, libc::PTHREAD_MUTEX_ROBUST) })?;
        let rule = self.kind() & !ROBUST_SHARED;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_settype(at, rule) })?;
        // SAFETY: the place is ours, inside the mapping, aligned, and large enough.
        check(unsafe { libc::pthread_mutex_init(self.raw(), at) })?;
        // SAFETY: initialised above, used no more.
        check(unsafe { libc::pthread_mutexattr_destroy(at) })
    }

    /// Locks it.
    #[inline]
    pub(crate) fn lock(&self, until: Until) -> Locked {
        if self.is_of_its_kind() {
            // SAFETY: the memory is mapped, and stays so while locked (`Object` sees to that); it holds a mutex of the
            // right kind, whose words are read as numbers until it is ours.
            let answer = unsafe { libc::pthread_mutex_trylock(self.raw()) };
            if answer == 0 {
                return Locked::Free;
            }
            if answer != libc::EBUSY || until == Until::Now {
                return self.other_than_free(answer, until);
            }
            for pauses in [8, 16, 32, 64] {
                if !self.spin(pauses) {
                    break;
                }
                // SAFETY: as above.
                match unsafe { libc::pthread_mutex_trylock(self.raw()) } {
                    0 => return Locked::Free,
                    libc::EBUSY => {}
                    other => return self.other_than_free(other, until),
                }
            }
        }
        self.lock_slowly(until)
    }

    /// A lock is mostly held for less than going to sleep takes: true if it was let go; if others sleep already, it is not
    /// worth while. The pauses leave its memory to whoever has it.
    fn spin(&self, pauses: u32) -> bool {
        for _ in 0..8 {
            for _ in 0..pauses {
                std::hint::spin_loop();
            }
            let seen = self.word().load(Ordering::Relaxed);
            if seen & libc::FUTEX_TID_MASK == 0 {
                return true;
            }
            if seen & libc::FUTEX_WAITERS != 0 {
                return false;
            }
        }
        false
    }

    #[cold]
    fn lock_slowly(&self, until: Until) -> Locked {
        if !self.is_of_its_kind() {
            return self.remake(until);
        }
        let answer = match until {
            // SAFETY: as in `lock`.
            Until::Forever => unsafe { libc::pthread_mutex_lock(self.raw()) },
            // SAFETY: as in `lock`.
            Until::Now => unsafe { libc::pthread_mutex_trylock(self.raw()) },
            Until::Time(nanos) => {
                let time = timespec_of(nanos);
                // SAFETY: as in `lock`; the time is ours.
                unsafe { pthread_mutex_clocklock(self.raw(), libc::CLOCK_MONOTONIC, &raw const time) }
            }
        };
        if answer == 0 { Locked::Free } else { self.other_than_free(answer, until) }
    }

    #[cold]
    fn other_than_free(&self, answer: c_int, until: Until) -> Locked {
        match answer {
            libc::EBUSY | libc::ETIMEDOUT => Locked::Busy,
            libc::EDEADLK => Locked::Mine,
            libc::EOWNERDEAD => {
                // SAFETY: ours since the call above, which said that it is inconsistent.
                unsafe { libc::pthread_mutex_consistent(self.raw()) };
                Locked::Abandoned
            }
            // Not recoverable, too often recursive, no mutex at all: none of it is ever our doing.
            _ => self.remake(until),
        }
    }

    #[inline]
    fn is_of_its_kind(&self) -> bool {
        let kind = self.mapping.half(self.at + KIND).load(Ordering::Relaxed);
        kind.cast_signed() == self.kind()
    }

    /// Somebody wrote nonsense where the mutex was. Who still has it, if anybody, is beyond knowing.
    #[cold]
    fn remake(&self, until: Until) -> Locked {
        let _ = self.make();
        // SAFETY: just made.
        match unsafe { libc::pthread_mutex_trylock(self.raw()) } {
            0 => Locked::Abandoned,
            libc::EBUSY if until == Until::Now => Locked::Busy,
            _ => self.lock(until),
        }
    }

    /// Unlocks it once; false if the calling thread does not have it.
    #[inline]
    pub(crate) fn unlock(&self) -> bool {
        // SAFETY: the memory is mapped; a mutex of this kind checks its owner, and leaves what is not ours alone.
        unsafe { libc::pthread_mutex_unlock(self.raw()) == 0 }
    }

    /// Does any thread of any process have it at this moment?
    pub(crate) fn is_locked(&self) -> bool {
        self.word().load(Ordering::Relaxed) & libc::FUTEX_TID_MASK != 0
    }

    /// The first word is the futex; what it says is the kernel's protocol for robust ones.
    #[inline]
    fn word(&self) -> &AtomicU32 {
        self.mapping.half(self.at)
    }
}

fn check(answer: c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(answer)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use procession_worker::sys::memory::memfd;
    use std::time::Duration;

    fn mapping() -> Mapping {
        Mapping::new(memfd(c"robust", 4096).unwrap(), 4096).unwrap()
    }

    #[test]
    fn glibc_lays_a_mutex_out_as_we_read_it() {
        let mapping = mapping();
        for rule in [Rule::Once, Rule::Recursive] {
            let mutex = Robust::new(&mapping, 64, rule);
            mutex.make().unwrap();
            assert!(mutex.is_of_its_kind());
            assert!(!mutex.is_locked());
            assert_eq!(mutex.lock(Until::Now), Locked::Free);
            assert!(mutex.is_locked());
            let again = if rule == Rule::Once { Locked::Mine } else { Locked::Free };
            assert_eq!(mutex.lock(Until::Forever), again);
            assert!(again == Locked::Mine || mutex.unlock());
            assert!(mutex.unlock());
            assert!(!mutex.unlock(), "only its owner unlocks it");
            assert!(!mutex.is_locked());
        }
    }

    #[test]
    fn the_death_of_its_owner_is_told_once() {
        let mapping = mapping();
        let mutex = Robust::new(&mapping, 64, Rule::Once);
        mutex.make().unwrap();
        std::thread::scope(|scope| {
            // Joined: at the mere end of a scope the system may not be done with its threads.
            scope.spawn(|| assert_eq!(mutex.lock(Until::Forever), Locked::Free)).join().unwrap();
        });
        assert!(!mutex.is_locked());
        assert_eq!(mutex.lock(Until::Forever), Locked::Abandoned);
        assert!(mutex.unlock());
        assert_eq!(mutex.lock(Until::after(Duration::from_secs(1))), Locked::Free);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(mutex.lock(Until::Now), Locked::Busy);
                assert_eq!(mutex.lock(Until::after(Duration::from_millis(5))), Locked::Busy);
            });
        });
        assert!(mutex.unlock());
    }

    #[test]
    fn nonsense_in_its_kind_is_mended() {
        let mapping = mapping();
        let mutex = Robust::new(&mapping, 64, Rule::Once);
        mapping.write(64, &[0x5a; 40]);
        assert_eq!(mutex.lock(Until::Forever), Locked::Abandoned);
        assert!(mutex.unlock());
        assert_eq!(mutex.lock(Until::Forever), Locked::Free);
        assert!(mutex.unlock());
    }
}
