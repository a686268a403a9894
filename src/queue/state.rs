//! The rules of a queue, pure: who gets which item, who may put, what a death undoes. What it decides is carried out on
//! [`Lanes`] at once, since some of it is a race that only the shared memory decides.

use super::item::{Item, want};
use slotmap::{SlotMap, new_key_type};
use std::collections::{BTreeMap, VecDeque};

new_key_type! {
    /// Names one process that uses the queue, other than the host.
    pub(super) struct ClientId;
}

/// Room for items that an unbounded queue gives a client ahead.
const PLENTY: u32 = 1 << 30;

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

    // ---- what clients did -----------------------------------------------------------------------------------------

    /// The client has taken what comes before number `next`.
    pub(super) fn taken(&mut self, client: ClientId, next: u32) -> Result<(), Nonsense> {
        let Some(member) = self.members.get_mut(client) else { return Ok(()) };
        let count = next.wrapping_sub(member.first) as usize;
        if count > member.given.len() {
            return Err(Nonsense);
        }
        member.consumes |= count > 0;
        for given in member.given.drain(..count) {
            self.used -= u64::from(given.item.units);
            member.in_hand.insert(member.first, given.item);
            member.first = member.first.wrapping_add(1);
        }
        Ok(())
    }

    /// These are still in hand, of all that were taken before number `before`; the others, which are done with.
    pub(super) fn settle(&mut self, client: ClientId, hands: &[u32], before: u32) -> Vec<Item> {
        let Some(member) = self.members.get_mut(client) else { return Vec::new() };
        let done: Vec<Item> = member
            .in_hand
            .extract_if(.., |number, _| number.wrapping_sub(before) > u32::MAX / 2 && !hands.contains(number))
            .map(|(_, item)| item)
            .collect();
        member.undone = member.undone.saturating_add_unsigned(done.len() as u64);
        done
    }

    /// Is anything on its way to a client and not known to be taken?
    pub(super) fn has_given(&self) -> bool {
        self.members.values().any(|member| !member.given.is_empty())
    }

    /// An item came from a client.
    pub(super) fn arrived(&mut self, client: ClientId, item: Item) -> Result<(), Nonsense> {
        let member = self.members.get_mut(client).ok_or(Nonsense)?;
        member.credit = member.credit.checked_sub(item.units).ok_or(Nonsense)?;
        self.push(item);
        Ok(())
    }

    /// An item of a client could not be taken in.
    pub(super) fn refused(&mut self, client: ClientId, units: u32) -> Result<(), Nonsense> {
        let member = self.members.get_mut(client).ok_or(Nonsense)?;
        member.credit = member.credit.checked_sub(units).ok_or(Nonsense)?;
        Ok(())
    }

    pub(super) fn leased(&mut self, client: ClientId, number: u32) -> Result<(), Nonsense> {
        let member = self.members.get_mut(client).ok_or(Nonsense)?;
        let item = member.in_hand.remove(&number).ok_or(Nonsense)?;
        member.leased.insert(number, item);
        Ok(())
    }

    /// A lease has come to its end: the item is done, or goes back.
    pub(super) fn lease_ended(&mut self, client: ClientId, number: u32, done: bool) -> Result<(), Nonsense> {
        let member = self.members.get_mut(client).ok_or(Nonsense)?;
        let item = member.leased.remove(&number).ok_or(Nonsense)?;
        if done {
            self.unfinished = self.unfinished.saturating_sub(1);
        } else {
            self.put_back(item);
        }
        Ok(())
    }

    /// One that was got is done; false if there is none.
    pub(super) fn task_done(&mut self, client: Option<ClientId>) -> bool {
        if let Some(member) = client.and_then(|client| self.members.get_mut(client)) {
            member.undone = member.undone.saturating_sub(1);
        }
        let any = self.unfinished > 0;
        self.unfinished -= u64::from(any);
        any
    }

    /// Somebody there waits for an item, or nobody any more.
    pub(super) fn want(&mut self, client: ClientId, wants: Option<bool>) {
        if let Some(member) = self.members.get_mut(client) {
            member.wants = wants;
            if wants.is_some() && !self.waiting.contains(&client) {
                self.waiting.push_back(client);
            }
        }
    }

    /// The client does not wait for that end any more: did it still?
    pub(super) fn withdraw(&mut self, client: ClientId, id: u32) -> bool {
        let Some(member) = self.members.get_mut(client) else { return false };
        let before = member.joining.len();
        member.joining.retain(|joining| *joining != id);
        member.joining.len() < before
    }

    pub(super) fn need(&mut self, client: ClientId, units: u32) -> Result<(), Nonsense> {
        if self.capacity.is_some_and(|capacity| capacity < u64::from(units)) {
            return Err(Nonsense);
        }
        if let Some(member) = self.members.get_mut(client) {
            member.need = units;
            if units > 0 && !self.starved.contains(&client) {
                self.starved.push_back(client);
            }
        }
        Ok(())
    }

    /// Did the client get the room it needed? If not, it does not wait for it.
    pub(super) fn give_up_need(&mut self, client: ClientId) -> bool {
        self.members.get_mut(client).is_none_or(|member| std::mem::take(&mut member.need) == 0)
    }

    pub(super) fn join(&mut self, client: ClientId, id: u32) -> Result<(), Nonsense> {
        let Some(member) = self.members.get_mut(client) else { return Ok(()) };
        // More threads than any process has.
        if member.joining.len() >= MOST_OWED {
            return Err(Nonsense);
        }
        member.joining.push(id);
        Ok(())
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

    pub(super) fn is_full(&self) -> bool {
        self.capacity.is_some_and(|capacity| self.used >= capacity)
    }

    /// Room that nobody has been given.
    fn free(&self) -> Option<u64> {
        let credit: u64 = self.members.values().map(|member| u64::from(member.credit)).sum();
        self.capacity.map(|capacity| capacity.saturating_sub(self.used + credit))
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

    // ---- decisions ------------------------------------------------------------------------------------------------

    /// Takes back all room that has not been used.
    pub(super) fn revoke_all(&mut self, lanes: &mut impl Lanes) {
        for (id, member) in &mut self.members {
            member.credit -= lanes.revoke(id).min(member.credit);
        }
    }

    /// A new look at everything: whoever was given room before has had his time.
    pub(super) const fn look_anew(&mut self) {
        self.fresh = false;
    }

    /// Gives out what there is to give.
    pub(super) fn serve(&mut self, lanes: &mut impl Lanes) {
        self.feed(lanes);
        self.make_room(lanes);
        self.tell_ends(lanes);
    }

    fn feed(&mut self, lanes: &mut impl Lanes) {
        self.waiting.retain(|id| self.members.get(*id).is_some_and(|member| member.wants.is_some()));
        // Until nobody waits, or nothing is left for them.
        while (self.local_getters > 0 || !self.waiting.is_empty())
            && (!self.queue.is_empty() || self.steal(lanes))
        {
            if self.local_getters > 0 {
                lanes.wake_local();
            }
            self.give_round(lanes);
            if !self.queue.is_empty() {
                break;
            }
        }
        self.give_ahead(lanes);
    }

    /// Gives to each who waits, once.
    fn give_round(&mut self, lanes: &mut impl Lanes) {
        let mut turns = self.waiting.len();
        while turns > 0 && self.queue.len() > self.local_getters {
            turns -= 1;
            let Some(client) = self.waiting.pop_front() else { break };
            // To one all, to many a part: what proves to be too much is taken back.
            let spare = self.queue.len() - self.local_getters;
            let share = if self.members.len() == 1 && self.local_getters == 0 {
                spare
            } else {
                spare.div_ceil(2 * self.members.len())
            };
            if !self.give(client, share, lanes) {
                self.waiting.push_back(client);
            }
        }
    }

    /// The only consumer has what there is before it asks; should somebody else ask first, it is taken back.
    fn give_ahead(&mut self, lanes: &mut impl Lanes) {
        if self.local_getters > 0 || self.consumes {
            return;
        }
        let mut consumers = self.members.iter().filter(|(_, member)| member.consumes);
        let (Some((client, _)), None) = (consumers.next(), consumers.next()) else { return };
        // Descriptors are not sent for nothing.
        while self.queue.front().is_some_and(|item| !item.is_heavy()) && self.give(client, 1, lanes) {}
    }

    /// Gives a client up to `most` items, and answers its wants; false if none found room.
    fn give(&mut self, client: ClientId, most: usize, lanes: &mut impl Lanes) -> bool {
        let Some(member) = self.members.get_mut(client) else { return true };
        let mut count = 0;
        while count < most.max(1) {
            let Some(mut item) = self.queue.pop_front() else { break };
            match lanes.deliver(client, &mut item) {
                Some(start) => member.given.push_back(Given { item, start }),
                None => {
                    self.queue.push_front(item);
                    break;
                }
            }
            count += 1;
        }
        // Who has begun to wait since we looked either sees what was given, or is seen here.
        if count > 0 && (member.wants.take().is_some() || lanes.has_asked(client)) {
            lanes.answer(client, 0, want::GIVEN);
        }
        count > 0
    }

    /// Takes items back from where nobody is about to take them; false if there are none.
    fn steal(&mut self, lanes: &mut impl Lanes) -> bool {
        let spare = |(client, member): (ClientId, &Member)| {
            let there = member.given.len();
            let most = if lanes.wants(client) { there / 2 } else { there };
            (most > 0).then_some((most, client))
        };
        let mut rich: Vec<(usize, ClientId)> = self.members.iter().filter_map(spare).collect();
        rich.sort_unstable_by(|one, other| other.cmp(one));
        rich.into_iter().any(|(most, client)| self.steal_from(client, most, lanes))
    }

    fn steal_from(&mut self, client: ClientId, most: usize, lanes: &mut impl Lanes) -> bool {
        let back = lanes.take_back(client, u32::try_from(most).unwrap_or(u32::MAX)) as usize;
        let Some(member) = self.members.get_mut(client) else { return false };
        let there = member.given.len();
        let taken = member.given.split_off(there - back.min(there));
        if let Some(first) = taken.front() {
            lanes.rewind(client, first.start);
        }
        for given in taken.into_iter().rev() {
            self.reinsert(given.item);
        }
        back > 0
    }

    /// What lies untaken elsewhere and is older than what is here comes first.
    fn recall(&mut self, lanes: &mut impl Lanes) {
        let Some(first) = self.queue.front().map(|item| item.number) else { return };
        let older = |member: &Member| member.given.back().is_some_and(|given| given.item.number < first);
        let parked: Vec<ClientId> =
            self.members.iter().filter(|(_, member)| older(member)).map(|(id, _)| id).collect();
        for client in parked {
            self.steal_from(client, usize::MAX, lanes);
        }
    }

    fn make_room(&mut self, lanes: &mut impl Lanes) {
        if self.closed {
            // Somebody may have had it in hand at the close, and not used it.
            self.revoke_all(lanes);
            for client in std::mem::take(&mut self.starved) {
                lanes.wake(client);
            }
            if self.local_putters > 0 {
                lanes.wake_local();
            }
            return;
        }
        if self.capacity.is_none() {
            for (id, member) in &mut self.members {
                if member.credit < PLENTY / 2 {
                    let more = PLENTY - member.credit;
                    lanes.grant(id, more);
                    member.credit += more;
                }
                if std::mem::take(&mut member.need) > 0 {
                    lanes.wake(id);
                }
            }
            self.starved.clear();
            return;
        }
        if self.starved.is_empty() && self.local_putters == 0 {
            return;
        }
        let needed =
            self.starved.front().and_then(|id| self.members.get(*id)).map_or(1, |member| member.need);
        let short = self.free().is_some_and(|free| free < u64::from(needed.max(1)));
        if (self.local_putters > 0 && !self.fresh) || (self.local_putters == 0 && short) {
            self.revoke_all(lanes);
        }
        let mut free = self.free().unwrap_or(0);
        if self.local_putters > 0 && self.local_turn {
            if free > 0 {
                lanes.wake_local();
            }
            return;
        }
        while let Some(&client) = self.starved.front() {
            let others = self.starved.len() + self.local_putters > 1;
            let Some(member) = self.members.get_mut(client).filter(|member| member.need > 0) else {
                self.starved.pop_front();
                continue;
            };
            // Room that it has claimed in part counts.
            if free < u64::from(member.need) {
                break;
            }
            let extra = if others { 0 } else { (free - u64::from(member.need)) / 2 };
            let extra = u32::try_from(extra).unwrap_or(PLENTY).min(PLENTY);
            let units = member.need.saturating_add(extra).min(u32::MAX - member.credit);
            free -= u64::from(units);
            member.credit += units;
            member.need = 0;
            lanes.grant(client, units);
            self.starved.pop_front();
            if self.local_putters > 0 {
                // Turn and turn about; it keeps its turn until the next look.
                (self.local_turn, self.fresh) = (true, true);
                break;
            }
        }
        if self.local_putters > 0 && free > 0 {
            self.local_turn = true;
            lanes.wake_local();
        }
    }

    fn tell_ends(&mut self, lanes: &mut impl Lanes) {
        if self.unfinished == 0 {
            for (id, member) in &mut self.members {
                for joining in member.joining.drain(..) {
                    lanes.answer(id, joining, 1);
                }
            }
            if self.local_joiners > 0 {
                lanes.wake_local();
            }
        }
        for client in self.waiting.clone() {
            let sole = self.members.get(client).and_then(|member| member.wants);
            if sole.is_some_and(|sole| self.is_over(Some(client), sole)) {
                self.want(client, None);
                lanes.answer(client, 0, want::OVER);
            }
        }
        if self.local_getters > 0 && self.is_over(None, true) {
            lanes.wake_local();
        }
    }

    /// An item for one who will not wait: has it been given one?
    pub(super) fn try_want(&mut self, client: ClientId, lanes: &mut impl Lanes) -> bool {
        if self.queue.is_empty() {
            self.steal(lanes);
        }
        let share = self.queue.len().div_ceil(2 * self.members.len().max(1));
        let given = !self.queue.is_empty() && self.give(client, share, lanes);
        // It may have been given some since it looked.
        given || self.members.get(client).is_some_and(|member| !member.given.is_empty())
    }
}

#[cfg(test)]
mod tests;
