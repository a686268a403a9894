//! The host of a queue: the thin shell round its rules, in the process that made it. Whoever holds the lock carries out what
//! the rules decide: the reactor's thread for other processes, a caller for itself.

use super::item::{Ask, Body, Bytes, Heavy, Item, Note, Word, kind, want};
use super::state::{ClientId, Lanes, Nonsense, State};
use super::{Capacity, GetError};
use crate::reactor::{Interest, Source, Watch, reactor};
use crate::sys::wait;
use crate::sys::{EAGAIN, EMFILE};
use nix::sys::eventfd::{EfdFlags, EventFd};
use procession_worker::ipc::handoff::{Handle, Incoming};
use procession_worker::ipc::lane::{Claims, Flag, Lane, RING, Way};
use procession_worker::sys::socket;
use procession_worker::wire::frame;
use slotmap::{Key, KeyData, SecondaryMap, SlotMap, new_key_type};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

new_key_type! {
    /// Names one ticket's other end.
    struct DoorId;
}

/// Tokens of doors; those of clients have this bit clear.
const DOOR: u64 = 1 << 63;

pub(super) struct Host {
    me: Weak<Self>,
    capacity: Capacity,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Rung by clients when somebody here waits.
    bell: OnceLock<EventFd>,
}

struct Inner {
    state: State,
    lines: Lines,
    doors: SlotMap<DoorId, (OwnedFd, Watch)>,
    /// Does somebody sleep on the bell, for all who wait here?
    led: bool,
    /// Doors that clients have sent, to be opened.
    opened: Vec<OwnedFd>,
    capacity: Capacity,
}

/// What the rules see of the lanes.
#[derive(Default)]
struct Lines {
    all: SecondaryMap<ClientId, Line>,
    /// Somebody in this process is to be told.
    wake_local: bool,
}

/// One client's lane and socket.
struct Line {
    lane: Lane,
    socket: OwnedFd,
    watch: Option<Watch>,
    /// How much of the ring up has been read, and where the ring down is written next.
    read: u64,
    written: u64,
    /// Descriptors that came ahead of their items, and an errno in the place of those that did not come.
    fds: VecDeque<Result<OwnedFd, i32>>,
    /// What its socket did not take yet.
    outbox: VecDeque<(Note, Vec<Handle>)>,
    deliveries: u32,
    blocked: bool,
    idle: bool,
    has_bell: bool,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Line {
    /// Sends one note, now or later.
    fn send(&mut self, note: Note, handles: Vec<Handle>) {
        self.outbox.push_back((note, handles));
        self.flush();
    }

    /// Sends what the socket takes.
    fn flush(&mut self) {
        while let Some((note, handles)) = self.outbox.front() {
            let numbers: Vec<RawFd> = handles.iter().map(AsRawFd::as_raw_fd).collect();
            match socket::send(&self.socket, &note.to_bytes(), &numbers, false) {
                Err(error) if error.raw_os_error() == Some(EAGAIN) => break,
                // Without its descriptors the client learns that they are missing; without the client nobody does.
                Err(_) if !numbers.is_empty() => {
                    let note = *note;
                    self.outbox[0] = (note, Vec::new());
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
        if free < super::item::INLINE as u64 + 64 {
            return None;
        }
        if item.is_heavy() {
            if !line.outbox.is_empty() || item.make_portable().is_err() {
                return None;
            }
            line.deliveries = line.deliveries.wrapping_add(1);
            let (head, handles, inline) = item.heavy_head(line.deliveries);
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

impl Inner {
    /// Reads what a client has written; an error is its end.
    fn pump(&mut self, client: ClientId, by_socket: bool) -> Result<(), Nonsense> {
        if by_socket {
            self.read_notes(client)?;
        }
        let Self { state, lines, .. } = self;
        let Some(line) = lines.all.get_mut(client) else { return Ok(()) };
        // In this order: a hand that is empty is empty because the item is done, or leased by a frame that is there.
        state.taken(client, line.lane.claim(Claims::Gets).next)?;
        let hands = line.lane.hands();
        let committed = line.lane.committed(Way::Up);
        let fresh = committed.checked_sub(line.read).filter(|fresh| *fresh <= RING).ok_or(Nonsense)?;
        if fresh > 0 {
            let mut bytes = Vec::new();
            line.lane.read(Way::Up, line.read, committed, &mut bytes);
            line.read = committed;
            line.lane.consume(Way::Up, committed);
            line.lane.set(Flag::Told, 0);
            self.understand(client, &Arc::new(bytes))?;
            self.lines.wake(client);
        }
        let Some(line) = self.lines.all.get_mut(client) else { return Ok(()) };
        self.state.settle(client, &hands);
        self.state.need(client, line.lane.get(Flag::Needs));
        Ok(())
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
                    self.state.arrived(client, Item { body, handles: Vec::new(), units })?;
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

    fn heavy(
        &mut self,
        client: ClientId,
        bytes: &Arc<Vec<u8>>,
        body: &std::ops::Range<usize>,
    ) -> Result<(), Nonsense> {
        let (head, inline) = Heavy::split(&bytes[body.clone()]).ok_or(Nonsense)?;
        let count = head.count as usize;
        if self.lines.all.get(client).is_some_and(|line| line.fds.len() < count) {
            // They were sent before the frame was written.
            self.read_notes(client)?;
        }
        let line = self.lines.all.get_mut(client).ok_or(Nonsense)?;
        if line.fds.len() < count || (head.filed > 0 && count == 0) {
            return Err(Nonsense);
        }
        let units = self.capacity.units_of(head.filed.max(inline.len() as u64));
        let came: Result<Vec<Handle>, i32> = line.fds.drain(..count).map(|fd| fd.map(Arc::new)).collect();
        let verdict = match came {
            Ok(mut handles) => {
                let body = if head.filed > 0 {
                    Body::File(handles.remove(0), head.filed)
                } else {
                    Body::Bytes(Arc::clone(bytes), body.end - inline.len()..body.end)
                };
                self.state.arrived(client, Item { body, handles, units })?;
                0
            }
            Err(errno) => {
                self.state.refused(client, units)?;
                u64::from(errno.unsigned_abs())
            }
        };
        self.lines.answer(client, head.id, verdict);
        Ok(())
    }

    fn read_notes(&mut self, client: ClientId) -> Result<(), Nonsense> {
        loop {
            let Some(line) = self.lines.all.get_mut(client) else { return Ok(()) };
            let (mut bytes, mut fds) = ([0; Note::SIZE], Vec::new());
            let received = match socket::receive(&line.socket, &mut bytes, &mut fds, false) {
                Ok(received) if received.len > 0 => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                _ => return Err(Nonsense),
            };
            let note = Note::from_bytes(&bytes[..received.len]).ok_or(Nonsense)?;
            match note.word {
                Word::Knock => {}
                Word::Fds => {
                    let due = usize::try_from(note.value).map_err(|_| Nonsense)?;
                    if due > socket::AT_ONCE || fds.len() > due {
                        return Err(Nonsense);
                    }
                    let missing = due - fds.len();
                    line.fds.extend(fds.into_iter().map(Ok));
                    line.fds.extend((0..missing).map(|_| Err(EMFILE)));
                }
                Word::Want => self.wanted(client, note)?,
                Word::Ask => self.asked(client, note)?,
                Word::Withdraw => self.state.withdraw(client, note.id),
                Word::Door => {
                    let door = fds.pop().ok_or(Nonsense)?;
                    self.opened.push(door);
                }
                Word::Enter | Word::Answer | Word::Bell => return Err(Nonsense),
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
                let needs = self.lines.all.get(client).map_or(0, |line| line.lane.get(Flag::Needs));
                self.state.need(client, needs);
                self.state.serve(&mut self.lines);
                let granted = self.state.give_up_need(client);
                u64::from(granted)
            }
            Ask::Close => {
                self.close();
                1
            }
            Ask::TaskDone => u64::from(self.state.task_done(Some(client))),
            Ask::Join => {
                self.state.join(client, note.id);
                return Ok(());
            }
        };
        self.lines.answer(client, note.id, answer);
        Ok(())
    }

    fn close(&mut self) {
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
    fn pump_all(&mut self, by_socket: bool) {
        let clients: Vec<_> = self.state.members().collect();
        for client in clients {
            self.pump_or_bury(client, by_socket);
        }
    }

    fn pump_or_bury(&mut self, client: ClientId, by_socket: bool) {
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
        self.state.leave(client);
    }

    /// Does what there is to do. With `by_bell` somebody sleeps on the bell, or is about to.
    fn settle(&mut self, by_bell: bool) {
        self.attend();
        if self.state.anybody_waits() {
            // Clients are to tell what they do; and what they did before they knew that is looked at.
            self.listen(by_bell);
            self.pump_all(false);
            self.attend();
        }
        if self.state.may_idle() {
            for line in self.lines.all.values_mut().filter(|line| !line.idle) {
                line.idle = true;
                line.lane.set(Flag::Idle, 1);
            }
        }
    }

    /// Gives out what there is, to whoever wants it.
    fn attend(&mut self) {
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
            line.lane.set(Flag::Curious, how);
        }
    }

    /// Looks who waits for an item.
    fn hear_wants(&mut self) {
        for (client, line) in &self.lines.all {
            let wants = match line.lane.get(Flag::Wants) {
                1 => Some(false),
                2 => Some(true),
                _ => None,
            };
            self.state.want(client, wants);
        }
    }
}

impl Host {
    pub(super) fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            capacity,
            inner: Mutex::new(Inner {
                state: State::new(capacity.units()),
                lines: Lines::default(),
                doors: SlotMap::with_key(),
                opened: Vec::new(),
                led: false,
                capacity,
            }),
            changed: Condvar::new(),
            bell: OnceLock::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is to be done, and tells those here whom it concerns.
    fn finish(&self, mut inner: MutexGuard<'_, Inner>) {
        let led = inner.led;
        inner.settle(led);
        let opened = std::mem::take(&mut inner.opened);
        for door in opened {
            let _ = self.open_door(&mut inner, door);
        }
        self.ring(&mut inner);
    }

    fn ring(&self, inner: &mut Inner) {
        if std::mem::take(&mut inner.lines.wake_local) {
            match (inner.led, self.bell.get()) {
                (true, Some(bell)) => drop(bell.write(1)),
                _ => self.changed.notify_all(),
            }
        }
    }

    // ---- tickets --------------------------------------------------------------------------------------------------

    /// A ticket: whoever has it may come, and it may be used more than once.
    pub(super) fn ticket(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = socket::pair()?;
        self.open_door(&mut self.inner(), ours)?;
        Ok(theirs)
    }

    fn open_door(&self, inner: &mut Inner, door: OwnedFd) -> io::Result<()> {
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let reactor = reactor()?;
        inner.doors.try_insert_with_key(|id| {
            let watch =
                reactor.add(&door, Interest::Read, me as Arc<dyn Source>, DOOR | id.data().as_ffi())?;
            Ok::<_, io::Error>((door, watch))
        })?;
        inner.state.door_opened();
        Ok(())
    }

    /// Somebody comes by a ticket, or nobody has it any more.
    fn at_door(&self, inner: &mut Inner, id: DoorId) {
        loop {
            let Some((door, _)) = inner.doors.get(id) else { return };
            let (mut bytes, mut fds) = ([0; Note::SIZE], Vec::new());
            match socket::receive(door, &mut bytes, &mut fds, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(received) if received.len > 0 => {
                    let note = Note::from_bytes(&bytes[..received.len]);
                    if note.is_some_and(|note| note.word == Word::Enter)
                        && let (Some(lane), Some(socket)) = (fds.pop(), fds.pop())
                    {
                        // Without room for it, it sees its socket closed.
                        let _ = self.admit(inner, socket, lane);
                    }
                }
                _ => {
                    if let (Some((door, watch)), Ok(reactor)) = (inner.doors.remove(id), reactor()) {
                        reactor.remove(watch, &door);
                        inner.state.door_closed();
                    }
                    return;
                }
            }
        }
    }

    fn admit(&self, inner: &mut Inner, socket: OwnedFd, lane: OwnedFd) -> io::Result<()> {
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let lane = Lane::open(lane)?;
        let client = inner.state.enter();
        let watch = reactor().and_then(|reactor| {
            reactor.add(&socket, Interest::Read, me as Arc<dyn Source>, client.data().as_ffi())
        });
        let watch = watch.inspect_err(|_| inner.state.leave(client))?;
        let mut line = Line {
            lane,
            socket,
            watch: Some(watch),
            read: 0,
            written: 0,
            fds: VecDeque::new(),
            outbox: VecDeque::new(),
            deliveries: 0,
            blocked: false,
            idle: false,
            has_bell: false,
        };
        if let Some(bell) = self.bell().and_then(|bell| bell.as_fd().try_clone_to_owned().ok()) {
            line.send(Note::new(Word::Bell, 0, 0), vec![Arc::new(bell)]);
            line.has_bell = true;
        }
        if inner.state.is_closed() {
            line.lane.set(Flag::Closed, 1);
        }
        inner.lines.all.insert(client, line);
        // Those who sleep here may now sleep on the bell.
        inner.lines.wake_local |= inner.state.local_waits();
        Ok(())
    }

    fn bell(&self) -> Option<&EventFd> {
        if self.bell.get().is_none() {
            let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).ok()?;
            let _ = self.bell.set(bell);
        }
        self.bell.get()
    }

    // ---- for this process -----------------------------------------------------------------------------------------

    /// The last handle in this process is gone.
    pub(super) fn abandon(&self) {
        let mut inner = self.inner();
        inner.state.abandon();
        self.finish(inner);
    }

    /// All but one handle in this process are gone: whoever waits by it may wait for nobody.
    pub(super) fn look_again(&self) {
        let mut inner = self.inner();
        inner.lines.wake_local = inner.state.local_waits();
        self.finish(inner);
    }

    pub(super) fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Tries until something comes of it, the deadline passes, or `over`.
    fn wait_until<R>(
        &self,
        deadline: Option<Instant>,
        who: Waiting,
        mut attempt: impl FnMut(&mut Inner) -> Option<R>,
    ) -> Option<R> {
        let mut inner = self.inner();
        if let Some(result) = attempt(&mut inner) {
            self.finish_if_needed(inner);
            return Some(result);
        }
        who.count(&mut inner.state, 1);
        let result = loop {
            // What is on its way to one who has just died comes back before anything is taken from behind it.
            let by_socket = !inner.state.has_items();
            inner.pump_all(by_socket);
            if let Some(result) = attempt(&mut inner) {
                break Some(result);
            }
            // Clients are asked to tell, and what they did before they were asked is looked at.
            let by_bell = inner.led || self.can_lead(&inner);
            inner.settle(by_bell);
            inner.lines.wake_local = false;
            if let Some(result) = attempt(&mut inner) {
                break Some(result);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break None;
            }
            inner = self.sleep(inner, deadline);
        };
        who.count(&mut inner.state, -1);
        // Whoever slept beside us looks for itself now.
        inner.lines.wake_local = true;
        self.finish(inner);
        result
    }

    /// The lock's way out when nothing has been waited for.
    fn finish_if_needed(&self, inner: MutexGuard<'_, Inner>) {
        let may_idle = inner.state.may_idle();
        let wanted = |line: &Line| line.idle != may_idle || matches!(line.lane.get(Flag::Wants), 1 | 2);
        if inner.state.anybody_waits() || inner.lines.all.values().any(wanted) {
            self.finish(inner);
        }
    }

    /// Is the bell free, and there somebody to ring it?
    fn can_lead(&self, inner: &Inner) -> bool {
        self.bell.get().is_some() && !inner.led && !inner.lines.all.is_empty()
    }

    fn sleep<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, Inner> {
        match self.bell.get().filter(|_| self.can_lead(&inner)) {
            Some(bell) => {
                inner.led = true;
                drop(inner);
                let [_] = wait::ready([(bell.as_fd(), false)], deadline);
                let mut inner = self.inner();
                inner.led = false;
                let _ = bell.read();
                self.changed.notify_all();
                inner
            }
            None => wait::sleep(&self.changed, inner, deadline).0,
        }
    }

    /// Puts an item; it comes back if there is no room until the deadline, or the queue is closed.
    pub(super) fn put(&self, item: Item, deadline: Option<Instant>) -> Result<(), NotPut> {
        let mut item = Some(item);
        self.wait_until(deadline, Waiting::Putter, |inner| {
            if inner.state.is_closed() {
                return Some(Err(NotPut::Closed));
            }
            match inner.state.put(item.take()?) {
                Ok(()) => Some(Ok(())),
                Err(back) => {
                    item = Some(back);
                    None
                }
            }
        })
        .unwrap_or(Err(NotPut::Full))
    }

    /// Takes an item, if there is one until the deadline. With `sole` the caller is the only one here who could put.
    pub(super) fn get(&self, deadline: Option<Instant>, sole: impl Fn() -> bool) -> Result<Item, GetError> {
        self.wait_until(deadline, Waiting::Getter, |inner| match inner.state.pop() {
            Some(item) => Some(Ok(item)),
            None => inner.state.is_over(None, sole()).then_some(Err(GetError::Closed)),
        })
        .unwrap_or(Err(GetError::Empty))
    }

    /// A lease that was taken here has come to its end.
    pub(super) fn give_back(&self, item: Item) {
        let mut inner = self.inner();
        inner.state.give_back(item);
        self.finish(inner);
    }

    /// What the rules say, after everything that clients have done.
    pub(super) fn ask<R>(&self, question: impl FnOnce(&State) -> R) -> R {
        let mut inner = self.inner();
        inner.pump_all(false);
        let answer = question(&inner.state);
        self.finish(inner);
        answer
    }

    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.close();
        inner.lines.wake_local = true;
        self.finish(inner);
    }

    pub(super) fn task_done(&self) -> bool {
        let mut inner = self.inner();
        inner.pump_all(false);
        let any = inner.state.task_done(None);
        self.finish(inner);
        any
    }

    /// Waits until all tasks are done; false at the deadline.
    pub(super) fn join(&self, deadline: Option<Instant>) -> bool {
        self.wait_until(deadline, Waiting::Joiner, |inner| (inner.state.unfinished() == 0).then_some(()))
            .is_some()
    }
}

/// Why an item was not put.
#[derive(Debug)]
pub(super) enum NotPut {
    Full,
    Closed,
    Gone,
    Io(io::Error),
}

#[derive(Debug, Clone, Copy)]
enum Waiting {
    Getter,
    Putter,
    Joiner,
}

impl Waiting {
    fn count(self, state: &mut State, by: isize) {
        match self {
            Self::Getter => state.wait_locally(by, 0, 0),
            Self::Putter => state.wait_locally(0, by, 0),
            Self::Joiner => state.wait_locally(0, 0, by),
        }
    }
}

impl Source for Host {
    fn on_ready(&self, token: u64) {
        let mut inner = self.inner();
        if token & DOOR != 0 {
            self.at_door(&mut inner, DoorId::from(KeyData::from_ffi(token & !DOOR)));
        } else {
            let client = ClientId::from(KeyData::from_ffi(token));
            if let Some(line) = inner.lines.all.get_mut(client) {
                line.flush();
            }
            inner.pump_or_bury(client, true);
            inner.lines.wake_local |= inner.state.local_waits();
        }
        self.finish(inner);
    }

    fn on_deadline(&self, _: u64) {}
}

/// The descriptors of an item that was got here.
pub(super) fn came_with(item: Item) -> Result<Incoming, GetError> {
    let own = |handle: Handle| Arc::try_unwrap(handle).or_else(|handle| handle.try_clone());
    let fds: io::Result<Vec<OwnedFd>> = item.handles.into_iter().map(own).collect();
    Ok(Incoming::new(fds.map_err(GetError::Io)?, None))
}

/// Bytes of an item that was got here.
pub(super) fn bytes_of(item: &Item) -> io::Result<Bytes> {
    match &item.body {
        Body::Bytes(bytes, range) => Ok(Bytes::Shared(Arc::clone(bytes), range.clone())),
        Body::File(file, len) => Bytes::of_file(file.try_clone()?, *len),
    }
}
