//! What the two kinds of pool have in common, as a trait, so that one measurement can be made with both.

use crate::error::SpawnError;
use crate::pool::{AsyncResult, Pool, ThreadPool};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What travels to a worker and back.
pub trait Parcel: Serialize + DeserializeOwned + Send + 'static {}
impl<T: Serialize + DeserializeOwned + Send + 'static> Parcel for T {}

/// A pool of processes or of threads.
pub trait Workers: Sized {
    /// What its workers are.
    const KIND: &'static str;

    /// Starts them.
    ///
    /// # Errors
    /// As [`Pool::new`](crate::Pool::new) has them.
    fn start(workers: usize) -> Result<Self, SpawnError>;

    /// Calls `f` with each item; the results come in the order of the items.
    fn map_async<T, R, F>(&self, f: F, items: impl IntoIterator<Item = T>) -> AsyncResult<Vec<R>>
    where
        T: Parcel,
        R: Parcel,
        F: Fn(T) -> R + Copy + Send + Sync + 'static;
}

impl Workers for Pool {
    const KIND: &'static str = "processes";

    fn start(workers: usize) -> Result<Self, SpawnError> {
        Self::new(workers)
    }

    fn map_async<T, R, F>(&self, f: F, items: impl IntoIterator<Item = T>) -> AsyncResult<Vec<R>>
    where
        T: Parcel,
        R: Parcel,
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
    {
        Self::map_async(self, f, items)
    }
}

impl Workers for ThreadPool {
    const KIND: &'static str = "threads";

    fn start(workers: usize) -> Result<Self, SpawnError> {
        Self::new(workers)
    }

    fn map_async<T, R, F>(&self, f: F, items: impl IntoIterator<Item = T>) -> AsyncResult<Vec<R>>
    where
        T: Parcel,
        R: Parcel,
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
    {
        Self::map_async(self, f, items)
    }
}
