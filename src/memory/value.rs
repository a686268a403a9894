//! One value that processes share.

use super::{refused, ticket};
use procession_worker::Plain;
use procession_worker::sys::plain::{bytes_of, value_by};
use procession_worker::sys::segment::{FileLock, Segment, Unit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One value in memory that processes share: a number, a `bool`, an array or struct of numbers ([`Plain`]).
///
/// Clones are handles to the same value, in this process and in any that a handle is sent to, as an argument, a result or an item.
/// All operations are atomic, and all processes see them in one order. There is no lock to hold, so there is none
/// that a killed process could keep: what was `v.value += 1` under `v.get_lock()` in Python is
/// [`update`](Self::update) (or `fetch_add`, for numbers).
///
/// ```
/// use procession::{Pool, Value};
///
/// fn count(hits: Value<u64>, n: u64) {
///     if n % 3 == 0 {
///         hits.fetch_add(1);
///     }
/// }
///
/// let hits = Value::new(0_u64)?;
/// let pool = Pool::new(2)?;
/// pool.starmap(count, (0..30).map(|n| (hits.clone(), n)))?;
/// assert_eq!(hits.get(), 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Up to 8 bytes it is one atomic word. A larger value is written beside the old one, and then takes its place in one
/// step: whoever is killed in the middle leaves the old value, whole. Writers of such a value pass a lock that the system
/// takes from a process that dies; readers do not wait for it.
///
/// Each value holds an open descriptor (a value of more than 8 bytes: two) and a page of memory; of many, make an
/// [`Array`](super::Array).
#[doc(alias("RawValue", "sharedctypes", "get_lock", "Synchronized"))]
pub struct Value<T> {
    cell: Arc<Cell>,
    kind: PhantomData<T>,
}

struct Cell {
    segment: Segment,
    /// Only values of more than a word need one.
    writers: Option<Writers>,
}

struct Writers {
    threads: Mutex<()>,
    processes: FileLock,
}

impl Writers {
    fn one_at_a_time<R>(&self, body: impl FnOnce() -> R) -> R {
        let _alone_here = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        self.processes.hold(body)
    }
}

impl Cell {
    fn new<T>(segment: Segment) -> io::Result<Self> {
        let writers = if size_of::<T>() > WORD {
            Some(Writers { threads: Mutex::new(()), processes: FileLock::new(segment.file())? })
        } else {
            None
        };
        Ok(Self { segment, writers })
    }

    /// A small value itself; of a large one, how often it was written.
    #[inline]
    fn word(&self) -> &AtomicU64 {
        self.segment.word(0)
    }
}

const WORD: usize = 8;
/// Where the two places of a large value begin.
const PLACES: usize = 64;
/// So often a reader tries to get a value between two writes, before it waits for its turn.
const TRIES: u32 = 64;

/// A place is a whole number of words, so that the two share none.
const fn place<T>(version: u64) -> usize {
    PLACES + if version.is_multiple_of(2) { 0 } else { size_of::<T>().next_multiple_of(8) }
}

const fn whole<T>() -> usize {
    if size_of::<T>() <= WORD { WORD } else { PLACES + 2 * size_of::<T>().next_multiple_of(8) }
}

#[inline]
fn to_word<T: Plain>(value: T) -> u64 {
    let mut word = [0; WORD];
    word[..size_of::<T>()].copy_from_slice(bytes_of(&[value]));
    u64::from_ne_bytes(word)
}

#[inline]
fn from_word<T: Plain>(word: u64) -> T {
    value_by(|raw| raw.copy_from_slice(&word.to_ne_bytes()[..size_of::<T>()]))
}

impl<T: Plain> Value<T> {
    /// A new one.
    ///
    /// # Errors
    /// Too many open descriptors, or no memory.
    pub fn new(value: T) -> io::Result<Self> {
        const { assert!(size_of::<T>() > 0, "a value without bytes needs no sharing") };
        let segment = Segment::zeroed(c"procession-value", whole::<T>()).map_err(refused)?;
        let fresh = Self { cell: Arc::new(Cell::new::<T>(segment).map_err(refused)?), kind: PhantomData };
        fresh.set(value);
        Ok(fresh)
    }

    /// What it is now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> T {
        match &self.cell.writers {
            None => from_word(self.cell.word().load(Ordering::SeqCst)),
            Some(writers) => self.look(writers).1,
        }
    }

    /// Makes it `value`.
    #[inline]
    pub fn set(&self, value: T) {
        match &self.cell.writers {
            None => self.cell.word().store(to_word(value), Ordering::SeqCst),
            Some(writers) => {
                writers.one_at_a_time(|| self.write(value));
            }
        }
    }

    /// Makes it `value`, and gives what it was.
    #[inline]
    pub fn swap(&self, value: T) -> T {
        match &self.cell.writers {
            None => from_word(self.cell.word().swap(to_word(value), Ordering::SeqCst)),
            Some(_) => self.update(|_| value),
        }
    }

    /// Makes it `f` of what it is, as one step, and gives what it was.
    ///
    /// No other write comes between the look and the change. For that, `f` may be called more than once, so it should do
    /// nothing else; it runs under no lock, may take its time, and may panic: then nothing is changed.
    ///
    /// ```
    /// # use procession::Value;
    /// let best = Value::new(1.5_f64)?;
    /// best.update(|best| best.max(2.5));
    /// assert_eq!(best.get(), 2.5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn update(&self, mut f: impl FnMut(T) -> T) -> T {
        self.try_update(|value| Some(f(value))).unwrap_or_else(|value| value)
    }

    /// As [`update`](Self::update), unless `f` says `None`: then nothing is changed, and what it is comes as the error.
    ///
    /// # Errors
    /// What it is, if `f` said `None` to it.
    #[inline]
    pub fn try_update(&self, mut f: impl FnMut(T) -> Option<T>) -> Result<T, T> {
        match &self.cell.writers {
            None => self
                .cell
                .word()
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| f(from_word(word)).map(to_word))
                .map(from_word)
                .map_err(from_word),
            Some(writers) => loop {
                let (version, before) = self.look(writers);
                let Some(after) = f(before) else { return Err(before) };
                let unchanged = || self.cell.word().load(Ordering::Acquire) == version;
                if writers.one_at_a_time(|| unchanged() && self.write(after)) {
                    return Ok(before);
                }
            },
        }
    }

    /// Makes it `new` if it is `current`, byte by byte (so a NaN may be equal to itself, and 0.0 is not -0.0).
    ///
    /// # Errors
    /// What it is instead.
    #[inline]
    pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        self.try_update(|value| (bytes_of(&[value]) == bytes_of(&[current])).then_some(new))
    }

    /// A large value, with how often it was written.
    fn look(&self, writers: &Writers) -> (u64, T) {
        let read =
            |version| value_by(|raw| self.cell.segment.load(Unit::of::<T>(), place::<T>(version), raw));
        for _ in 0..TRIES {
            let version = self.cell.word().load(Ordering::SeqCst);
            let value = read(version);
            // The place is written again only after the other one has become valid, which changes the word.
            if self.cell.word().load(Ordering::Relaxed) == version {
                return (version, value);
            }
        }
        writers.one_at_a_time(|| {
            let version = self.cell.word().load(Ordering::SeqCst);
            (version, read(version))
        })
    }

    /// Writes a large value to the place that nobody reads, and then makes that the valid one.
    fn write(&self, value: T) -> bool {
        let next = self.cell.word().load(Ordering::Acquire).wrapping_add(1);
        self.cell.segment.store(Unit::of::<T>(), place::<T>(next), bytes_of(&[value]));
        self.cell.word().store(next, Ordering::SeqCst);
        true
    }
}

macro_rules! integers {
    ($($number:ident)*) => {$(
        impl Value<$number> {
            /// Adds, and gives what it was; wraps around at the type's bounds, as std's atomics do.
            #[inline]
            pub fn fetch_add(&self, n: $number) -> $number {
                if size_of::<$number>() == WORD {
                    return from_word(self.cell.word().fetch_add(to_word(n), Ordering::SeqCst));
                }
                self.update(|value| value.wrapping_add(n))
            }

            /// Subtracts, and gives what it was; wraps around at the type's bounds, as std's atomics do.
            #[inline]
            pub fn fetch_sub(&self, n: $number) -> $number {
                if size_of::<$number>() == WORD {
                    return from_word(self.cell.word().fetch_sub(to_word(n), Ordering::SeqCst));
                }
                self.update(|value| value.wrapping_sub(n))
            }
        }
    )*};
}
integers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

macro_rules! floats {
    ($($number:ident)*) => {$(
        impl Value<$number> {
            /// Adds, and gives what it was.
            #[inline]
            pub fn fetch_add(&self, n: $number) -> $number {
                self.update(|value| value + n)
            }

            /// Subtracts, and gives what it was.
            #[inline]
            pub fn fetch_sub(&self, n: $number) -> $number {
                self.update(|value| value - n)
            }
        }
    )*};
}
floats!(f32 f64);

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self { cell: Arc::clone(&self.cell), kind: PhantomData }
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Value").field(&self.get()).finish()
    }
}

/// Only in a message of this crate; anywhere else it is an error.
impl<T: Plain> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        ticket::give(self.cell.segment.file(), self.cell.segment.len(), size_of::<T>(), to)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let (file, ticket) = ticket::take(size_of::<T>(), from)?;
        let cell = Segment::arrived(file, ticket.number, whole::<T>())
            .and_then(Cell::new::<T>)
            .map_err(|error| D::Error::custom(refused(error)))?;
        Ok(Self { cell: Arc::new(cell), kind: PhantomData })
    }
}
