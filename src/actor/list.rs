//! A list that processes share.

use super::Actor;
use crate::error::{SpawnError, TaskError};
use procession_worker::method::Method;
use procession_worker::sys::image;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A `Vec` in a process of its own, called from anywhere: Python's `Manager().list()`.
///
/// Each method is one step, also [`update`](Self::update), which changes a value where it is. What is given out are copies. For
/// anything that is missing here (`sort`, `retain` …), [`actor`](Self::actor) takes any function on the `Vec`.
///
/// ```
/// use procession::{List, Pool};
///
/// let list = List::<u64>::new()?;
/// let pool = Pool::new(2)?;
/// pool.starmap(|list: List<u64>, n: u64| list.push(n * n).is_ok(), (0..4).map(|n| (list.clone(), n)))?;
/// list.actor().call(|list: &mut Vec<u64>| list.sort(), ())?;
/// assert_eq!(list.to_vec()?, [0, 1, 4, 9]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of [`Actor::call`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "", transparent)]
#[doc(alias("Manager", "ListProxy", "ShareableList"))]
#[must_use = "dropped by its last holder, the list is gone"]
pub struct List<T>(Actor<Vec<T>>);

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone + Serialize + DeserializeOwned + 'static> List<T> {
    /// An empty one.
    ///
    /// # Errors
    /// As [`Actor::start`].
    pub fn new() -> Result<Self, SpawnError> {
        Actor::start(Vec::<T>::new).map(Self)
    }

    /// The actor that has it.
    pub const fn actor(&self) -> &Actor<Vec<T>> {
        &self.0
    }

    /// Adds a value at the end.
    ///
    /// # Errors
    /// As [`Actor::call`].
    #[doc(alias = "append")]
    pub fn push(&self, value: T) -> Result<(), TaskError> {
        self.0.call(|list: &mut Vec<T>, value: T| list.push(value), (value,))
    }

    /// Takes the last value.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn pop(&self) -> Result<Option<T>, TaskError> {
        self.0.call(|list: &mut Vec<T>| list.pop(), ())
    }

    /// Adds values at the end, all at once.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn extend(&self, values: impl IntoIterator<Item = T>) -> Result<(), TaskError> {
        let values: Vec<T> = values.into_iter().collect();
        self.0.call(|list: &mut Vec<T>, values: Vec<T>| list.extend(values), (values,))
    }

    /// A copy of the value at `index`.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn get(&self, index: usize) -> Result<Option<T>, TaskError> {
        self.0.call(|list: &mut Vec<T>, index: usize| list.get(index).cloned(), (index,))
    }

    /// Sets the value at `index`, and gives the one before; `None`, and nothing is changed, beyond the end.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn set(&self, index: usize, value: T) -> Result<Option<T>, TaskError> {
        let f = |list: &mut Vec<T>, index: usize, value: T| {
            list.get_mut(index).map(|place| std::mem::replace(place, value))
        };
        self.0.call(f, (index, value))
    }

    /// Takes the value at `index` out; `None` beyond the end.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn remove(&self, index: usize) -> Result<Option<T>, TaskError> {
        let f = |list: &mut Vec<T>, index: usize| (index < list.len()).then(|| list.remove(index));
        self.0.call(f, (index,))
    }

    /// Puts a value before the one at `index`, or at the end if there is none.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn insert(&self, index: usize, value: T) -> Result<(), TaskError> {
        let f = |list: &mut Vec<T>, index: usize, value: T| list.insert(index.min(list.len()), value);
        self.0.call(f, (index, value))
    }

    /// Runs `f` on the value at `index`, where it is, and gives what it returns; `None` beyond the end.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn update<A, F>(&self, index: usize, f: F, args: A) -> Result<Option<F::Output>, TaskError>
    where
        F: Method<T, A>,
        F::Output: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned + 'static,
    {
        const { assert!(size_of::<F>() == 0, "this closure captures something: pass everything as an argument") };
        let _ = f;
        self.0.call(
            |list: &mut Vec<T>, index: usize, args: A| {
                list.get_mut(index).map(|value| image::conjure::<F>().run(value, args))
            },
            (index, args),
        )
    }

    /// How many values it has.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn len(&self) -> Result<usize, TaskError> {
        self.0.call(|list: &mut Vec<T>| list.len(), ())
    }

    /// Has it none?
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn is_empty(&self) -> Result<bool, TaskError> {
        self.len().map(|len| len == 0)
    }

    /// Takes everything out.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn clear(&self) -> Result<(), TaskError> {
        self.0.call(|list: &mut Vec<T>| list.clear(), ())
    }

    /// A copy of all values.
    ///
    /// # Errors
    /// As [`Actor::call`].
    #[doc(alias = "copy")]
    pub fn to_vec(&self) -> Result<Vec<T>, TaskError> {
        self.0.call(|list: &mut Vec<T>| list.clone(), ())
    }
}
