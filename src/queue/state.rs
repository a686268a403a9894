//! The rules of a queue, pure: who gets which item, who may put, what a death undoes. What it decides is carried out on
//! [`Lanes`] at once, since some of it is a race that only the shared memory decides.

mod heard;
mod room;
mod share;
#[cfg(test)]
mod tests;

use super::item::Item;
use slotmap::{SlotMap, new_key_type};
use std::collections::{BTreeMap, VecDeque};

new_key_type! {
    /// Names one process that uses the queue, other than the host.
    pub(super) struct ClientId;
}

/// A client that owes its attention to more answers than this is none.
pub(super) const MOST_OWED: usize = 1 << 16;

/// What can be done to the lanes.
pub(super) trait Lanes {
    /// Puts an item into the client's ring: where it begins there; `None` if there is no room now.
    fn deliver(&mut self, to: ClientId, item: &mut Item) -> Option<u64>;
    /// Takes back at most `count` items that the client has not taken: how many.
    fn take_back(&mut self, from: ClientId, count: u32) -> u32;
    /// The ring is empty again from here on.
    fn rewind(&mut self, of: ClientId, start: u64);
    /// Gives room for items to come.
    fn grant(&mut self, to: ClientId, units: u32);
    /// Takes back room that the client has not used: how much.
    fn revoke(&mut self, from: ClientId) -> u32;
    /// Does somebody there wait for an item?
    fn wants(&self, client: ClientId) -> bool;
    /// Has somebody there just begun to wait?
    fn has_asked(&self, _client: ClientId) -> bool {
        false
    }
    /// Answers a question.
    fn answer(&mut self, to: ClientId, id: u32, value: u64);
    /// Tells the client that something has changed.
    fn wake(&mut self, client: ClientId);
    /// Tells those in this process who wait.
    fn wake_local(&mut self);
}

/// A client broke the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonsense;

#[derive(Debug)]
struct Given {
    item: Item,
    start: u64,
}

#[derive(Debug, Default)]
struct Member {
    /// In its ring and not known to be taken; `first` is the number of the first of them.
    given: VecDeque<Given>,
    first: u32,
    /// Taken, and its `get` has not returned as far as we know.
    in_hand: BTreeMap<u32, Item>,
    leased: BTreeMap<u32, Item>,
    /// Items that it got, less tasks that it has reported done: a report may come first.
    undone: i64,
    /// Room given that has not come back as an item.
    credit: u32,
    need: u32,
    /// Somebody there waits for an item; is he the only one of his process who could put?
    wants: Option<bool>,
    /// Has it ever taken anything?
    consumes: bool,
    joining: Vec<u32>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct State {
    queue: VecDeque<Item>,
    capacity: Option<u64>,
    /// Units of items that are in the queue, here or in a ring.
    used: u64,
    members: SlotMap<ClientId, Member>,
    /// Tickets under way: somebody may come by them.
    doors: usize,
    /// The number of the last item that came.
    pushed: u64,
    /// Has anybody here ever taken anything?
    consumes: bool,
    /// Has any other process ever had it, or a ticket to it?
    shared: bool,
    /// Does this process have a handle?
    local: bool,
    local_getters: usize,
    local_putters: usize,
    local_joiners: usize,
    /// Leases of this process.
    local_leases: usize,
    /// The next room is for who waits for it in this process.
    local_turn: bool,
    /// A client has just been given room that is wanted here as well.
    fresh: bool,
    closed: bool,
    unfinished: u64,
    /// Members with wants, in the order in which they came.
    waiting: VecDeque<ClientId>,
    starved: VecDeque<ClientId>,
}

impl State {
    pub(super) fn new(capacity: Option<u64>) -> Self {
        Self {
            queue: VecDeque::new(),
            capacity,
            used: 0,
            members: SlotMap::with_key(),
            doors: 0,
            pushed: 0,
            consumes: false,
            shared: false,
            local: true,
            local_getters: 0,
            local_putters: 0,
            local_joiners: 0,
            local_leases: 0,
            local_turn: false,
            fresh: false,
            closed: false,
            unfinished: 0,
            waiting: VecDeque::new(),
            starved: VecDeque::new(),
        }
    }

    // ---- who is there ---------------------------------------------------------------------------------------------

    pub(super) fn enter(&mut self) -> ClientId {
        self.shared = true;
        self.members.insert(Member::default())
    }

    pub(super) fn door_opened(&mut self) {
        self.shared = true;
        self.doors += 1;
    }

    pub(super) fn door_closed(&mut self) {
        self.doors -= 1;
    }

    pub(super) fn abandon(&mut self) {
        self.local = false;
    }

    pub(super) fn members(&self) -> impl Iterator<Item = ClientId> + use<'_> {
        self.members.keys()
    }

    /// A process is gone, and with it its room; what it had not finished goes back to the front, the oldest first.
    pub(super) fn leave(&mut self, client: ClientId) {
        let Some(member) = self.members.remove(client) else { return };
        self.waiting.retain(|id| *id != client);
        self.starved.retain(|id| *id != client);
        for given in member.given.into_iter().rev() {
            self.reinsert(given.item);
        }
        // By number, which is the order in which they were given, but for the one time in 2³² when it begins anew.
        let mut back = member.leased;
        back.extend(member.in_hand);
        for item in back.into_values().rev() {
            self.put_back(item);
        }
        // Nobody will report these.
        let undone = u64::try_from(member.undone).unwrap_or(0);
        let most = self.unfinished.saturating_sub(undone);
        // What one has got another may have reported; but what is here is not done.
        self.unfinished = most.max(self.kept().min(self.unfinished));
    }

    /// Items that are in the queue, or in somebody's hands.
    fn kept(&self) -> u64 {
        let held = |member: &Member| member.given.len() + member.in_hand.len() + member.leased.len();
        (self.queue.len() + self.local_leases + self.members.values().map(held).sum::<usize>()) as u64
    }

    fn put_back(&mut self, item: Item) {
        self.used += u64::from(item.units);
        self.reinsert(item);
    }

    /// Where it was, among those who came before and after it.
    fn reinsert(&mut self, item: Item) {
        let at = self.queue.partition_point(|other| other.number < item.number);
        self.queue.insert(at, item);
    }

    // ---- this process ---------------------------------------------------------------------------------------------

    fn push(&mut self, mut item: Item) {
        self.pushed += 1;
        item.number = self.pushed;
        self.used += u64::from(item.units);
        self.unfinished += 1;
        self.queue.push_back(item);
    }

    /// Puts, if there is room.
    pub(super) fn put(&mut self, item: Item) -> Result<(), Item> {
        match self.free() {
            Some(free) if free < u64::from(item.units) => Err(item),
            _ => {
                self.local_turn = false;
                self.push(item);
                Ok(())
            }
        }
    }

    /// Takes the first item that is here.
    pub(super) fn pop(&mut self, lanes: &mut impl Lanes) -> Option<Item> {
        self.consumes = true;
        self.recall(lanes);
        let item = self.queue.pop_front()?;
        self.used -= u64::from(item.units);
        Some(item)
    }

    /// What was just taken here is kept by a lease.
    pub(super) const fn lease_here(&mut self) {
        self.local_leases += 1;
    }

    /// A lease of this process has come to its end; the item goes back, if it is there.
    pub(super) fn lease_here_ended(&mut self, item: Option<Item>) {
        self.local_leases -= 1;
        if let Some(item) = item {
            self.put_back(item);
        }
    }

    pub(super) fn close(&mut self, lanes: &mut impl Lanes) {
        self.closed = true;
        self.revoke_all(lanes);
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn wait_locally(&mut self, getters: isize, putters: isize, joiners: isize) {
        self.local_getters = self.local_getters.saturating_add_signed(getters);
        self.local_putters = self.local_putters.saturating_add_signed(putters);
        self.local_joiners = self.local_joiners.saturating_add_signed(joiners);
    }

    /// Does anybody wait for anything, here or elsewhere?
    pub(super) fn anybody_waits(&self) -> bool {
        self.local_waits() || self.others_wait()
    }

    /// Does anybody wait for items to be taken: for room, or for the end of all?
    pub(super) fn cares_for_gets(&self) -> bool {
        self.closed || self.local_putters > 0 || !self.starved.is_empty()
    }

    pub(super) const fn local_waits(&self) -> bool {
        self.local_getters + self.local_putters + self.local_joiners > 0
    }

    pub(super) fn others_wait(&self) -> bool {
        !self.waiting.is_empty()
            || !self.starved.is_empty()
            || self.members.values().any(|member| !member.joining.is_empty())
    }

    /// Items put and not got.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.members.values().map(|member| member.given.len()).sum::<usize>()
    }

    pub(super) const fn unfinished(&self) -> u64 {
        self.unfinished
    }

    pub(super) fn has_items(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Is there nothing to tell to one who wants an item, until something happens?
    pub(super) fn may_idle(&self) -> bool {
        let parties = self.members.len() + self.doors + usize::from(self.local);
        self.queue.is_empty() && !self.closed && parties > 1
    }

    /// Is there nothing for a client that has taken items before, and may come for more without a word?
    pub(super) fn rests(&self, client: ClientId) -> bool {
        self.may_idle() && self.members.get(client).is_some_and(|member| member.consumes)
    }

    pub(super) fn anybody_rests(&self) -> bool {
        self.may_idle() && self.members.values().any(|member| member.consumes)
    }

    /// Is there nothing, and never will be? Never: it is closed, or all others who had it are gone, and nobody but the one
    /// who asks could put.
    pub(super) fn is_over(&self, asker: Option<ClientId>, sole: bool) -> bool {
        let settled = |(id, member): (ClientId, &Member)| {
            let credit = if self.closed { member.credit == 0 } else { Some(id) == asker };
            credit
                && member.given.is_empty()
                && (Some(id) == asker || member.in_hand.is_empty())
                && member.leased.is_empty()
        };
        let others = (self.members.len() + self.doors + usize::from(self.local)).saturating_sub(1);
        self.queue.is_empty()
            && self.local_leases == 0
            && (self.closed || sole && others == 0 && self.shared)
            && self.members.iter().all(settled)
    }
}
