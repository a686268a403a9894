//! How a queue travels: what goes with a message is a ticket, one end of a socket whose other end the host watches. Who
//! decodes it comes by the ticket with a lane and a socket of its own, so a ticket may be copied, used by many, and
//! thrown away; and the host knows whether there is one left.

use super::client::Client;
use super::{Capacity, Post, Queue, Side};
use procession_worker::ipc::handoff;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The queues that this process has, so that each has one place here however often it arrives.
static KNOWN: Mutex<Option<HashMap<u128, Weak<Post>>>> = Mutex::new(None);

fn known() -> MutexGuard<'static, Option<HashMap<u128, Weak<Post>>>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn remember(id: u128, post: &Arc<Post>) {
    known().get_or_insert_default().insert(id, Arc::downgrade(post));
}

fn find(id: u128) -> Option<Arc<Post>> {
    known().as_ref()?.get(&id)?.upgrade()
}

/// This process's place from now on, unless it has one since: then the client leaves again.
fn settle(id: u128, client: Client) -> Arc<Post> {
    let mut known = known();
    let known = known.get_or_insert_default();
    if let Some(post) = known.get(&id).and_then(Weak::upgrade) {
        return post;
    }
    let post = Arc::new(Post::new(id, Side::Client(Box::new(client))));
    known.insert(id, Arc::downgrade(&post));
    post
}

pub(super) fn forget(id: u128) {
    let mut known = known();
    // It may have arrived again meanwhile.
    if let Some(known) = known.as_mut()
        && known.get(&id).is_some_and(|post| post.strong_count() == 0)
    {
        known.remove(&id);
    }
}

pub(super) fn fresh_id() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

#[derive(Serialize, Deserialize)]
struct Label {
    id: u128,
    capacity: Capacity,
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ticket = match &self.post.side {
            Side::Host(host) => host.ticket(),
            Side::Client(client) => client.ticket(),
        };
        let ticket =
            ticket.map_err(|error| S::Error::custom(format_args!("a queue cannot travel: {error}")))?;
        handoff::give(Arc::new(ticket)).map_err(S::Error::custom)?;
        Label { id: self.post.id, capacity: self.capacity() }.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Label { id, capacity } = Label::deserialize(deserializer)?;
        let ticket = handoff::take().map_err(D::Error::custom)?;
        if let Some(post) = find(id) {
            return Ok(Self::of(post));
        }
        // Nobody is kept waiting for another queue by a host that does not read.
        let client = Client::enter(&ticket, capacity)
            .map_err(|error| D::Error::custom(format_args!("cannot reach the queue's process: {error}")))?;
        Ok(Self::of(settle(id, client)))
    }
}
