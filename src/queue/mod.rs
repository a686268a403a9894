//! A queue between processes, hosted by the process that made it. The picture is in `README.md` beside this file.

mod builder;
mod client;
mod desk;
mod error;
mod host;
mod item;
mod lease;
mod line;
mod quota;
mod state;
mod ticket;

pub use builder::QueueBuilder;
pub use error::{GetError, PutError};
pub use lease::Lease;

use client::Client;
use host::{Host, NotPut};
use item::{Ask, Bytes, Item};
use procession_worker::ipc::handoff::{self, Incoming};
use procession_worker::wire::{CodecError, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How much a queue may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Capacity {
    #[default]
    Unbounded,
    Items(u32),
    Bytes(u64),
}

/// A limit in bytes is counted in pieces of this size.
const PIECE: u64 = 64;

impl Capacity {
    fn units(self) -> Option<u64> {
        match self {
            Self::Unbounded => None,
            Self::Items(items) => Some(items.into()),
            Self::Bytes(bytes) => Some(bytes / PIECE),
        }
    }

    /// What an item of so many bytes takes of it.
    fn units_of(self, len: u64) -> u32 {
        match self {
            Self::Bytes(_) => u32::try_from(len / PIECE + 1).unwrap_or(u32::MAX),
            _ => 1,
        }
    }
}

/// This process's part of a queue.
#[derive(Debug)]
enum Side {
    Host(Arc<Host>),
    Client(Box<Client>),
}

/// What all handles of one process share; the last one that goes says so.
#[derive(Debug)]
struct Post {
    id: u128,
    side: Side,
    handles: AtomicUsize,
}

impl Post {
    const fn new(id: u128, side: Side) -> Self {
        Self { id, side, handles: AtomicUsize::new(0) }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        ticket::forget(self.id);
        if let Side::Host(host) = &self.side {
            host.abandon();
        }
    }
}

/// A queue of values that any number of processes and threads put into and take out of.
///
/// The process that makes it is its host; it has all that was put, so a producer may end, and be joined, before anybody
/// has taken anything. A handle can be cloned, and travels as an argument, a result, or an item of another queue. Each
/// producer's items keep their order. Who is killed, producer or consumer, harms nobody else: an item that was on its way
/// to a killed consumer goes back to the front.
///
/// With the host's end the queue is gone, for all: [`PutError::Gone`], [`GetError::Gone`].
///
/// ```
/// use procession::{Process, Queue};
///
/// fn squares(numbers: Queue<u64>, squares: Queue<u64>) {
///     for number in numbers.iter().flatten() {
///         squares.put(number * number).unwrap();
///     }
/// }
///
/// let (numbers, answers) = (Queue::new(), Queue::new());
/// let child = Process::new(squares, (numbers.clone(), answers.clone())).start()?;
/// for number in 0..100 {
///     numbers.put(number)?;
/// }
/// numbers.close();
/// child.join()?;
/// assert_eq!(answers.len(), 100);
/// assert_eq!(answers.get()?, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What cannot be encoded is named by the compiler at `put`, what cannot be decoded at `get`:
///
/// ```compile_fail,E0277
/// struct Order(u32); // and no #[derive(serde::Serialize, serde::Deserialize)]
///
/// procession::Queue::new().put(Order(7));
/// ```
///
/// # Drop
/// Of a handle: nothing but that. Of the last one anywhere: what is in the queue is dropped.
#[doc(alias = "SimpleQueue")]
#[doc(alias = "JoinableQueue")]
#[must_use = "dropped by its last holder, a queue is gone with all that is in it"]
pub struct Queue<T> {
    post: Arc<Post>,
    item: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.post))
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here = matches!(self.post.side, Side::Host(_));
        f.debug_struct("Queue").field("hosted_here", &here).finish_non_exhaustive()
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        // Whoever waits here may be the only one left who could put.
        if self.post.handles.fetch_sub(1, Ordering::AcqRel) == 2 {
            match &self.post.side {
                Side::Host(host) => host.look_again(),
                Side::Client(client) => client.look_again(),
            }
        }
    }
}

impl<T> Queue<T> {
    /// A queue without a limit: `put` never waits for a reader.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A queue of at most so many items: `put` waits while it is full. 0 is no limit, as in Python.
    #[doc(alias = "maxsize")]
    pub fn bounded(items: usize) -> Self {
        Self::builder().capacity(items).build()
    }

    /// Settings first.
    pub fn builder() -> QueueBuilder<T> {
        QueueBuilder::new()
    }

    fn of(post: Arc<Post>) -> Self {
        post.handles.fetch_add(1, Ordering::Relaxed);
        Self { post, item: PhantomData }
    }

    fn with(capacity: Capacity) -> Self {
        let id = ticket::fresh_id();
        let side = Side::Host(Host::new(capacity));
        let post = Arc::new(Post::new(id, side));
        ticket::remember(id, &post);
        Self::of(post)
    }

    fn capacity(&self) -> Capacity {
        match &self.post.side {
            Side::Host(host) => host.capacity(),
            Side::Client(client) => client.capacity(),
        }
    }

    /// Is this handle the only one of its process?
    fn is_sole(&self) -> bool {
        self.post.handles.load(Ordering::Acquire) == 1
    }

    /// How many items have been put and not been got; exact, whoever asks. 0 when the host is gone.
    #[doc(alias = "qsize")]
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.post.side {
            Side::Host(host) => host.ask(state::State::len),
            Side::Client(client) => {
                client.ask(Ask::Len, None).map_or(0, |len| usize::try_from(len).unwrap_or(usize::MAX))
            }
        }
    }

    /// Is there nothing to get just now?
    #[doc(alias = "empty")]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is the limit reached just now?
    #[doc(alias = "full")]
    #[must_use]
    pub fn is_full(&self) -> bool {
        match &self.post.side {
            Side::Host(host) => host.ask(state::State::is_full),
            Side::Client(client) => client.ask(Ask::Full, None) == Some(1),
        }
    }

    /// No more items are taken, from anybody: `put` fails with [`PutError::Closed`], and `get` with
    /// [`GetError::Closed`] once everything has been got. When this returns, it is so for all.
    pub fn close(&self) {
        match &self.post.side {
            Side::Host(host) => host.close(),
            Side::Client(client) => drop(client.ask(Ask::Close, None)),
        }
    }

    /// Reports that an item which was got is dealt with. False if all are already (Python: `ValueError`), or the host is
    /// gone.
    ///
    /// What a consumer got and did not report when it died counts as dealt with.
    pub fn task_done(&self) -> bool {
        match &self.post.side {
            Side::Host(host) => host.task_done(),
            Side::Client(client) => client.task_done(),
        }
    }

    /// Waits until every item that was put has been got and [reported done](Self::task_done); at once when the host is
    /// gone.
    pub fn join(&self) {
        self.join_until(None);
    }

    /// [`join`](Self::join), but no longer than `limit`; is everything done?
    #[must_use]
    pub fn join_timeout(&self, limit: Duration) -> bool {
        self.join_until(Instant::now().checked_add(limit))
    }

    fn join_until(&self, deadline: Option<Instant>) -> bool {
        match &self.post.side {
            Side::Host(host) => host.join(deadline),
            Side::Client(client) => client.join(deadline),
        }
    }
}

// Each asks for what it needs of `T`, so that the compiler says what is missing, and not that there is no such method.
impl<T> Queue<T> {
    /// Puts an item at the end; waits while the queue is full. When it returns, the item is the queue's: it stays there
    /// whatever becomes of this process.
    ///
    /// # Errors
    /// The queue is closed or its host is gone, the value cannot be encoded, is larger than the whole queue, or has
    /// descriptors that cannot travel now or that the host has no room for. The error has the value, and the queue has not.
    ///
    /// Of descriptors in items that others have put, a process keeps half as many as it may open files, for all its queues: beyond
    /// that the error is [`PutError::Io`] of the kind [`QuotaExceeded`](std::io::ErrorKind::QuotaExceeded).
    pub fn put(&self, value: T) -> Result<(), PutError<T>>
    where
        T: Serialize,
    {
        self.put_until(value, None)
    }

    /// [`put`](Self::put), but waits no longer than `limit`.
    ///
    /// # Errors
    /// As `put`, and [`PutError::Full`]; also when the host is stopped, and so has taken neither what fills its buffers nor, within a
    /// second at least, an item of over 16 KiB or with descriptors.
    pub fn put_timeout(&self, value: T, limit: Duration) -> Result<(), PutError<T>>
    where
        T: Serialize,
    {
        self.put_until(value, Instant::now().checked_add(limit))
    }

    /// [`put`](Self::put) without waiting for room.
    ///
    /// # Errors
    /// As [`put_timeout`](Self::put_timeout).
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, value: T) -> Result<(), PutError<T>>
    where
        T: Serialize,
    {
        self.put_until(value, Some(Instant::now()))
    }

    fn put_until(&self, value: T, deadline: Option<Instant>) -> Result<(), PutError<T>>
    where
        T: Serialize,
    {
        let (bytes, handles) = handoff::pack_for::<T, _>(|| codec::encode(&value));
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return Err(PutError::Encode(value, error.to_string())),
        };
        let capacity = self.capacity();
        let units = capacity.units_of(bytes.len() as u64);
        if capacity.units().is_some_and(|most| u64::from(units) > most) {
            return Err(PutError::TooLarge(value, bytes.len()));
        }
        let mut item = Item::new(bytes, handles, units);
        let put = match &self.post.side {
            Side::Host(host) => host.put(item, deadline),
            Side::Client(client) => client.put(&mut item, deadline),
        };
        put.map_err(|error| match error {
            NotPut::Full => PutError::Full(value),
            NotPut::Closed => PutError::Closed(value),
            NotPut::Gone => PutError::Gone(value),
            NotPut::Io(error) => PutError::Io(value, error),
        })
    }
}

impl<T> Queue<T> {
    /// Takes the first item; waits until there is one.
    ///
    /// # Errors
    /// [`GetError::Closed`]: there is none, and there will be none: the queue was closed, or all other handles are gone, in
    /// whatever process they were (threads that share one handle by reference should each have a clone instead). [`GetError::Gone`]: the host has ended. [`GetError::Decode`]: the item is no `T`, and is lost.
    /// [`GetError::Io`]: there are too few descriptors or too little memory here for the item, which stays in the queue.
    pub fn get(&self) -> Result<T, GetError>
    where
        T: DeserializeOwned,
    {
        self.get_until(None)
    }

    /// [`get`](Self::get), but waits no longer than `limit`.
    ///
    /// # Errors
    /// As `get`, and [`GetError::Empty`].
    pub fn get_timeout(&self, limit: Duration) -> Result<T, GetError>
    where
        T: DeserializeOwned,
    {
        self.get_until(Instant::now().checked_add(limit))
    }

    /// [`get`](Self::get) without waiting for an item.
    ///
    /// # Errors
    /// As `get`, and [`GetError::Empty`].
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, GetError>
    where
        T: DeserializeOwned,
    {
        self.get_until(Some(Instant::now()))
    }

    fn get_until(&self, deadline: Option<Instant>) -> Result<T, GetError>
    where
        T: DeserializeOwned,
    {
        match &self.post.side {
            Side::Host(host) => {
                let item = host.get(deadline, || deadline.is_none() && self.is_sole())?;
                match host::bytes_of(&item) {
                    Ok(bytes) => unwrap(&bytes, host::came_with(item)?),
                    Err(error) => {
                        host.put_back(item);
                        Err(GetError::Io(error))
                    }
                }
            }
            Side::Client(client) => {
                let mut got = client.get(deadline, || deadline.is_none() && self.is_sole())?;
                let came = std::mem::take(&mut got.came);
                let value = unwrap(&got.bytes, came);
                drop(got);
                value
            }
        }
    }

    /// Takes the first item for as long as the [`Lease`] lives: it comes back if this process dies, or the lease is
    /// dropped, before it is [done](Lease::done). Waits until there is an item.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn lease(&self) -> Result<Lease<T>, GetError>
    where
        T: DeserializeOwned,
    {
        Lease::take(self, None)
    }

    /// [`lease`](Self::lease), but waits no longer than `limit`.
    ///
    /// # Errors
    /// As [`get_timeout`](Self::get_timeout).
    pub fn lease_timeout(&self, limit: Duration) -> Result<Lease<T>, GetError>
    where
        T: DeserializeOwned,
    {
        Lease::take(self, Instant::now().checked_add(limit))
    }

    /// The items as they come, until the queue is closed and empty, or gone; also when all other handles are gone, as
    /// [`get`](Self::get) tells. An item that cannot be decoded is told in its place.
    pub const fn iter(&self) -> Iter<'_, T>
    where
        T: DeserializeOwned,
    {
        Iter { queue: self }
    }
}

/// The items of a queue; see [`Queue::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    queue: &'a Queue<T>,
}

impl<T: DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T, GetError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.queue.get() {
            Err(GetError::Closed | GetError::Gone) => None,
            other => Some(other),
        }
    }
}

impl<'a, T: DeserializeOwned> IntoIterator for &'a Queue<T> {
    type Item = Result<T, GetError>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

fn unwrap<T: DeserializeOwned>(bytes: &Bytes, came: Incoming) -> Result<T, GetError> {
    let value = if std::mem::needs_drop::<T>() {
        handoff::unpack(came, || codec::decode(bytes.as_ref()))
    } else {
        codec::decode(bytes.as_ref())
    };
    value.map_err(|error: CodecError| GetError::Decode(error.to_string()))
}

fn gone(error: NotPut) -> GetError {
    match error {
        NotPut::Io(error) => GetError::Io(error),
        _ => GetError::Gone,
    }
}
