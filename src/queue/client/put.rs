//! How a client puts.

use super::talk::{is_gone, patient};
use super::{Client, Local};
use crate::queue::host::NotPut;
use crate::queue::item::{Ask, Item, Note, Word, fate, kind};
use crate::sys::{EDQUOT, wait};
use procession_worker::ipc::lane::{Claims, Flag, PLACES, RING, Way};
use procession_worker::sys::socket;
use procession_worker::wire::frame::MAX_HEADER;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::MutexGuard;
use std::time::Instant;

impl Client {
    pub(in super::super) fn put(&self, item: &mut Item, deadline: Option<Instant>) -> Result<(), NotPut> {
        if item.is_heavy() {
            return self.put_heavy(item, deadline);
        }
        let bytes = item.light();
        let mut local = self.claim_room(item.units, deadline)?;
        let room;
        // A host that runs empties it at once.
        (local, room) = self.wait_for_ring(local, (bytes.len() + MAX_HEADER) as u64, patient(deadline));
        if let Err(error) = room {
            self.unclaim(item.units);
            return Err(error);
        }
        local.up += self.lane.write_frame(Way::Up, local.up, kind::LIGHT, [bytes, &[]]);
        self.committed(&mut local);
        Ok(())
    }

    /// The host says whether it has room for the descriptors, while the value is still here. Who does not wait for that takes the
    /// item back, unless the host was first.
    fn put_heavy(&self, item: &mut Item, deadline: Option<Instant>) -> Result<(), NotPut> {
        item.make_portable(None).map_err(NotPut::Io)?;
        let local = self.claim_room(item.units, deadline)?;
        let patient = patient(deadline);
        let id = self.next_id();
        let (mut local, sent) = self.take_turn(local, patient);
        let place = match sent {
            Ok(place) => {
                let sent;
                (local, sent) = self.send_heavy(local, item, (id, place), patient);
                local.sends = false;
                if local.sleepers > 0 {
                    self.changed.notify_all();
                }
                sent.map(|()| place)
            }
            Err(error) => Err(error),
        };
        let place = match place {
            Ok(place) => place,
            Err(error) => {
                drop(local);
                self.unclaim(item.units);
                return Err(error);
            }
        };
        let (local, answer) = self.await_answer(local, id, patient);
        let fate = match answer {
            Some(errno) => u32::try_from(errno.saturating_add(1)).unwrap_or(0),
            None if local.gone => return Err(NotPut::Gone),
            None => self.lane.decide(place, fate::WITHDRAWN),
        };
        match fate {
            fate::TAKEN => Ok(()),
            fate::WITHDRAWN => Err(NotPut::Full),
            errno => Err(NotPut::Io(refusal(errno.wrapping_sub(1)))),
        }
    }

    /// Waits until nobody else sends a large item, and there is a place for one more.
    fn take_turn<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Local>, Result<usize, NotPut>) {
        loop {
            if local.gone {
                return (local, Err(NotPut::Gone));
            }
            let free = (0..PLACES).find(|place| !local.places.values().any(|taken| taken == place));
            if let (false, Some(place)) = (local.sends, free) {
                local.sends = true;
                return (local, Ok(place));
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return (local, Err(NotPut::Full));
            }
            if local.sends {
                local.sleepers += 1;
                local = wait::sleep(&self.changed, local, deadline).0;
                local.sleepers -= 1;
            } else {
                // An answer frees one.
                local = self.wait(local, deadline).0;
            }
        }
    }

    fn send_heavy<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
        item: &Item,
        (id, place): (u32, usize),
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Local>, Result<(), NotPut>) {
        let (head, handles, inline) = item.heavy_head(id, u32::try_from(place).unwrap_or(0));
        for batch in handles.chunks(socket::AT_ONCE) {
            drop(local);
            let numbers: Vec<RawFd> = batch.iter().map(AsRawFd::as_raw_fd).collect();
            let said = self.say(Note::new(Word::Fds, id, batch.len() as u64), &numbers, deadline);
            local = self.local();
            match said {
                Ok(true) => {}
                Ok(false) => return (local, Err(NotPut::Full)),
                Err(error) if is_gone(&error) => return (local, Err(NotPut::Gone)),
                Err(error) => return (local, Err(NotPut::Io(error))),
            }
        }
        let length = (head.len() + inline.len() + MAX_HEADER) as u64;
        let room;
        (local, room) = self.wait_for_ring(local, length, deadline);
        if room.is_ok() {
            self.lane.open_place(place);
            local.places.insert(id, place);
            local.up += self.lane.write_frame(Way::Up, local.up, kind::HEAVY, [&head, inline]);
            self.committed(&mut local);
            self.knock();
        }
        (local, room)
    }

    /// What was written is finished; the host hears of it if it wants to, or if the ring fills up.
    pub(super) fn committed(&self, local: &mut Local) {
        self.lane.commit(Way::Up, local.up);
        if !self.tell(local, Flag::Hungry)
            && local.up.wrapping_sub(self.lane.consumed(Way::Up)) > RING / 2
            && self.lane.get(Flag::Told) == 0
        {
            self.lane.set(Flag::Told, 1);
            self.knock();
        }
    }

    fn unclaim(&self, units: u32) {
        // Only this side moves this half of the word, and only under our lock; but the lock may have been let go.
        self.lane.unclaim(Claims::Puts, units);
        // Others may wait for that room, or for its end.
        self.knock();
    }

    /// Takes room for so many units.
    fn claim_room(&self, units: u32, deadline: Option<Instant>) -> Result<MutexGuard<'_, Local>, NotPut> {
        let mut local = self.local();
        let mut asked = false;
        loop {
            if local.gone {
                return Err(NotPut::Gone);
            }
            if self.lane.get(Flag::Closed) != 0 {
                return Err(NotPut::Closed);
            }
            if self.lane.claim_next(Claims::Puts, units).is_some() {
                return Ok(local);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                if asked {
                    return Err(NotPut::Full);
                }
                // Who will not wait for room still wants to know whether there is any.
                asked = true;
                self.need(&mut local, units);
                let (id, patient) = (self.next_id(), patient(deadline));
                match self.say(Note::new(Word::Ask, id, Ask::Room as u64), &[], patient) {
                    Ok(true) => local = self.await_answer(local, id, patient).0,
                    Ok(false) => {}
                    Err(_) => local.gone = true,
                }
                self.need_no_more(&mut local, units);
                continue;
            }
            self.need(&mut local, units);
            self.lane.set(Flag::Asleep, 1);
            // What the host gave before it could see the need is found here.
            let claimed = self.lane.claim_next(Claims::Puts, units).is_some();
            if !claimed {
                self.knock();
                local = self.wait(local, deadline).0;
                // The host has known.
                asked = true;
            }
            self.need_no_more(&mut local, units);
            if claimed {
                return Ok(local);
            }
        }
    }

    /// The host hears of the largest need: whoever has a smaller one is served with it.
    fn need(&self, local: &mut Local, units: u32) {
        local.needs.push(units);
        self.lane.set(Flag::Needs, local.needs.iter().copied().max().unwrap_or(0));
    }

    fn need_no_more(&self, local: &mut Local, units: u32) {
        if let Some(at) = local.needs.iter().position(|need| *need == units) {
            local.needs.swap_remove(at);
        }
        self.lane.set(Flag::Needs, local.needs.iter().copied().max().unwrap_or(0));
        if !local.needs.is_empty() {
            // What others wait for may be there, now that this one does not wait for more.
            self.knock();
        }
    }

    pub(super) fn wait_for_ring<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
        length: u64,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Local>, Result<(), NotPut>) {
        loop {
            if local.gone {
                return (local, Err(NotPut::Gone));
            }
            let fits = || RING - (local.up.wrapping_sub(self.lane.consumed(Way::Up))).min(RING) >= length;
            if fits() {
                return (local, Ok(()));
            }
            self.lane.set(Flag::Asleep, 1);
            if fits() {
                continue;
            }
            self.knock();
            let in_time;
            (local, in_time) = self.wait(local, deadline);
            if !in_time {
                return (local, Err(NotPut::Full));
            }
        }
    }
}

/// Why the host has not taken a large item.
fn refusal(errno: u32) -> io::Error {
    match i32::try_from(errno) {
        Ok(EDQUOT) => io::Error::new(
            io::ErrorKind::QuotaExceeded,
            "the queue's process keeps as many descriptors in items as it may, half of its limit on open files; take items out, or raise the limit (ulimit -n)",
        ),
        errno => io::Error::from_raw_os_error(errno.unwrap_or(0)),
    }
}
