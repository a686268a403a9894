//! How a client gets.

use super::talk::patient;
use super::{Came, Client, Local};
use crate::queue::GetError;
use crate::queue::item::{Bytes, Heavy, Note, Word, kind, want};
use crate::sys::wait;
use procession_worker::ipc::handoff::Incoming;
use procession_worker::ipc::lane::{Claims, Flag, HANDS, Way};
use std::io;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// An item that has been taken, and is in hand until this is dropped: then it is the caller's.
#[derive(Debug)]
pub(in super::super) struct Got<'a> {
    pub(in super::super) bytes: Bytes,
    pub(in super::super) came: Incoming,
    pub(in super::super) number: u32,
    hand: usize,
    client: &'a Client,
}

impl Drop for Got<'_> {
    fn drop(&mut self) {
        let mut local = self.client.local();
        self.client.put_out_of_hand(&mut local, self.hand);
    }
}

/// An item's bytes, and what came with them.
type Unpacked = (Bytes, Incoming);

impl Client {
    /// Takes an item. With `sole` the caller is the only one of this process who could put.
    pub(in super::super) fn get(
        &self,
        deadline: Option<Instant>,
        sole: impl Fn() -> bool,
    ) -> Result<Got<'_>, GetError> {
        let mut local = self.local();
        let before = local.overs;
        let mut asked = false;
        let result = loop {
            let taken;
            (local, taken) = self.take(local);
            match taken {
                Ok(Some(got)) => break Ok(got),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
            if local.gone {
                break Err(GetError::Gone);
            }
            if local.overs != before {
                break Err(GetError::Closed);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                if asked {
                    break Err(GetError::Empty);
                }
                asked = true;
                let (id, patient) = (self.next_id(), patient(deadline));
                let mut answer = None;
                match self.say(Note::new(Word::Want, id, u64::from(sole())), &[], patient) {
                    Ok(true) => (local, answer) = self.await_answer(local, id, patient),
                    Ok(false) => {}
                    Err(_) => local.gone = true,
                }
                if answer == Some(want::OVER) {
                    break Err(GetError::Closed);
                }
                continue;
            }
            local.getters += 1;
            if local.hands.count_ones() as usize == HANDS {
                // Another thread here will empty one.
                local.sleepers += 1;
                local = wait::sleep(&self.changed, local, deadline).0;
                local.sleepers -= 1;
            } else {
                self.lane.set(Flag::Wants, if sole() { 2 } else { 1 });
                // What came just before the host could see that is found here.
                if self.lane.claim(Claims::Gets).left() == 0 {
                    if self.lane.get(Flag::Idle) == 0 {
                        self.knock();
                    }
                    local = self.wait(local, deadline).0;
                    // The host has known.
                    asked = true;
                }
            }
            local.getters -= 1;
            if local.getters == 0 {
                self.lane.set(Flag::Wants, 0);
            }
        };
        drop(local);
        result
    }

    /// Takes the next item of the lane, if there is one.
    fn take<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
    ) -> (MutexGuard<'a, Local>, Result<Option<Got<'a>>, GetError>) {
        let hand = (!local.hands).trailing_zeros() as usize;
        let claim = self.lane.claim(Claims::Gets);
        if hand >= HANDS || claim.left() == 0 {
            return (local, Ok(None));
        }
        let number = claim.next;
        self.lane.set_hand(hand, number);
        self.lane.set_hands(local.hands | 1 << hand);
        if self.lane.claim_next(Claims::Gets, 1).is_none() {
            self.lane.set_hands(local.hands);
            return (local, Ok(None));
        }
        local.hands |= 1 << hand;
        let (kind, payload) = self.read_frame(&mut local);
        self.undone.fetch_add(1, Ordering::Relaxed);
        let got = |bytes, came| Ok(Some(Got { bytes, came, number, hand, client: self }));
        if kind == kind::LIGHT {
            return (local, got(Bytes::Copied(payload), Incoming::default()));
        }
        let unpacked;
        (local, unpacked) = self.unpack(local, &payload);
        match unpacked {
            Ok(Some((bytes, came))) => (local, got(bytes, came)),
            other => {
                local = self.put_back(local, number);
                self.put_out_of_hand(&mut local, hand);
                (local, other.map(|_| None))
            }
        }
    }

    fn read_frame(&self, local: &mut Local) -> (u8, Vec<u8>) {
        // The host is trusted with its own items, but not with our memory.
        let Some((kind, payload, next)) = self.lane.frame(Way::Down, local.down) else {
            return (u8::MAX, Vec::new());
        };
        local.down = next;
        self.lane.consume(Way::Down, next);
        (kind, payload)
    }

    /// A heavy item: its descriptors are here, or on their way: they were sent before the item could be seen. `None`
    /// when it is to come again.
    fn unpack<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
        payload: &[u8],
    ) -> (MutexGuard<'a, Local>, Result<Option<Unpacked>, GetError>) {
        let Some((head, inline)) = Heavy::split(payload) else { return (local, Err(GetError::Gone)) };
        let told = |came: &Came| came.fds.len() + came.lost >= head.count as usize;
        while head.count > 0 && !local.fds.get(&head.id).is_some_and(told) {
            if local.gone {
                return (local, Err(GetError::Gone));
            }
            local = self.wait(local, None).0;
        }
        // Older ones belong to items that were taken back; several threads may be about as many items.
        let oldest = head.id.saturating_sub(HANDS as u32);
        local.fds = local.fds.split_off(&oldest);
        let Came { mut fds, lost } = local.fds.remove(&head.id).unwrap_or_default();
        // They may have come while there was no place for them, long before this item's turn: it comes again.
        let place =
            || (0..head.count).map(|_| self.socket.try_clone()).collect::<io::Result<Vec<_>>>().is_ok();
        if lost > 0 && place() {
            return (local, Ok(None));
        }
        let bytes = match head.filed {
            _ if lost > 0 => Err(io::Error::from_raw_os_error(crate::sys::EMFILE)),
            0 => Ok(Bytes::Copied(inline.to_vec())),
            _ if fds.is_empty() => Err(io::Error::from_raw_os_error(crate::sys::EIO)),
            filed => Bytes::of_file(fds.remove(0), filed),
        };
        (local, bytes.map(|bytes| Some((bytes, Incoming::new(fds, None)))).map_err(GetError::Io))
    }

    /// An item that there is no room for goes back, to whoever has some.
    fn put_back<'a>(&'a self, local: MutexGuard<'a, Local>, number: u32) -> MutexGuard<'a, Local> {
        let (mut local, room) = self.wait_for_ring(local, 64, None);
        if room.is_ok() {
            for kind in [kind::LEASED, kind::BACK] {
                local.up += self.lane.write_frame(Way::Up, local.up, kind, [&number.to_le_bytes(), &[]]);
            }
            self.committed(&mut local);
            let _ = self.undone.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
        local
    }

    fn put_out_of_hand(&self, local: &mut Local, hand: usize) {
        local.hands &= !(1 << hand);
        self.lane.set_hands(local.hands);
        self.tell(local, Flag::Curious);
        if local.getters > 0 && local.sleepers > 0 {
            self.changed.notify_all();
        }
    }
}
