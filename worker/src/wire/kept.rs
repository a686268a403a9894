//! Buffers that a thread keeps: new memory costs more than all the copying.

use super::connection::PACKET;
use std::cell::Cell;
use std::ops::Deref;
use std::thread::LocalKey;

/// The bytes of a message: of a short one where they were received, of a long one to be taken as they are.
#[derive(Debug)]
pub enum Payload<'a> {
    /// In a place that belongs to the connection.
    Short(&'a [u8]),
    /// In a vector; what is not taken of it is used again.
    Long(&'a mut Vec<u8>),
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Long(bytes) => bytes,
        }
    }
}

impl From<Payload<'_>> for Vec<u8> {
    fn from(payload: Payload<'_>) -> Self {
        match payload {
            Payload::Short(bytes) => bytes.to_vec(),
            Payload::Long(bytes) => std::mem::take(bytes),
        }
    }
}

/// The largest that is kept.
pub const KEPT: usize = 2 << 20;

/// A buffer that a thread keeps for the next time.
pub type Kept = LocalKey<Cell<Vec<u8>>>;

thread_local! {
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// For the next long message.
    pub(super) static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What was kept; a thread that ends has nothing any more.
#[must_use]
pub fn kept(place: &'static Kept) -> Vec<u8> {
    place.try_with(Cell::take).unwrap_or_default()
}

/// Keeps a buffer, unless it is too large to be worth it.
pub fn keep(place: &'static Kept, buffer: Vec<u8>, most: usize) {
    if (1..=most).contains(&buffer.capacity()) {
        let _ = place.try_with(|place| place.set(buffer));
    }
}

/// A place for one packet.
pub(super) struct Room(pub(super) Vec<u8>);

impl Room {
    pub(super) fn enter() -> Self {
        let mut room = kept(&ROOM);
        if room.is_empty() {
            room = vec![0; PACKET];
        }
        Self(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        keep(&ROOM, std::mem::take(&mut self.0), PACKET);
    }
}
