//! What clients did.

use super::{ClientId, MOST_OWED, Nonsense, State};
use crate::queue::item::Item;

impl State {
    /// The client has taken what comes before number `next`.
    pub(in super::super) fn taken(&mut self, client: ClientId, next: u32) -> Result<(), Nonsense> {
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
    pub(in super::super) fn settle(&mut self, client: ClientId, hands: &[u32], before: u32) -> Vec<Item> {
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
    pub(in super::super) fn has_given(&self) -> bool {
        self.members.values().any(|member| !member.given.is_empty())
    }

    /// An item came from a client.
    pub(in super::super) fn arrived(&mut self, client: ClientId, item: Item) -> Result<(), Nonsense> {
        let member = self.members.get_mut(client).ok_or(Nonsense)?;
        member.credit = member.credit.checked_sub(item.units).ok_or(Nonsense)?;
        self.push(item);
        Ok(())
    }

    /// An item of a client could not be taken in.
    pub(in super::super) fn refused(&mut self, client: ClientId, units: u32) -> Result<(), Nonsense> {
        let member = self.members.get_mut(client).ok_or(Nonsense)?;
        member.credit = member.credit.checked_sub(units).ok_or(Nonsense)?;
        Ok(())
    }

    pub(in super::super) fn leased(&mut self, client: ClientId, number: u32) -> Result<(), Nonsense> {
        let member = self.members.get_mut(client).ok_or(Nonsense)?;
        let item = member.in_hand.remove(&number).ok_or(Nonsense)?;
        member.leased.insert(number, item);
        Ok(())
    }

    /// A lease has come to its end: the item is done, or goes back.
    pub(in super::super) fn lease_ended(
        &mut self,
        client: ClientId,
        number: u32,
        done: bool,
    ) -> Result<(), Nonsense> {
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
    pub(in super::super) fn task_done(&mut self, client: Option<ClientId>) -> bool {
        if let Some(member) = client.and_then(|client| self.members.get_mut(client)) {
            member.undone = member.undone.saturating_sub(1);
        }
        let any = self.unfinished > 0;
        self.unfinished -= u64::from(any);
        any
    }

    /// Somebody there waits for an item, or nobody any more.
    pub(in super::super) fn want(&mut self, client: ClientId, wants: Option<bool>) {
        if let Some(member) = self.members.get_mut(client) {
            member.wants = wants;
            if wants.is_some() && !self.waiting.contains(&client) {
                self.waiting.push_back(client);
            }
        }
    }

    /// The client does not wait for that end any more: did it still?
    pub(in super::super) fn withdraw(&mut self, client: ClientId, id: u32) -> bool {
        let Some(member) = self.members.get_mut(client) else { return false };
        let before = member.joining.len();
        member.joining.retain(|joining| *joining != id);
        member.joining.len() < before
    }

    pub(in super::super) fn need(&mut self, client: ClientId, units: u32) -> Result<(), Nonsense> {
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
    pub(in super::super) fn give_up_need(&mut self, client: ClientId) -> bool {
        self.members.get_mut(client).is_none_or(|member| std::mem::take(&mut member.need) == 0)
    }

    pub(in super::super) fn join(&mut self, client: ClientId, id: u32) -> Result<(), Nonsense> {
        let Some(member) = self.members.get_mut(client) else { return Ok(()) };
        // More threads than any process has.
        if member.joining.len() >= MOST_OWED {
            return Err(Nonsense);
        }
        member.joining.push(id);
        Ok(())
    }
}
