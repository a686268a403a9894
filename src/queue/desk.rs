//! What the host of a queue knows, and how it hears of what its clients do: lanes and notes into events of the rules.

use super::Capacity;
use super::item::{Ask, Body, Heavy, Item, Note, Word, fate, kind, want};
use super::line::{Ahead, Line, Lines};
use super::quota::{Held, Purpose};
use super::state::{ClientId, Lanes, MOST_OWED, Nonsense, State};
use crate::reactor::{Watch, reactor};
use crate::sys::{EDQUOT, EMFILE};
use procession_worker::ipc::handoff::Handle;
use procession_worker::ipc::lane::{Claims, Flag, RING, Way};
use procession_worker::sys::memory::{self, is_sealed};
use procession_worker::sys::socket;
use procession_worker::wire::frame;
use slotmap::{SlotMap, new_key_type};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

new_key_type! {
    /// Names one ticket's other end.
    pub(super) struct DoorId;
}

/// So many notes of a client are read at one look.
const NOTES: usize = 256;

/// Files up to this size need not stay files.
const COPIED: u64 = 4 << 20;

pub(super) struct Desk {
    pub(super) state: State,
    pub(super) lines: Lines,
    pub(super) doors: SlotMap<DoorId, (OwnedFd, Watch, Option<Held>)>,
    /// Does somebody sleep on the bell, for all who wait here?
    pub(super) led: bool,
    /// So many sleep beside it, until they are told.
    pub(super) sleepers: usize,
    /// Doors that clients have sent, to be opened.
    pub(super) opened: Vec<(OwnedFd, Held)>,
    /// What clients have asked, to be answered.
    pub(super) asked: VecDeque<(ClientId, Note)>,
    /// Something has come from a client, or it has gone, since those who sleep here were told.
    pub(super) news: bool,
    pub(super) capacity: Capacity,
}

impl Desk {
    /// Reads what a client has written; an error is its end.
    fn pump(&mut self, client: ClientId, by_socket: bool) -> Result<(), Nonsense> {
        if by_socket {
            // Who writes faster than we read is not to keep all others waiting.
            self.read_notes(client, NOTES, None)?;
        }
        let Self { state, lines, .. } = self;
        let Some(line) = lines.all.get_mut(client) else { return Ok(()) };
        // In this order: a hand that is empty is empty because the item is done, or leased by a frame that is there; and
        // a frame may speak of an item that was taken a moment ago.
        let before = line.lane.claim(Claims::Gets).next;
        let hands = line.lane.hands();
        let committed = line.lane.committed(Way::Up);
        state.taken(client, line.lane.claim(Claims::Gets).next)?;
        let fresh = committed.checked_sub(line.read).filter(|fresh| *fresh <= RING).ok_or(Nonsense)?;
        if fresh > 0 {
            self.news = true;
            let mut bytes = Vec::new();
            line.lane.read(Way::Up, line.read, committed, &mut bytes);
            line.read = committed;
            line.lane.consume(Way::Up, committed);
            line.lane.set(Flag::Told, 0);
            self.understand(client, &Arc::new(bytes))?;
            self.lines.wake(client);
        }
        let Some(line) = self.lines.all.get_mut(client) else { return Ok(()) };
        for item in self.state.settle(client, &hands, before) {
            line.recycle(item);
        }
        self.state.need(client, line.needs())
    }

    fn understand(&mut self, client: ClientId, bytes: &Arc<Vec<u8>>) -> Result<(), Nonsense> {
        let mut at = 0;
        while at < bytes.len() {
            let (frame, whole) = frame::split(&bytes[at..], RING).ok().flatten().ok_or(Nonsense)?;
            let body = at + whole - frame.payload.len()..at + whole;
            at += whole;
            let number = || frame.payload.try_into().map(u32::from_le_bytes).map_err(|_| Nonsense);
            match frame.kind {
                kind::LIGHT => {
                    let units = self.units(body.len() as u64);
                    let body = Body::Bytes(Arc::clone(bytes), body);
                    let handles = Vec::new();
                    let item = Item { body, handles, number: 0, ours: false, units, held: None };
                    self.state.arrived(client, item)?;
                }
                kind::HEAVY => self.heavy(client, bytes, &body)?,
                kind::LEASED => self.state.leased(client, number()?)?,
                kind::DONE => self.state.lease_ended(client, number()?, true)?,
                kind::BACK => self.state.lease_ended(client, number()?, false)?,
                kind::TASK_DONE => drop(self.state.task_done(Some(client))),
                _ => return Err(Nonsense),
            }
        }
        Ok(())
    }

    fn units(&self, len: u64) -> u32 {
        self.capacity.units_of(len)
    }

    fn heavy(&mut self, client: ClientId, bytes: &Arc<Vec<u8>>, body: &Range<usize>) -> Result<(), Nonsense> {
        let (head, inline) = Heavy::split(&bytes[body.clone()]).ok_or(Nonsense)?;
        let count = head.count as usize;
        // Those of an item that was given up before its frame could be written.
        let given_up = |line: &Line| line.fds.front().is_some_and(|ahead| ahead.id != head.id);
        let line = self.lines.all.get_mut(client).ok_or(Nonsense)?;
        while given_up(line) {
            line.fds.pop_front();
        }
        if line.fds.len() < count {
            // They were sent before the frame was written.
            self.read_notes(client, MOST_OWED, Some((head.id, count)))?;
        }
        let line = self.lines.all.get_mut(client).ok_or(Nonsense)?;
        let is_whole =
            line.fds.len() >= count && line.fds.iter().take(count).all(|ahead| ahead.id == head.id);
        if !is_whole || (head.filed > 0 && count == 0) {
            return Err(Nonsense);
        }
        let units = self.capacity.units_of(head.filed.max(inline.len() as u64));
        let came: Result<Vec<(OwnedFd, Held)>, i32> = line.fds.drain(..count).map(|ahead| ahead.fd).collect();
        // Who maps it must not be ended by who cuts it short.
        if let Ok(came) = &came
            && head.filed > 0
            && !is_sealed(&came[0].0, head.filed).unwrap_or(false)
        {
            return Err(Nonsense);
        }
        let verdict = came.as_ref().map_or_else(|errno| errno.unsigned_abs() + 1, |_| fate::TAKEN);
        let fate = line.lane.decide(head.place as usize, verdict);
        match came {
            Ok(came) if fate == fate::TAKEN => {
                let inline = body.end - inline.len()..body.end;
                self.state.arrived(client, heavy_item(came, head.filed, bytes, inline, units))?;
            }
            _ => self.state.refused(client, units)?,
        }
        self.lines.answer(client, head.id, u64::from(verdict - 1));
        Ok(())
    }

    /// Reads at most so many notes, or until so many descriptors of one item are there. What they ask is heeded when all frames
    /// have been understood that were written before.
    fn read_notes(
        &mut self,
        client: ClientId,
        most: usize,
        due: Option<(u32, usize)>,
    ) -> Result<(), Nonsense> {
        for _ in 0..most {
            let Some(line) = self.lines.all.get_mut(client) else { return Ok(()) };
            if due.is_some_and(|(_, count)| line.fds.len() >= count) {
                break;
            }
            if line.outbox.len() > MOST_OWED || line.fds.len() > 2 * MOST_OWED {
                return Err(Nonsense);
            }
            let (mut bytes, mut fds) = ([0; Note::SIZE], Vec::new());
            let received = match socket::receive(&line.socket, &mut bytes, &mut fds, false) {
                Ok(received) if received.len > 0 => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                _ => return Err(Nonsense),
            };
            let note = Note::from_bytes(&bytes[..received.len]).ok_or(Nonsense)?;
            match note.word {
                Word::Knock => {}
                // Of one that was given up.
                Word::Fds if due.is_some_and(|(id, _)| id != note.id) => {}
                Word::Fds => {
                    let due = usize::try_from(note.value).map_err(|_| Nonsense)?;
                    if due > socket::AT_ONCE || fds.len() > due {
                        return Err(Nonsense);
                    }
                    let missing = due - fds.len();
                    let held = |fd| Held::take(Purpose::Items, 1).map(|held| (fd, held)).ok_or(EDQUOT);
                    let fds = fds.into_iter().map(held).chain((0..missing).map(|_| Err(EMFILE)));
                    line.fds.extend(fds.map(|fd| Ahead { id: note.id, fd }));
                }
                Word::Want | Word::Ask | Word::Withdraw => self.asked.push_back((client, note)),
                // Where there is no place for it, whoever has the other end finds it closed.
                Word::Door => match fds.pop() {
                    Some(door) => self.opened.extend(Held::take(Purpose::Guests, 1).map(|held| (door, held))),
                    None if received.fds_lost => {}
                    None => return Err(Nonsense),
                },
                Word::Enter | Word::Answer | Word::Bell => return Err(Nonsense),
            }
        }
        Ok(())
    }

    /// Answers what has been asked.
    fn heed(&mut self) {
        while let Some((client, note)) = self.asked.pop_front() {
            let heeded = match note.word {
                Word::Want => self.wanted(client, note),
                Word::Ask => self.asked(client, note),
                _ => {
                    if self.state.withdraw(client, note.id) {
                        self.lines.answer(client, note.id, 0);
                    }
                    Ok(())
                }
            };
            if heeded.is_err() {
                self.leave(client);
            }
        }
    }

    fn wanted(&mut self, client: ClientId, note: Note) -> Result<(), Nonsense> {
        let sole = note.value != 0;
        self.pump_all(false);
        let given = self.state.try_want(client, &mut self.lines);
        let answer = match given {
            true => want::GIVEN,
            false if self.state.is_over(Some(client), sole) => want::OVER,
            false => want::NOTHING,
        };
        self.lines.answer(client, note.id, answer);
        Ok(())
    }

    fn asked(&mut self, client: ClientId, note: Note) -> Result<(), Nonsense> {
        let ask = Ask::from_value(note.value).ok_or(Nonsense)?;
        self.pump_all(false);
        let answer = match ask {
            Ask::Len => self.state.len() as u64,
            Ask::Full => u64::from(self.state.is_full()),
            Ask::Room => {
                let needs = self.lines.all.get(client).map_or(0, Line::needs);
                self.state.need(client, needs)?;
                self.state.serve(&mut self.lines);
                let granted = self.state.give_up_need(client);
                u64::from(granted)
            }
            Ask::Close => {
                self.close();
                1
            }
            Ask::TaskDone => u64::from(self.state.task_done(Some(client))),
            Ask::Join => return self.state.join(client, note.id),
        };
        self.lines.answer(client, note.id, answer);
        Ok(())
    }

    pub(super) fn close(&mut self) {
        for line in self.lines.all.values() {
            line.lane.set(Flag::Closed, 1);
        }
        self.state.close(&mut self.lines);
        let clients: Vec<_> = self.state.members().collect();
        for client in clients {
            self.lines.wake(client);
        }
    }

    /// Reads what all clients have written; those who make no sense, or are gone, leave.
    pub(super) fn pump_all(&mut self, by_socket: bool) {
        let clients: Vec<_> = self.state.members().collect();
        for client in clients {
            self.pump_or_bury(client, by_socket);
        }
    }

    pub(super) fn pump_or_bury(&mut self, client: ClientId, by_socket: bool) {
        if self.pump(client, by_socket).is_err() {
            // What it had finished counts; its socket may have said that it is gone before that was seen.
            let _ = self.pump(client, false);
            self.leave(client);
        }
    }

    fn leave(&mut self, client: ClientId) {
        if let Some(line) = self.lines.all.remove(client)
            && let (Some(watch), Ok(reactor)) = (line.watch, reactor())
        {
            reactor.remove(watch, &line.socket);
        }
        self.news = true;
        self.state.leave(client);
    }

    /// Does what there is to do. With `by_bell` somebody sleeps on the bell, or is about to.
    pub(super) fn settle(&mut self, by_bell: bool) {
        self.heed();
        self.state.look_anew();
        self.attend();
        if self.state.anybody_waits() {
            // Clients are to tell what they do; and what they did before they knew that is looked at.
            self.listen(by_bell);
            self.pump_all(false);
            self.attend();
        } else if self.state.anybody_rests() && self.stay_alert() {
            self.pump_all(false);
            self.attend();
        }
        for (client, line) in self.lines.all.iter_mut().filter(|(_, line)| !line.idle) {
            if self.state.rests(client) {
                line.idle = true;
                line.lane.set(Flag::Idle, 1);
            }
        }
    }

    /// Nobody waits; but who begins to wait says nothing while we are idle, so whoever puts must say it. True if some did not
    /// know yet.
    fn stay_alert(&self) -> bool {
        let mut any = false;
        for line in self.lines.all.values().filter(|line| line.lane.get(Flag::Hungry) != 1) {
            line.lane.set(Flag::Hungry, 1);
            any = true;
        }
        any
    }

    /// Gives out what there is, to whoever wants it.
    pub(super) fn attend(&mut self) {
        loop {
            if !self.state.may_idle() {
                // First: who asks after this look sees that it must knock.
                for line in self.lines.all.values_mut().filter(|line| line.idle) {
                    line.idle = false;
                    line.lane.set(Flag::Idle, 0);
                }
            }
            self.hear_wants();
            self.state.serve(&mut self.lines);
            // What was taken back from some may be there for others.
            if self.state.may_idle() || !self.lines.all.values().any(|line| line.idle) {
                return;
            }
        }
    }

    /// Asks all clients to tell what they do. The bell is for one who sleeps on it here; the reactor serves others.
    fn listen(&self, by_bell: bool) {
        let by_bell = by_bell && !self.state.others_wait();
        for line in self.lines.all.values() {
            let how = if by_bell && line.has_bell { 2 } else { 1 };
            line.lane.set(Flag::Hungry, how);
            if self.state.cares_for_gets() {
                line.lane.set(Flag::Curious, how);
            }
        }
    }

    /// Looks who waits for an item.
    fn hear_wants(&mut self) {
        for (client, line) in &self.lines.all {
            self.state.want(client, line.asks());
        }
    }
}

/// A client's large item. Files that are not too large are copied when descriptors are scarce.
fn heavy_item(
    came: Vec<(OwnedFd, Held)>,
    filed: u64,
    bytes: &Arc<Vec<u8>>,
    inline: Range<usize>,
    units: u32,
) -> Item {
    let (mut handles, held): (Vec<Handle>, Vec<Held>) =
        came.into_iter().map(|(fd, held)| (Arc::new(fd), held)).unzip();
    let mut held = held.into_iter().reduce(Held::and);
    let body = if filed == 0 {
        Body::Bytes(Arc::clone(bytes), inline)
    } else if let Some(copy) = held
        .as_ref()
        .filter(|held| held.is_scarce() && filed <= COPIED && handles.len() == 1)
        .and_then(|_| copy_of(&handles[0], filed))
    {
        handles.clear();
        held = None;
        let all = 0..copy.len();
        Body::Bytes(Arc::new(copy), all)
    } else {
        Body::File(handles.remove(0), filed)
    };
    Item { body, handles, number: 0, ours: false, units, held: held.map(Arc::new) }
}

fn copy_of(file: &Handle, len: u64) -> Option<Vec<u8>> {
    let mut copy = vec![0; usize::try_from(len).ok()?];
    memory::read_from(file, &mut copy).ok()?;
    Some(copy)
}
