//! How a client puts.

use super::talk::patient;
use super::{Client, Local};
use crate::queue::host::NotPut;
use crate::queue::item::{Ask, Heavy, Item, Note, Word, kind};
use procession_worker::ipc::handoff::Handle;
use procession_worker::ipc::lane::{Claims, Flag, RING, Way};
use procession_worker::sys::socket;
use procession_worker::wire::frame::MAX_HEADER;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::MutexGuard;
use std::time::Instant;

impl Client {
    pub(in super::super) fn put(&self, item: &mut Item, deadline: Option<Instant>) -> Result<(), NotPut> {
        let heavy = item.is_heavy();
        if heavy {
            item.make_portable(None).map_err(NotPut::Io)?;
        }
        let mut local = self.claim_room(item.units, deadline)?;
        let id = self.next_id();
        let (head, handles, inline) =
            if heavy { item.heavy_head(id) } else { ([0; Heavy::SIZE], Vec::new(), item.light()) };
        let parts: [&[u8]; 2] = if heavy { [&head, inline] } else { [inline, &[]] };
        let length = (parts[0].len() + parts[1].len() + MAX_HEADER) as u64;
        let room;
        // A host that runs empties it at once.
        let patient = patient(deadline);
        (local, room) = self.wait_for_ring(local, length, patient);
        if let Err(error) = room {
            self.unclaim(item.units);
            return Err(error);
        }
        if heavy && let Err(error) = self.send_fds(id, &handles, patient) {
            self.unclaim(item.units);
            return Err(error);
        }
        local.up +=
            self.lane.write_frame(Way::Up, local.up, if heavy { kind::HEAVY } else { kind::LIGHT }, parts);
        self.committed(&mut local);
        if heavy {
            self.knock();
            // Descriptors that the host has no room for are told at once, while the value is still here.
            let (local, answer) = self.await_answer(local, id, deadline);
            return match answer {
                Some(0) => Ok(()),
                Some(errno) => {
                    Err(NotPut::Io(io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(0))))
                }
                None if local.gone => Err(NotPut::Gone),
                None => Ok(()),
            };
        }
        Ok(())
    }

    fn send_fds(&self, id: u32, handles: &[Handle], deadline: Option<Instant>) -> Result<(), NotPut> {
        let mut deadline = deadline;
        for batch in handles.chunks(socket::AT_ONCE) {
            let numbers: Vec<RawFd> = batch.iter().map(AsRawFd::as_raw_fd).collect();
            match self.say(Note::new(Word::Fds, id, batch.len() as u64), &numbers, deadline) {
                Ok(true) => {}
                Ok(false) => return Err(NotPut::Full),
                Err(_) => return Err(NotPut::Gone),
            }
            // Where some are, the rest must follow.
            deadline = None;
        }
        Ok(())
    }

    /// What was written is finished; the host hears of it if it wants to, or if the ring fills up.
    pub(super) fn committed(&self, local: &mut Local) {
        self.lane.commit(Way::Up, local.up);
        if !self.tell(local, Flag::Hungry)
            && local.up - self.lane.consumed(Way::Up) > RING / 2
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
            let fits = || RING - (local.up - self.lane.consumed(Way::Up)).min(RING) >= length;
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
