//! A condition's rules: a notice belongs to the sleeper who has waited longest, and to the next one should that one die
//! before it is awake and has the lock again.

use super::error::SyncError;
use super::object::MOST_SLOTS;
use super::table::{Beds, State, Table};

/// A place in the line.
pub(super) fn lie_down(table: Table<'_>, party: u16, beds: &mut impl Beds) -> Result<usize, SyncError> {
    table.claim(State::Waiting, party, beds).map_err(|_| SyncError::TooManySleepers(MOST_SLOTS))
}

/// Wakes up to so many of those who sleep; how many it were.
pub(super) fn notify(table: Table<'_>, most: u64, beds: &mut impl Beds) -> u64 {
    let line = table.line();
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(line.len());
    let mut woken = 0;
    for (n, (at, slot)) in line.iter().enumerate() {
        if woken == most {
            break;
        }
        // Written down first, up to whom: should we be killed in the middle, the others are woken all the same.
        if n == 0 || n >= most {
            let last = line[n.max(most - 1)].1;
            table.set_value(last.ticket + 1);
        }
        // Who went away in the meantime leaves it to the next.
        if table.turn(*at, *slot, State::Chosen) {
            beds.ring(*at);
            woken += 1;
        }
    }
    table.set_value(0);
    woken as u64
}

/// A process is dead.
pub(super) fn purge(table: Table<'_>, party: u16, beds: &mut impl Beds) {
    for (at, slot) in table.taken().filter(|(_, slot)| slot.party == party) {
        if slot.state == State::Waiting {
            table.put(at, slot, State::Free);
        }
    }
    for (at, slot) in table.taken().filter(|(_, slot)| slot.party == party) {
        if slot.state == State::Chosen {
            notify(table, 1, beds);
        }
        table.put(at, slot, State::Free);
    }
}

/// Goes on where somebody was killed.
pub(super) fn mend(table: Table<'_>, beds: &mut impl Beds) {
    for (at, slot) in table.taken() {
        if slot.state == State::Chosen {
            beds.ring(at);
        }
    }
    if let Some(last) = table.value().checked_sub(1) {
        for (at, slot) in table.line() {
            if table.age(slot.ticket) >= table.age(last) && table.turn(at, slot, State::Chosen) {
                beds.ring(at);
            }
        }
        table.set_value(0);
    }
}
