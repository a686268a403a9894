//! Who may put, and how much.

use super::{Lanes, State};

/// Room for items that an unbounded queue gives a client ahead.
const PLENTY: u32 = 1 << 30;

impl State {
    pub(in super::super) fn is_full(&self) -> bool {
        self.capacity.is_some_and(|capacity| self.used >= capacity)
    }

    /// Room that nobody has been given.
    pub(super) fn free(&self) -> Option<u64> {
        let credit: u64 = self.members.values().map(|member| u64::from(member.credit)).sum();
        self.capacity.map(|capacity| capacity.saturating_sub(self.used + credit))
    }

    /// Takes back all room that has not been used.
    pub(in super::super) fn revoke_all(&mut self, lanes: &mut impl Lanes) {
        for (id, member) in &mut self.members {
            member.credit -= lanes.revoke(id).min(member.credit);
        }
    }

    pub(super) fn make_room(&mut self, lanes: &mut impl Lanes) {
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
}
