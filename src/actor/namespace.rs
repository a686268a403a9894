//! Named values of any type that processes share.

use super::Actor;
use crate::error::{Codec, Half, SpawnError, TaskError};
use procession_worker::wire::codec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Named values, each of a type of its own, in a process of their own: Python's `Manager().Namespace()`.
///
/// ```
/// use procession::Namespace;
///
/// let settings = Namespace::new()?;
/// settings.set("name", &"bob")?;
/// settings.set("size", &(3_u8, 4_u8))?;
/// assert_eq!(settings.get::<String>("name")?.as_deref(), Some("bob"));
/// assert_eq!(settings.get::<(u8, u8)>("size")?, Some((3, 4)));
/// assert_eq!(settings.get::<u8>("colour")?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The values are kept encoded, so whoever gets one must know its type: another one is an error, or nonsense. Handles (queues, locks,
/// files) cannot be kept here; an actor of your own can keep them.
///
/// # Errors
/// Those of [`Actor::call`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
#[doc(alias("Manager", "NamespaceProxy"))]
#[must_use = "dropped by its last holder, what it holds is gone"]
pub struct Namespace(Actor<Names>);

type Names = BTreeMap<String, Vec<u8>>;

impl Namespace {
    /// An empty one.
    ///
    /// # Errors
    /// As [`Actor::start`].
    pub fn new() -> Result<Self, SpawnError> {
        Actor::start(Names::new).map(Self)
    }

    /// Sets the value of `name`.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn set<T: Serialize + ?Sized>(&self, name: impl Into<String>, value: &T) -> Result<(), TaskError> {
        let value =
            codec::encode(value).map_err(|error| TaskError::Encode(Codec::new(Half::Arguments, error)))?;
        let f = |names: &mut Names, name: String, value: Vec<u8>| drop(names.insert(name, value));
        self.0.call(f, (name.into(), value))
    }

    /// A copy of the value of `name`; `None` if there is none.
    ///
    /// # Errors
    /// As [`Actor::call`]; the value is of another type.
    pub fn get<T: DeserializeOwned>(&self, name: impl Into<String>) -> Result<Option<T>, TaskError> {
        let value =
            self.0.call(|names: &mut Names, name: String| names.get(&name).cloned(), (name.into(),))?;
        value
            .map(|value| codec::decode(&value))
            .transpose()
            .map_err(|error| TaskError::Decode(Codec::new(Half::Result, error)))
    }

    /// Takes `name` out; was there one?
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn remove(&self, name: impl Into<String>) -> Result<bool, TaskError> {
        self.0.call(|names: &mut Names, name: String| names.remove(&name).is_some(), (name.into(),))
    }

    /// All names, in order.
    ///
    /// # Errors
    /// As [`Actor::call`].
    pub fn names(&self) -> Result<Vec<String>, TaskError> {
        self.0.call(|names: &mut Names| names.keys().cloned().collect::<Vec<_>>(), ())
    }
}
