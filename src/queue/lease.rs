//! An item that comes back if its holder dies.

use super::host::{self, Host};
use super::item::{Item, kind};
use super::{GetError, Post, Queue, Side, gone, unwrap};
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

/// An item taken by [`Queue::lease`]: the queue keeps it until it is [done](Self::done).
///
/// # Drop
/// The item goes back to the front of the queue, as it does when its holder dies.
#[must_use = "dropped, the item goes back"]
pub struct Lease<T> {
    value: Option<T>,
    held: Option<Held>,
}

/// Where the item is kept.
enum Held {
    Here(Arc<Host>, Item),
    There(Arc<Post>, u32),
}

impl<T: DeserializeOwned> Lease<T> {
    pub(super) fn take(queue: &Queue<T>, deadline: Option<Instant>) -> Result<Self, GetError> {
        let (value, held) = match &queue.post.side {
            Side::Host(host) => {
                let item = host.lease(deadline, || deadline.is_none() && queue.is_sole())?;
                let mut lease = Self { value: None, held: Some(Held::Here(Arc::clone(host), item.clone())) };
                // What there are no descriptors for goes back, as its lease is dropped.
                let bytes = host::bytes_of(&item).map_err(GetError::Io)?;
                match unwrap(&bytes, host::came_with(item)?) {
                    Ok(value) => lease.value = Some(value),
                    Err(error) => {
                        lease.held = None;
                        host.lease_ended(None, false);
                        return Err(error);
                    }
                }
                return Ok(lease);
            }
            Side::Client(client) => {
                let mut got = client.get(deadline, || deadline.is_none() && queue.is_sole())?;
                let came = std::mem::take(&mut got.came);
                let value = unwrap(&got.bytes, came);
                // Before it is out of hand: there is no moment at which nobody keeps it.
                let kept = if value.is_ok() { client.report(kind::LEASED, got.number) } else { Ok(()) };
                let number = got.number;
                drop(got);
                kept.map_err(gone)?;
                (value?, Held::There(Arc::clone(&queue.post), number))
            }
        };
        Ok(Self { value: Some(value), held: Some(held) })
    }
}

impl<T> Lease<T> {
    /// The item is dealt with, and will not come back; [`task_done`](Queue::task_done) is said as well.
    ///
    /// # Errors
    /// The host is gone.
    pub fn done(mut self) -> Result<T, GetError> {
        match self.held.take() {
            Some(Held::Here(host, _)) => host.lease_ended(None, true),
            Some(Held::There(post, number)) => report(&post, kind::DONE, number)?,
            None => {}
        }
        Ok(self.value.take().expect("a lease has its value until it is done"))
    }
}

fn report(post: &Post, kind: u8, number: u32) -> Result<(), GetError> {
    match &post.side {
        Side::Client(client) => client.report(kind, number).map_err(gone),
        Side::Host(_) => Ok(()),
    }
}

impl<T> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("a lease has its value until it is done")
    }
}

impl<T: fmt::Debug> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&**self).finish()
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        match self.held.take() {
            Some(Held::Here(host, item)) => host.lease_ended(Some(item), false),
            // Should the host be gone, so is the queue.
            Some(Held::There(post, number)) => drop(report(&post, kind::BACK, number)),
            None => {}
        }
    }
}
