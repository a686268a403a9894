//! A row of values that processes share.

use super::frozen::{FreezeError, FrozenArray};
use super::{OutOfBounds, refused, size_of_all, ticket};
use procession_worker::Plain;
use procession_worker::sys::plain::{bytes_of, bytes_of_mut, value_by, vec_by};
use procession_worker::sys::segment::{Segment, Unit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// A row of values, of fixed length, in memory that processes share. What can lie in it says [`Plain`].
///
/// Clones are handles to the same memory, in this process and in any that a handle is sent to: what travels is a
/// descriptor, never the values.
///
/// ```
/// use procession::{Array, Pool};
///
/// fn square(squares: Array<u64>, n: usize) -> std::io::Result<()> {
///     Ok(squares.set(n, (n * n) as u64)?)
/// }
///
/// let squares = Array::<u64>::zeroed(5)?;
/// let pool = Pool::new(2)?;
/// pool.starmap(|a: Array<u64>, n: usize| square(a, n).is_ok(), (0..5).map(|n| (squares.clone(), n)))?;
/// assert_eq!(squares.to_vec(), [0, 1, 4, 9, 16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// There are no references to its values, since any process may write them at any time; they are read and written by value
/// or copied in bulk, at the speed of `memcpy`. A value of 1, 2, 4 or 8 bytes is always read as somebody wrote it. A larger one
/// may be read while it is written, and then be old in one part and new in another (each aligned 8 bytes of it, or 4
/// if its size is no multiple of 8, are whole), and so may a bulk copy from one value to the next: where that matters, hold a
/// lock, or use a [`Value`](super::Value). Who sees a value also sees what its writer wrote before.
///
/// For large input that nobody changes, [`freeze`](Self::freeze) it: a [`FrozenArray`] is a plain slice in every process.
///
/// Each array holds an open descriptor; its memory is there from the start.
#[doc(alias("RawArray", "sharedctypes", "ShareableList"))]
pub struct Array<T> {
    segment: Arc<Segment>,
    kind: PhantomData<T>,
}

impl<T: Plain> Array<T> {
    /// The values given: `Array::new([1, 2, 3])`, of a `Vec` or a slice.
    ///
    /// # Errors
    /// No memory for it, which is known here and not when it is written to; too many open descriptors.
    pub fn new(values: impl AsRef<[T]>) -> io::Result<Self> {
        const { assert!(size_of::<T>() > 0, "values without bytes need no sharing") };
        let segment = Segment::holding(c"procession-array", bytes_of(values.as_ref())).map_err(refused)?;
        Ok(Self::over(segment))
    }

    /// So many zeroes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn zeroed(len: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>() > 0, "values without bytes need no sharing") };
        let segment = Segment::zeroed(c"procession-array", size_of_all::<T>(len)?).map_err(refused)?;
        Ok(Self::over(segment))
    }

    fn over(segment: Segment) -> Self {
        Self { segment: Arc::new(segment), kind: PhantomData }
    }

    /// How many values it has; this never changes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.segment.len() / size_of::<T>()
    }

    /// Has it none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segment.is_empty()
    }

    /// The value at `index`; `None` beyond the end.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<T> {
        (index < self.len())
            .then(|| value_by(|raw| self.segment.load(Unit::of::<T>(), index * size_of::<T>(), raw)))
    }

    /// Makes the value at `index` this one.
    ///
    /// # Errors
    /// `index` is beyond the end.
    #[inline]
    pub fn set(&self, index: usize, value: T) -> Result<(), OutOfBounds> {
        OutOfBounds::check(index, 1, self.len())?;
        self.segment.store(Unit::of::<T>(), index * size_of::<T>(), bytes_of(&[value]));
        Ok(())
    }

    /// Makes the value at `index` `f` of what it is, as one step, and gives what it was. Of values of 1, 2, 4 or 8 bytes; any other
    /// does not compile.
    ///
    /// `f` may be called more than once, so it should do nothing else.
    ///
    /// ```
    /// # use procession::Array;
    /// let histogram = Array::<u32>::zeroed(10)?;
    /// histogram.update(3, |count| count + 1)?;
    /// assert_eq!(histogram.get(3), Some(1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// `index` is beyond the end.
    #[inline]
    pub fn update(&self, index: usize, f: impl FnMut(T) -> T) -> Result<T, OutOfBounds> {
        OutOfBounds::check(index, 1, self.len())?;
        Ok(self.segment.update(index * size_of::<T>(), f))
    }

    /// Copies values from `start` on, as many as `out` has.
    ///
    /// # Errors
    /// Not all of them lie inside; then nothing is copied.
    pub fn copy_to_slice(&self, start: usize, out: &mut [T]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(start, out.len(), self.len())?;
        if let Some(bytes) = bytes_of_mut(out) {
            self.segment.load(Unit::of::<T>(), start * size_of::<T>(), bytes);
        } else {
            out.iter_mut().zip(start..).for_each(|(out, index)| *out = self.at(index));
        }
        Ok(())
    }

    /// Copies `values` to `start` and on.
    ///
    /// # Errors
    /// Not all of them lie inside; then nothing is copied.
    pub fn copy_from_slice(&self, start: usize, values: &[T]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(start, values.len(), self.len())?;
        self.segment.store(Unit::of::<T>(), start * size_of::<T>(), bytes_of(values));
        Ok(())
    }

    /// A copy of all values.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        vec_by(self.len(), |bytes| self.segment.load(Unit::of::<T>(), 0, bytes))
    }

    /// A copy of some values: `array.range(10..20)?`.
    ///
    /// # Errors
    /// Not all of them lie inside.
    pub fn range(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>, OutOfBounds> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len().max(start),
        };
        let count = end.saturating_sub(start);
        OutOfBounds::check(start, count, self.len())?;
        Ok(vec_by(count, |bytes| self.segment.load(Unit::of::<T>(), start * size_of::<T>(), bytes)))
    }

    /// Makes every value this one.
    pub fn fill(&self, value: T) {
        // A piece at a time, which the processor's cache holds.
        let piece = vec![value; (16_usize << 10).div_ceil(size_of::<T>()).min(self.len())];
        for start in (0..self.len()).step_by(piece.len().max(1)) {
            let count = piece.len().min(self.len() - start);
            self.segment.store(Unit::of::<T>(), start * size_of::<T>(), bytes_of(&piece[..count]));
        }
    }

    /// All values, each read when its turn comes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + DoubleEndedIterator + '_ {
        (0..self.len()).map(|index| self.at(index))
    }

    #[inline]
    fn at(&self, index: usize) -> T {
        value_by(|raw| self.segment.load(Unit::of::<T>(), index * size_of::<T>(), raw))
    }

    /// Makes it unchangeable, for ever and in every process, and so a slice. Nothing is copied.
    ///
    /// ```
    /// # use procession::Array;
    /// let numbers = Array::<f64>::zeroed(1000)?;
    /// numbers.set(1, 1.5)?;
    /// let numbers = numbers.freeze()?;
    /// assert_eq!(numbers[..2], [0.0, 1.5]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// Somebody could still write to it: there is another handle, here or in another process. The error gives the array
    /// back. A pool's worker has dropped its handle when its task has been answered.
    pub fn freeze(self) -> Result<FrozenArray<T>, FreezeError<Self>> {
        match Arc::try_unwrap(self.segment) {
            Ok(segment) => segment
                .freeze()
                .map(FrozenArray::over)
                .map_err(|(error, segment)| FreezeError::new(error, segment.map(Self::over))),
            Err(segment) => Err(FreezeError::new(
                io::ErrorKind::ResourceBusy.into(),
                Some(Self { segment, kind: PhantomData }),
            )),
        }
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self { segment: Arc::clone(&self.segment), kind: PhantomData }
    }
}

impl<T: Plain> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Only in a message of this crate; anywhere else it is an error.
impl<T: Plain> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        ticket::give(self.segment.file(), self.segment.len(), size_of::<T>(), to)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        const { assert!(size_of::<T>() > 0, "values without bytes need no sharing") };
        let (file, ticket) = ticket::take(size_of::<T>(), from)?;
        Segment::arrived(file, ticket.number, ticket.len)
            .map(Self::over)
            .map_err(|error| D::Error::custom(refused(error)))
    }
}
