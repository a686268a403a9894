//! The use of a queue from another process than its host's: a lane for what is quick, a socket for what must be said.

use super::host::NotPut;
use super::item::{Ask, Bytes, Heavy, Item, Note, Word, kind, want};
use super::{Capacity, GetError};
use crate::sys::wait;
use procession_worker::ipc::handoff::{Handle, Incoming};
use procession_worker::ipc::lane::{Claims, Flag, HANDS, Lane, RING, Way};
use procession_worker::sys::socket;
use procession_worker::wire::frame::{self, MAX_HEADER};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who will not wait is told what the host says, if that is not stopped: so long is it asked for.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Client {
    lane: Lane,
    socket: OwnedFd,
    capacity: Capacity,
    local: Mutex<Local>,
    changed: Condvar,
    ids: AtomicU32,
    /// Items got here, less tasks reported done here.
    undone: AtomicU64,
}

#[derive(Default)]
struct Local {
    /// How far the rings have been written and read.
    up: u64,
    down: u64,
    /// Bits of hands in use.
    hands: u64,
    /// Threads that wait for an item.
    getters: usize,
    /// What each thread needs that waits for room.
    needs: Vec<u32>,
    /// Threads that sleep beside the one that reads.
    sleepers: usize,
    /// One of those who wait reads the socket for all.
    led: bool,
    answers: HashMap<u32, u64>,
    /// Answers that nobody waits for any more.
    unwanted: HashSet<u32>,
    fds: BTreeMap<u32, Came>,
    bell: Option<File>,
    /// How often the host has said that nothing more will come.
    overs: u64,
    gone: bool,
}

/// Descriptors of one large item, and how many there was no room for.
#[derive(Default)]
struct Came {
    fds: Vec<OwnedFd>,
    lost: usize,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// An item that has been taken, and is in hand until this is dropped: then it is the caller's.
#[derive(Debug)]
pub(super) struct Got<'a> {
    pub(super) bytes: Bytes,
    pub(super) came: Incoming,
    pub(super) number: u32,
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
    /// Comes by a ticket.
    pub(super) fn enter(ticket: &OwnedFd, capacity: Capacity) -> io::Result<Self> {
        let lane = Lane::create()?;
        let (ours, theirs) = socket::pair()?;
        let note = Note::new(Word::Enter, 0, 0).to_bytes();
        socket::send(ticket, &note, &[theirs.as_raw_fd(), lane.as_fd().as_raw_fd()], true)?;
        Ok(Self {
            lane,
            socket: ours,
            capacity,
            local: Mutex::default(),
            changed: Condvar::new(),
            ids: AtomicU32::new(1),
            undone: AtomicU64::new(0),
        })
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u32 {
        // 0 is for those who wait.
        self.ids.fetch_add(1, Ordering::Relaxed).max(1)
    }

    // ---- the socket -----------------------------------------------------------------------------------------------

    /// Says something that must arrive; false at the deadline, an error if nobody is there.
    fn say(&self, note: Note, fds: &[RawFd], deadline: Option<Instant>) -> io::Result<bool> {
        loop {
            match socket::send(&self.socket, &note.to_bytes(), fds, false) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let [room] = wait::ready([(self.socket.as_fd(), true)], deadline);
                    if !room && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Has the host look at the lane. A full socket is full of such knocks.
    fn knock(&self) {
        let _ = socket::send(&self.socket, &Note::new(Word::Knock, 0, 0).to_bytes(), &[], false);
    }

    /// The bell, if it has been sent.
    fn bell<'a>(&self, local: &'a mut Local) -> Option<&'a File> {
        while local.bell.is_none() && !local.led {
            match self.receive(false) {
                Ok(None) => break,
                message => Self::hear(local, message),
            }
            if local.gone {
                break;
            }
        }
        local.bell.as_ref()
    }

    /// After something that the host may wait for.
    fn tell(&self, local: &mut Local, flag: Flag) -> bool {
        match self.lane.take(flag) {
            0 => return false,
            2 => match self.bell(local) {
                // A bell that rings already need not ring more.
                Some(mut bell) => drop(bell.write(&1_u64.to_ne_bytes())),
                None => self.knock(),
            },
            _ => self.knock(),
        }
        true
    }

    /// The next message of the socket; `None` if there is none and `wait` is not set, an error when there will be none.
    fn receive(&self, wait: bool) -> io::Result<Option<(Option<Note>, Vec<OwnedFd>)>> {
        let (mut bytes, mut fds) = ([0; Note::SIZE], Vec::new());
        match socket::receive(&self.socket, &mut bytes, &mut fds, wait) {
            Ok(received) if received.len > 0 => Ok(Some((Note::from_bytes(&bytes[..received.len]), fds))),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn hear(local: &mut Local, message: io::Result<Option<(Option<Note>, Vec<OwnedFd>)>>) {
        let (note, mut fds) = match message {
            Ok(Some((Some(note), fds))) => (note, fds),
            Ok(_) => return,
            Err(_) => {
                local.gone = true;
                return;
            }
        };
        match note.word {
            Word::Fds => {
                let came = local.fds.entry(note.id).or_default();
                came.lost += usize::try_from(note.value).unwrap_or(0).saturating_sub(fds.len());
                came.fds.extend(fds);
            }
            Word::Bell => local.bell = fds.pop().map(File::from),
            Word::Answer if note.id == 0 => local.overs += u64::from(note.value == want::OVER),
            Word::Answer if local.unwanted.remove(&note.id) => {}
            Word::Answer => drop(local.answers.insert(note.id, note.value)),
            _ => {}
        }
    }

    /// Waits until something comes by the socket; false at the deadline. One reads for all who wait.
    fn wait<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Local>, bool) {
        if local.led {
            local.sleepers += 1;
            let (mut local, in_time) = wait::sleep(&self.changed, local, deadline);
            local.sleepers -= 1;
            return (local, in_time);
        }
        local.led = true;
        drop(local);
        let message = if deadline.is_some() {
            let [_] = wait::ready([(self.socket.as_fd(), false)], deadline);
            self.receive(false)
        } else {
            self.receive(true)
        };
        let mut local = self.local();
        local.led = false;
        Self::hear(&mut local, message);
        if local.sleepers > 0 {
            self.changed.notify_all();
        }
        let in_time = deadline.is_none_or(|deadline| deadline > Instant::now());
        (local, in_time)
    }

    /// Asks the host, and waits for its answer.
    fn answer(&self, word: Word, value: u64, deadline: Option<Instant>) -> Option<u64> {
        let id = self.next_id();
        if !self.say(Note::new(word, id, value), &[], deadline).unwrap_or(false) {
            return None;
        }
        self.await_answer(self.local(), id, deadline).1
    }

    fn await_answer<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
        id: u32,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Local>, Option<u64>) {
        loop {
            if let Some(answer) = local.answers.remove(&id) {
                return (local, Some(answer));
            }
            if local.gone {
                return (local, None);
            }
            let in_time;
            (local, in_time) = self.wait(local, deadline);
            if !in_time && !local.answers.contains_key(&id) {
                local.unwanted.insert(id);
                return (local, None);
            }
        }
    }

    /// All but one handle in this process are gone: whoever waits by it is the only one here who could put.
    pub(super) fn look_again(&self) {
        let local = self.local();
        if local.getters > 0 {
            self.lane.set(Flag::Wants, 2);
            self.knock();
        }
    }

    pub(super) fn ask(&self, ask: Ask, deadline: Option<Instant>) -> Option<u64> {
        self.answer(Word::Ask, ask as u64, deadline)
    }

    /// A door of the host's for whoever has the other end.
    pub(super) fn ticket(&self) -> io::Result<OwnedFd> {
        let (host, ours) = socket::pair()?;
        if self.say(Note::new(Word::Door, 0, 0), &[host.as_raw_fd()], None).is_ok() {
            Ok(ours)
        } else {
            Err(io::Error::new(io::ErrorKind::NotConnected, "the queue's process is gone"))
        }
    }

    // ---- put ------------------------------------------------------------------------------------------------------

    pub(super) fn put(&self, item: &mut Item, deadline: Option<Instant>) -> Result<(), NotPut> {
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
    fn committed(&self, local: &mut Local) {
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

    fn wait_for_ring<'a>(
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

    // ---- get ------------------------------------------------------------------------------------------------------

    /// Takes an item. With `sole` the caller is the only one of this process who could put.
    pub(super) fn get(
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
        let mut head = Vec::with_capacity(64);
        let written = self.lane.committed(Way::Down);
        self.lane.read(Way::Down, local.down, written.min(local.down + 64), &mut head);
        // The host is trusted with its own items, but not with our memory.
        let (kind, head_len, length) = frame::parse_header(&head).unwrap_or((u8::MAX, 0, 0));
        let end = local.down + head_len as u64 + length;
        let mut payload = Vec::with_capacity(usize::try_from(length.min(RING)).unwrap_or(0));
        if end <= written {
            self.lane.read(Way::Down, local.down + head_len as u64, end, &mut payload);
        }
        local.down = end;
        self.lane.consume(Way::Down, end);
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

    // ---- leases and tasks -----------------------------------------------------------------------------------------

    /// Writes a frame about an item.
    pub(super) fn report(&self, kind: u8, number: u32) -> Result<(), NotPut> {
        let (mut local, room) = self.wait_for_ring(self.local(), 32, None);
        room?;
        local.up += self.lane.write_frame(Way::Up, local.up, kind, [&number.to_le_bytes(), &[]]);
        self.committed(&mut local);
        if kind == kind::LEASED {
            // The lease's end will report it.
            let _ = self.undone.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
        Ok(())
    }

    pub(super) fn task_done(&self) -> bool {
        let counted =
            self.undone.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |undone| undone.checked_sub(1));
        if counted.is_ok() {
            return self.report(kind::TASK_DONE, 0).is_ok();
        }
        self.ask(Ask::TaskDone, None) == Some(1)
    }

    /// Waits until all tasks are done.
    pub(super) fn join(&self, deadline: Option<Instant>) -> bool {
        let id = self.next_id();
        if !self.say(Note::new(Word::Ask, id, Ask::Join as u64), &[], deadline).unwrap_or(false) {
            return false;
        }
        let answer = self.await_answer(self.local(), id, deadline).1;
        if answer.is_none() {
            let _ = self.say(Note::new(Word::Withdraw, id, 0), &[], deadline);
        }
        answer.is_some()
    }

    pub(super) const fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// The deadline, but time enough for a host that runs to answer.
fn patient(deadline: Option<Instant>) -> Option<Instant> {
    deadline.map(|deadline| deadline.max(Instant::now() + PATIENCE))
}
