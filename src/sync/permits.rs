//! A semaphore's rules. A permit is a slot: who holds it, or is about to, is what the slot says, and how many are left is
//! counted, never written down; so there is nothing that a death could leave wrong.

use super::error::SyncError;
use super::object::MOST_SLOTS;
use super::table::{Beds, State, Table};

/// What came of asking for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Here it is.
    Got { slot: usize, abandoned: bool },
    /// In line for one.
    InLine(usize),
    /// There is none.
    None,
}

/// How many there are to be had.
pub(super) fn left(table: Table<'_>) -> u64 {
    let gone = |state| matches!(state, State::Held | State::Chosen | State::ChosenAbandoned);
    let taken = table.taken().filter(|(_, slot)| gone(slot.state)).count() as u64;
    table.value().saturating_sub(taken)
}

fn abandoned(table: Table<'_>) -> Option<usize> {
    table.taken().find(|(_, slot)| slot.state == State::Abandoned).map(|(at, _)| at)
}

/// Takes a permit, or a place in the line if `wait`.
pub(super) fn ask(
    table: Table<'_>,
    party: u16,
    wait: bool,
    beds: &mut impl Beds,
) -> Result<Asked, SyncError> {
    let full = |_| SyncError::TooManySleepers(MOST_SLOTS);
    if left(table) == 0 {
        return if wait {
            table.claim(State::Waiting, party, beds).map(Asked::InLine).map_err(full)
        } else {
            Ok(Asked::None)
        };
    }
    let before = abandoned(table);
    let slot = table.claim(State::Held, party, beds).map_err(full)?;
    // Last: whoever is killed in between leaves it to be told again.
    if let Some(before) = before {
        table.put(before, table.slot(before), State::Free);
    }
    Ok(Asked::Got { slot, abandoned: before.is_some() })
}

/// Gives what there is to those who have waited longest.
pub(super) fn settle(table: Table<'_>, beds: &mut impl Beds) {
    let mut left = left(table);
    while left > 0
        && let Some((at, slot)) = table.first()
    {
        let before = abandoned(table);
        let state = if before.is_some() { State::ChosenAbandoned } else { State::Chosen };
        // Who went away in the meantime leaves it to the next.
        if table.turn(at, slot, state) {
            if let Some(before) = before {
                table.put(before, table.slot(before), State::Free);
            }
            beds.ring(at);
            left -= 1;
        }
    }
}

/// A permit comes back.
pub(super) fn give_back(table: Table<'_>, at: usize, beds: &mut impl Beds) {
    table.put(at, table.slot(at), State::Free);
    settle(table, beds);
}

/// A permit stays taken, and is nobody's.
pub(super) fn forget(table: Table<'_>, at: usize) {
    table.set_value(table.value().saturating_sub(1));
    table.put(at, table.slot(at), State::Free);
}

/// One more than there were.
pub(super) fn add(table: Table<'_>, bounded: bool, beds: &mut impl Beds) -> Result<(), SyncError> {
    let value = table.value();
    if value == u64::MAX || bounded && value >= table.limit() {
        return Err(SyncError::ReleasedTooOften);
    }
    table.set_value(value + 1);
    settle(table, beds);
    Ok(())
}

/// A process is dead.
pub(super) fn purge(table: Table<'_>, party: u16, beds: &mut impl Beds) {
    for (at, slot) in table.taken().filter(|(_, slot)| slot.party == party) {
        match slot.state {
            State::Held => table.put(at, slot, State::Abandoned),
            State::Abandoned => {}
            // It never came to know: the permit is as its last holder left it.
            State::ChosenAbandoned => table.put(at, slot, State::Abandoned),
            _ => table.put(at, slot, State::Free),
        }
    }
    settle(table, beds);
}

/// Goes on where somebody was killed.
pub(super) fn mend(table: Table<'_>, beds: &mut impl Beds) {
    for (at, slot) in table.taken() {
        if matches!(slot.state, State::Chosen | State::ChosenAbandoned) {
            beds.ring(at);
        }
    }
    settle(table, beds);
}
