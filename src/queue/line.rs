//! One client of a queue as its host sees it: its lane, its socket, and what is on the way to it.

use super::item::{Body, INLINE, Item, Note, Word, kind, want};
use super::quota::Held;
use super::state::{ClientId, Lanes};
use crate::reactor::{Interest, Watch, reactor};
use crate::sys::EAGAIN;
use procession_worker::ipc::handoff::Handle;
use procession_worker::ipc::lane::{Claims, Flag, Lane, RING, Way};
use procession_worker::sys::socket;
use slotmap::SecondaryMap;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// So many files are kept for a client's next large items, none larger than that.
const SPARES: usize = 8;
const SPARE: u64 = 4 << 20;

/// What the rules see of the lanes.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) all: SecondaryMap<ClientId, Line>,
    /// Somebody in this process is to be told.
    pub(super) wake_local: bool,
    /// Something could not be had from the system, which may have it later.
    pub(super) try_again: bool,
    /// It will be asked again, at its time.
    pub(super) alarmed: bool,
}

/// One client's lane and socket.
pub(super) struct Line {
    pub(super) lane: Lane,
    pub(super) socket: OwnedFd,
    pub(super) watch: Option<Watch>,
    /// How much of the ring up has been read, and where the ring down is written next.
    pub(super) read: u64,
    pub(super) written: u64,
    /// Descriptors that came ahead of their items.
    pub(super) fds: VecDeque<Ahead>,
    /// What its socket did not take yet.
    pub(super) outbox: VecDeque<(Note, Vec<Handle>)>,
    deliveries: u32,
    /// Files of large items that the client is done with: their memory is there already.
    spares: Vec<Handle>,
    blocked: bool,
    pub(super) idle: bool,
    pub(super) has_bell: bool,
    /// Descriptors could not be sent: none are, until it is time to ask the system again.
    pub(super) rests: bool,
    _held: Held,
}

/// A descriptor for an item, or an errno in the place of one that did not come.
pub(super) struct Ahead {
    pub(super) id: u32,
    pub(super) fd: Result<(OwnedFd, Held), i32>,
}

impl Line {
    pub(super) fn new(lane: Lane, socket: OwnedFd, watch: Watch, held: Held) -> Self {
        Self {
            lane,
            socket,
            watch: Some(watch),
            read: 0,
            written: 0,
            fds: VecDeque::new(),
            outbox: VecDeque::new(),
            deliveries: 0,
            spares: Vec::new(),
            blocked: false,
            idle: false,
            has_bell: false,
            rests: false,
            _held: held,
        }
    }

    /// The room that somebody there waits for, unless it is there already.
    pub(super) fn needs(&self) -> u32 {
        let units = self.lane.get(Flag::Needs);
        if self.lane.claim(Claims::Puts).left() < units { units } else { 0 }
    }

    /// The client is done with an item.
    pub(super) fn recycle(&mut self, item: Item) {
        if let Body::File(file, len) = item.body
            && item.ours
            && len <= SPARE
            && self.spares.len() < SPARES
            && Arc::strong_count(&file) == 1
        {
            self.spares.push(file);
        }
    }

    /// Does somebody there wait, and has not been answered; and is he the only one of his process who could put?
    pub(super) fn asks(&self) -> Option<bool> {
        match self.lane.get(Flag::Wants) {
            1 => Some(false),
            2 => Some(true),
            _ => None,
        }
    }

    /// Sends one note, now or later.
    pub(super) fn send(&mut self, note: Note, handles: Vec<Handle>) {
        self.outbox.push_back((note, handles));
        self.flush();
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) {
        while let Some((note, handles)) = self.outbox.front() {
            let numbers: Vec<RawFd> = handles.iter().map(AsRawFd::as_raw_fd).collect();
            match socket::send(&self.socket, &note.to_bytes(), &numbers, false) {
                Err(error) if error.raw_os_error() == Some(EAGAIN) => break,
                // Without its descriptors the client learns that they are missing; without the client nobody does.
                Err(_) if !numbers.is_empty() => {
                    let note = *note;
                    self.outbox[0] = (note, Vec::new());
                    self.rests = true;
                    continue;
                }
                _ => drop(self.outbox.pop_front()),
            }
        }
        if self.blocked == self.outbox.is_empty()
            && let (Some(watch), Ok(reactor)) = (self.watch, reactor())
        {
            self.blocked = !self.blocked;
            reactor.modify(watch, &self.socket, if self.blocked { Interest::Both } else { Interest::Read });
        }
    }
}

impl Lanes for Lines {
    fn deliver(&mut self, to: ClientId, item: &mut Item) -> Option<u64> {
        let line = self.all.get_mut(to)?;
        let start = line.written;
        let free = RING - start.wrapping_sub(line.lane.consumed(Way::Down)).min(RING);
        if free < INLINE as u64 + 64 {
            return None;
        }
        if item.is_heavy() {
            if !line.outbox.is_empty() {
                return None;
            }
            if line.rests || item.make_portable(line.spares.pop()).is_err() {
                // No event tells that the system has descriptors or memory again, or takes more on their way.
                self.try_again = true;
                return None;
            }
            line.deliveries = line.deliveries.wrapping_add(1);
            let (head, handles, inline) = item.heavy_head(line.deliveries, 0);
            for batch in handles.chunks(socket::AT_ONCE) {
                line.send(Note::new(Word::Fds, line.deliveries, batch.len() as u64), batch.to_vec());
            }
            line.written += line.lane.write_frame(Way::Down, start, kind::HEAVY, [&head, inline]);
        } else {
            line.written += line.lane.write_frame(Way::Down, start, kind::LIGHT, [item.light(), &[]]);
        }
        line.lane.commit(Way::Down, line.written);
        line.lane.give(Claims::Gets, 1);
        Some(start)
    }

    fn take_back(&mut self, from: ClientId, count: u32) -> u32 {
        self.all.get(from).map_or(0, |line| line.lane.take_back(Claims::Gets, count))
    }

    fn rewind(&mut self, of: ClientId, start: u64) {
        if let Some(line) = self.all.get_mut(of) {
            line.written = start;
            line.lane.commit(Way::Down, start);
        }
    }

    fn grant(&mut self, to: ClientId, units: u32) {
        if let Some(line) = self.all.get(to) {
            line.lane.give(Claims::Puts, units);
        }
        // It may have come too late for the look that its user took before going to sleep.
        self.wake(to);
    }

    fn revoke(&mut self, from: ClientId) -> u32 {
        self.all.get(from).map_or(0, |line| line.lane.take_back(Claims::Puts, u32::MAX))
    }

    /// Has it asked, or is it about to take what it asked for?
    fn wants(&self, client: ClientId) -> bool {
        self.all.get(client).is_some_and(|line| line.lane.get(Flag::Wants) != 0)
    }

    fn has_asked(&self, client: ClientId) -> bool {
        self.all.get(client).is_some_and(|line| line.asks().is_some())
    }

    fn answer(&mut self, to: ClientId, id: u32, value: u64) {
        if let Some(line) = self.all.get_mut(to) {
            if id == 0 {
                line.lane.set(Flag::Wants, if value == want::GIVEN { 3 } else { 0 });
            }
            line.send(Note::new(Word::Answer, id, value), Vec::new());
        }
    }

    fn wake(&mut self, client: ClientId) {
        if let Some(line) = self.all.get_mut(client)
            && line.lane.take(Flag::Asleep) != 0
            && line.outbox.is_empty()
        {
            line.send(Note::new(Word::Knock, 0, 0), Vec::new());
        }
    }

    fn wake_local(&mut self) {
        self.wake_local = true;
    }
}
