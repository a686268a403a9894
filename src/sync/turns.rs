//! A barrier's rules: the last to come opens it for all, and whatever keeps one of them from passing breaks it for all.

use super::error::{BarrierError, SyncError};
use super::object::MOST_SLOTS;
use super::table::{Beds, State, Table};

/// The phases, as the table's value says them.
const OPEN: u64 = 0;
/// Decided: all who wait pass.
const PASSING: u64 = 1;
/// Decided: nobody passes until it is reset.
const BROKEN: u64 = 2;

/// What a party that has come is to do; its number says how many came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// Nothing: it was the last.
    Last(u64),
    /// To wait, there.
    Early(u64, usize),
    /// To make sure that those who wait live, and to come again: it would be the last.
    Unsure,
}

pub(super) fn is_broken(table: Table<'_>) -> bool {
    table.value() == BROKEN
}

/// A party has come; `sure`: that those who wait live.
pub(super) fn come(
    table: Table<'_>,
    party: u16,
    sure: bool,
    beds: &mut impl Beds,
) -> Result<Came, BarrierError> {
    mend(table, beds);
    if is_broken(table) {
        return Err(BarrierError::Broken);
    }
    let before = table.count(State::Waiting);
    if before + 1 >= table.limit() {
        if !sure {
            return Ok(Came::Unsure);
        }
        table.set_value(PASSING);
        finish(table, beds);
        return Ok(Came::Last(before));
    }
    match table.claim(State::Waiting, party, beds) {
        Ok(slot) => Ok(Came::Early(before, slot)),
        Err(_) => Err(SyncError::TooManySleepers(MOST_SLOTS).into()),
    }
}

/// Tells those who wait what was decided.
fn finish(table: Table<'_>, beds: &mut impl Beds) {
    let passing = table.value() == PASSING;
    let state = if passing { State::Chosen } else { State::Broken };
    for (at, _) in table.taken() {
        // Who runs out of time at this very moment was counted, and passes.
        while let slot = table.slot(at)
            && matches!(slot.state, State::Waiting | State::Late)
        {
            if table.turn(at, slot, state) {
                beds.ring(at);
            }
        }
    }
    if passing {
        table.set_value(OPEN);
    }
}

/// Nobody passes any more.
pub(super) fn break_up(table: Table<'_>, beds: &mut impl Beds) {
    table.set_value(BROKEN);
    finish(table, beds);
}

/// As new; those who wait are told that it broke.
pub(super) fn reset(table: Table<'_>, beds: &mut impl Beds) {
    mend(table, beds);
    if table.count(State::Waiting) > 0 {
        break_up(table, beds);
    }
    table.set_value(OPEN);
}

/// A process is dead.
pub(super) fn purge(table: Table<'_>, party: u16, beds: &mut impl Beds) {
    mend(table, beds);
    let of_it = || table.taken().filter(|(_, slot)| slot.party == party);
    if of_it().any(|(_, slot)| slot.state == State::Waiting) {
        break_up(table, beds);
    }
    for (at, slot) in of_it() {
        table.put(at, slot, State::Free);
    }
}

/// Goes on where somebody was killed, or ran out of time.
pub(super) fn mend(table: Table<'_>, beds: &mut impl Beds) {
    if table.value() == PASSING || is_broken(table) {
        finish(table, beds);
    } else if table.count(State::Late) > 0 {
        break_up(table, beds);
    }
}

/// After a death in the middle of something: all who have been told, and may not have been rung.
pub(super) fn ring_again(table: Table<'_>, beds: &mut impl Beds) {
    for (at, slot) in table.taken() {
        if matches!(slot.state, State::Chosen | State::Broken) {
            beds.ring(at);
        }
    }
}
