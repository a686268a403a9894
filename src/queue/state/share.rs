//! Who gets what there is.

use super::{ClientId, Given, Lanes, Member, State};
use crate::queue::item::want;

impl State {
    /// A new look at everything: whoever was given room before has had his time.
    pub(in super::super) const fn look_anew(&mut self) {
        self.fresh = false;
    }

    /// Gives out what there is to give.
    pub(in super::super) fn serve(&mut self, lanes: &mut impl Lanes) {
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
    pub(super) fn recall(&mut self, lanes: &mut impl Lanes) {
        let Some(first) = self.queue.front().map(|item| item.number) else { return };
        let older = |member: &Member| member.given.back().is_some_and(|given| given.item.number < first);
        let parked: Vec<ClientId> =
            self.members.iter().filter(|(_, member)| older(member)).map(|(id, _)| id).collect();
        for client in parked {
            self.steal_from(client, usize::MAX, lanes);
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
    pub(in super::super) fn try_want(&mut self, client: ClientId, lanes: &mut impl Lanes) -> bool {
        if self.queue.is_empty() {
            self.steal(lanes);
        }
        let share = self.queue.len().div_ceil(2 * self.members.len().max(1));
        let given = !self.queue.is_empty() && self.give(client, share, lanes);
        // It may have been given some since it looked.
        given || self.members.get(client).is_some_and(|member| !member.given.is_empty())
    }
}
