//! The shell around the rules: the gate that lets one at a time at the table, sleeping, and seeing to the dead.

use super::error::SyncError;
use super::object::{Kind, MOST_PARTIES, Object, bed};
use super::peer;
use super::table::{Beds, Identity, Slot, State, Table};
use super::{notices, permits, turns};
use crate::sys::robust::{Locked, Until};
use procession_worker::sys::memory::Mapping;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// In the gate; nobody else is.
pub(super) struct Inside<'a> {
    object: &'a Object,
}

/// Rings the beds in the object's memory.
struct Bells<'a>(&'a Mapping);

impl Beds for Bells<'_> {
    fn make(&mut self, slot: usize) {
        bed(self.0, slot).make();
    }

    fn ring(&mut self, slot: usize) {
        bed(self.0, slot).ring();
    }
}

/// Enters the gate; `None` when the time has come. It is held for less than a microsecond, so `Until::Now` waits for it.
pub(super) fn enter(object: &Object, until: Until) -> Result<Option<Inside<'_>>, SyncError> {
    let until = if until == Until::Now { Until::Forever } else { until };
    let mut locked = object.mutex().lock(until);
    if locked == Locked::Busy && matches!(until, Until::Time(_)) {
        // A deadline of zero is no reason to fail for those few instructions.
        locked = object.mutex().lock(Until::after(Duration::from_millis(1)));
    }
    match locked {
        Locked::Free => Ok(Some(Inside { object })),
        Locked::Abandoned => {
            let inside = Inside { object };
            mend(&inside);
            Ok(Some(inside))
        }
        Locked::Busy => Ok(None),
        Locked::Mine => Err(SyncError::Interrupted),
    }
}

/// [`enter`] for as long as it takes.
pub(super) fn enter_at_last(object: &Object) -> Result<Inside<'_>, SyncError> {
    Ok(enter(object, Until::Forever)?.expect("only a deadline ends the wait"))
}

/// Goes on where somebody was killed inside.
fn mend(inside: &Inside<'_>) {
    let (table, mut beds) = (inside.table(), inside.beds());
    match inside.object.kind {
        Kind::Condition => notices::mend(table, &mut beds),
        Kind::Barrier => {
            turns::ring_again(table, &mut beds);
            turns::mend(table, &mut beds);
        }
        _ => permits::mend(table, &mut beds),
    }
}

impl<'a> Inside<'a> {
    pub(super) fn table(&self) -> Table<'a> {
        self.object.table()
    }

    pub(super) fn beds(&self) -> impl Beds + use<'a> {
        Bells(self.object.mapping())
    }

    fn purge(&self, party: u16, identity: Identity) {
        let (table, mut beds) = (self.table(), self.beds());
        // Others may have seen to it already.
        if !table.is(party, identity) {
            return;
        }
        match self.object.kind {
            Kind::Condition => notices::purge(table, party, &mut beds),
            Kind::Barrier => turns::purge(table, party, &mut beds),
            _ => permits::purge(table, party, &mut beds),
        }
        table.detach(party);
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if !self.object.mutex().unlock() {
            // Spoiled: it is in this thread's list of locks for good, and must stay mapped.
            self.object.depth().store(1, Ordering::Relaxed);
        }
    }
}

/// This process's number at the object; given on first use.
pub(super) fn party(object: &Object) -> Result<u16, SyncError> {
    object.ward.party().map_or_else(|| attach(object), Ok)
}

#[cold]
fn attach(object: &Object) -> Result<u16, SyncError> {
    let identity = peer::this()?;
    let try_once = || -> Result<Option<u16>, SyncError> {
        let inside = enter_at_last(object)?;
        if let Some(party) = object.ward.party() {
            return Ok(Some(party));
        }
        let Ok(party) = inside.table().attach(identity) else { return Ok(None) };
        object.ward.set_party(party);
        if object.kind == Kind::Barrier {
            // Those who wait already depend on those who come later: they must watch this process, too.
            let mut beds = inside.beds();
            for (at, slot) in inside.table().taken() {
                if slot.state == State::Waiting {
                    beds.ring(at);
                }
            }
        }
        Ok(Some(party))
    };
    if let Some(party) = try_once()? {
        return Ok(party);
    }
    bury(object, Until::Forever, true)?;
    try_once()?.ok_or(SyncError::TooManyProcesses(MOST_PARTIES))
}

/// The last handle of this process has been dropped.
pub(super) fn leave(object: &Object) {
    // Should a stopped process hold the gate, our own end says the same, later.
    if let (Some(party), Ok(Some(inside))) =
        (object.ward.party(), enter(object, Until::after(Duration::from_millis(100))))
        && !inside.table().has_any(party)
    {
        inside.table().detach(party);
    }
}

/// Watches all others, and sees to those who are dead; were there any? `ask`: do not rely on having been told.
pub(super) fn bury(object: &Object, until: Until, ask: bool) -> Result<bool, SyncError> {
    let mut dead = object.ward.watch(object.table(), ask)?;
    // Others hear of it at the same time; who comes late need not crowd the gate.
    dead.retain(|&(party, identity)| object.table().is(party, identity));
    if dead.is_empty() {
        return Ok(false);
    }
    let Some(inside) = enter(object, until)? else { return Ok(false) };
    for (party, identity) in dead {
        inside.purge(party, identity);
    }
    Ok(true)
}

/// Why a sleeper is awake.
#[derive(Debug)]
pub(super) enum Woken {
    /// Its slot is in another state.
    Turned(Slot),
    /// Its time has come; its slot is (or was, just now) as it was.
    TimeUp(Slot),
    /// It cannot sleep safely; its slot is as it was.
    Failed(Slot, SyncError),
}

/// Sleeps in a slot that is waiting.
pub(super) fn sleep(object: &Object, at: usize, until: Until) -> Woken {
    let table = object.table();
    let _on_the_list = object.ward.lie_down(at);
    let mut in_time = true;
    loop {
        let slot = table.slot(at);
        if slot.state != State::Waiting {
            return Woken::Turned(slot);
        }
        if !in_time {
            return Woken::TimeUp(slot);
        }
        match bury(object, until, false) {
            Err(error) => return Woken::Failed(slot, error),
            // It may have been for us.
            Ok(true) if table.slot(at) != slot => {}
            // A bed that somebody spoiled may ring for ever, and must not hide the deadline.
            Ok(_) => in_time = bed(object.mapping(), at).sleep(until) && !until.is_over(),
        }
    }
}
