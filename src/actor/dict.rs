//! A dictionary that processes share.

use super::Actor;
use crate::error::{SpawnError, TaskError};
use procession_worker::method::Method;
use procession_worker::sys::image;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::Hash;

/// A `HashMap` in a process of its own, called from anywhere: Python's `Manager().dict()`.
///
/// Each method is one step, also [`update`](Self::update), which changes a value where it is. What is given out are copies. For
/// anything that is missing here, [`actor`](Self::actor) takes any function on the `HashMap`.
///
/// ```
/// use procession::{Dict, Process};
///
/// let ages = Dict::<String, u32>::new()?;
/// ages.insert("ann".into(), 41)?;
/// Process::new(
///     |ages: Dict<String, u32>| ages.update("ann".to_string(), |age: &mut u32| *age += 1, ()).is_ok(),
///     (ages.clone(),),
/// )
/// .start()?
/// .join()?;
/// assert_eq!(ages.get("ann".into())?, Some(42));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of [`Actor::call`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "", transparent)]
#[doc(alias("Manager", "DictProxy"))]
#[must_use = "dropped by its last holder, the map is gone"]
pub struct Dict<K, V>(Actor<HashMap<K, V>>);

impl<K, V> Clone for Dict<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Dict<K, V>
where
    K: Eq + Hash + Clone + Serialize + DeserializeOwned + 'static,
    V: Clone + Serialize + DeserializeOwned + 'static,
{
    /// An empty one.
    ///
    /// # Errors
    /// As [`Actor::start`].
    pub fn new() -> Result<Self, SpawnError> {
        Actor::start(HashMap::<K, V>::new).map(Self)
    }

    /// The actor that has it.
    pub const fn actor(&self) -> &Actor<HashMap<K, V>> {
        &self.0
    }

    /// A copy of the value of `key`.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn get(&self, key: K) -> Result<Option<V>, TaskError> {
        self.0.call(|map: &mut HashMap<K, V>, key: K| map.get(&key).cloned(), (key,))
    }

    /// Sets the value of `key`, and gives the one before.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>, TaskError> {
        self.0.call(|map: &mut HashMap<K, V>, key: K, value: V| map.insert(key, value), (key, value))
    }

    /// The value of `key`, which becomes `value` if there is none.
    ///
    /// # Errors
    /// As [`Actor::call`].
    #[doc(alias = "setdefault")]
    pub fn get_or_insert(&self, key: K, value: V) -> Result<V, TaskError> {
        let f = |map: &mut HashMap<K, V>, key: K, value: V| map.entry(key).or_insert(value).clone();
        self.0.call(f, (key, value))
    }

    /// Takes `key` out, and gives its value.
    ///
    /// # Errors
    /// As [`Actor::call`].
    #[doc(alias = "pop")]
    pub fn remove(&self, key: K) -> Result<Option<V>, TaskError> {
        self.0.call(|map: &mut HashMap<K, V>, key: K| map.remove(&key), (key,))
    }

    /// Runs `f` on the value of `key`, where it is, and gives what it returns; `None` if there is no such key.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn update<A, F>(&self, key: K, f: F, args: A) -> Result<Option<F::Output>, TaskError>
    where
        F: Method<V, A>,
        F::Output: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned + 'static,
    {
        const { assert!(size_of::<F>() == 0, "this closure captures something: pass everything as an argument") };
        let _ = f;
        self.0.call(
            |map: &mut HashMap<K, V>, key: K, args: A| {
                map.get_mut(&key).map(|value| image::conjure::<F>().run(value, args))
            },
            (key, args),
        )
    }

    /// Adds all of these, at once.
    ///
    /// # Errors
    /// As [`Actor::call`].
    #[doc(alias = "update")]
    pub fn extend(&self, items: impl IntoIterator<Item = (K, V)>) -> Result<(), TaskError> {
        let items: Vec<(K, V)> = items.into_iter().collect();
        self.0.call(|map: &mut HashMap<K, V>, items: Vec<(K, V)>| map.extend(items), (items,))
    }

    /// Is there such a key?
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn contains_key(&self, key: K) -> Result<bool, TaskError> {
        self.0.call(|map: &mut HashMap<K, V>, key: K| map.contains_key(&key), (key,))
    }

    /// How many keys it has.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn len(&self) -> Result<usize, TaskError> {
        self.0.call(|map: &mut HashMap<K, V>| map.len(), ())
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
        self.0.call(|map: &mut HashMap<K, V>| map.clear(), ())
    }

    /// A copy of all keys, in no order.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn keys(&self) -> Result<Vec<K>, TaskError> {
        self.0.call(|map: &mut HashMap<K, V>| map.keys().cloned().collect::<Vec<_>>(), ())
    }

    /// A copy of all values, in no order.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn values(&self) -> Result<Vec<V>, TaskError> {
        self.0.call(|map: &mut HashMap<K, V>| map.values().cloned().collect::<Vec<_>>(), ())
    }

    /// A copy of all of it.
    ///
    /// # Errors
    /// As [`Actor::call`].
    #[doc(alias("items", "copy"))]
    pub fn to_map(&self) -> Result<HashMap<K, V>, TaskError> {
        let f = |map: &mut HashMap<K, V>| map.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>();
        self.0.call(f, ()).map(|items| items.into_iter().collect())
    }
}
