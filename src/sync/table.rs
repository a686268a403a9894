//! The plain memory of a monitor: who is attached, and who sleeps or holds what. One word each, so every change is one
//! store, and whoever is killed between two of them leaves a table that can be gone on with.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a slot says of the one it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody.
    Free = 0,
    /// Sleeps.
    Waiting = 1,
    /// Has been chosen to go on: a permit, a notice, a passage is its own; it may not know yet.
    Chosen = 2,
    /// As `Chosen`, with a permit whose last holder died with it.
    ChosenAbandoned = 3,
    /// Holds a permit.
    Held = 4,
    /// Nobody holds this permit any more; its holder died with it.
    Abandoned = 5,
    /// Its barrier broke.
    Broken = 6,
    /// It ran out of time at a barrier, which nobody has broken for it yet.
    Late = 7,
}

/// Whose, in which state, and since when compared with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) party: u16,
    pub(super) ticket: u64,
}

impl Slot {
    const FREE: Self = Self { state: State::Free, party: 0, ticket: 0 };

    fn of(word: u64) -> Self {
        let state = match word & 0xf {
            1 => State::Waiting,
            2 => State::Chosen,
            3 => State::ChosenAbandoned,
            4 => State::Held,
            5 => State::Abandoned,
            6 => State::Broken,
            7 => State::Late,
            // 0, and what no process of ours ever wrote.
            _ => return Self::FREE,
        };
        Self { state, party: (word >> 4 & 0xfff) as u16, ticket: word >> 16 }
    }

    fn word(self) -> u64 {
        self.state as u64 | u64::from(self.party & 0xfff) << 4 | self.ticket << 16
    }

    fn to(self, state: State) -> Self {
        Self { state, ..self }
    }
}

/// A process, not to be taken for a later one with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) pid: u32,
    pub(super) start: u64,
}

/// There is no room for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// Who rings.
pub(super) trait Beds {
    /// A slot's bed is to be used by somebody else now.
    fn make(&mut self, slot: usize);
    /// Wakes whoever sleeps there.
    fn ring(&mut self, slot: usize);
}

/// A monitor's memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) head: &'a [AtomicU64],
    pub(super) parties: &'a [AtomicU64],
    pub(super) slots: &'a [AtomicU64],
}

// The head's words.
const VALUE: usize = 0;
const LIMIT: usize = 1;
const TICKET: usize = 2;
const SLOTS_USED: usize = 3;
const PARTIES_USED: usize = 4;

const LIVES: u64 = 1;
const TICKETS: u64 = u64::MAX >> 16;

impl<'a> Table<'a> {
    fn store(word: &AtomicU64, value: u64) {
        #[cfg(test)]
        crash::point();
        word.store(value, Ordering::Release);
    }

    /// The monitor's own number: a semaphore's permits, a barrier's phase, notices not yet given.
    pub(super) fn value(&self) -> u64 {
        self.head[VALUE].load(Ordering::Acquire)
    }

    pub(super) fn set_value(&self, value: u64) {
        Self::store(&self.head[VALUE], value);
    }

    /// The monitor's own bound: a semaphore's, or how many parties pass a barrier together.
    pub(super) fn limit(&self) -> u64 {
        self.head[LIMIT].load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, limit: u64) {
        Self::store(&self.head[LIMIT], limit);
    }

    fn used(&self) -> &'a [AtomicU64] {
        let used = self.head[SLOTS_USED].load(Ordering::Relaxed);
        &self.slots[..usize::try_from(used).unwrap_or(usize::MAX).min(self.slots.len())]
    }

    pub(super) fn slot(&self, at: usize) -> Slot {
        Slot::of(self.slots[at].load(Ordering::Acquire))
    }

    /// Those that belong to somebody.
    pub(super) fn taken(&self) -> impl Iterator<Item = (usize, Slot)> + use<'a> {
        let slots = self.used().iter().enumerate();
        slots
            .map(|(at, word)| (at, Slot::of(word.load(Ordering::Acquire))))
            .filter(|(_, slot)| slot.state != State::Free)
    }

    pub(super) fn count(&self, state: State) -> u64 {
        self.taken().filter(|(_, slot)| slot.state == state).count() as u64
    }

    /// How many have come since; tickets go round, and between two of one time lies less than half of all.
    pub(super) fn age(&self, ticket: u64) -> u64 {
        self.head[TICKET].load(Ordering::Relaxed).wrapping_sub(ticket) & TICKETS
    }

    fn waiting(&self) -> impl Iterator<Item = (usize, Slot)> + use<'a> {
        self.taken().filter(|(_, slot)| slot.state == State::Waiting)
    }

    /// Who has waited longest.
    pub(super) fn first(&self) -> Option<(usize, Slot)> {
        self.waiting().max_by_key(|(_, slot)| self.age(slot.ticket))
    }

    /// All who wait, those first who have waited longest.
    pub(super) fn line(&self) -> Vec<(usize, Slot)> {
        let mut line: Vec<_> = self.waiting().collect();
        line.sort_unstable_by_key(|(_, slot)| std::cmp::Reverse(self.age(slot.ticket)));
        line
    }

    /// A slot for a party, at the end of the line.
    pub(super) fn claim(&self, state: State, party: u16, beds: &mut impl Beds) -> Result<usize, Full> {
        let used = self.used();
        let free = used.iter().position(|word| Slot::of(word.load(Ordering::Acquire)).state == State::Free);
        let at = free.unwrap_or(used.len());
        if at == self.slots.len() {
            return Err(Full);
        }
        if at == used.len() {
            Self::store(&self.head[SLOTS_USED], at as u64 + 1);
        }
        let ticket = self.head[TICKET].load(Ordering::Relaxed);
        Self::store(&self.head[TICKET], ticket.wrapping_add(1));
        if state == State::Waiting {
            beds.make(at);
        }
        Self::store(&self.slots[at], Slot { state, party, ticket: ticket & TICKETS }.word());
        Ok(at)
    }

    /// Another state for one whose state nobody else may change now.
    pub(super) fn put(&self, at: usize, slot: Slot, state: State) {
        let word = if state == State::Free { 0 } else { slot.to(state).word() };
        Self::store(&self.slots[at], word);
    }

    /// Another state, unless it has changed: sleepers go without asking.
    pub(super) fn turn(&self, at: usize, slot: Slot, state: State) -> bool {
        #[cfg(test)]
        crash::point();
        let word = if state == State::Free { 0 } else { slot.to(state).word() };
        self.slots[at].compare_exchange(slot.word(), word, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The processes that use this object.
    pub(super) fn attached(&self) -> impl Iterator<Item = (u16, Identity)> + use<'a> {
        let used = self.head[PARTIES_USED].load(Ordering::Relaxed);
        let all = *self;
        (0..u16::try_from(used).unwrap_or(u16::MAX)).map_while(move |party| all.identity(party)).flatten()
    }

    /// `None` beyond the table's end; `Some(None)` if nobody has this number.
    fn identity(&self, party: u16) -> Option<Option<(u16, Identity)>> {
        let at = usize::from(party) * 2;
        let (word, start) = (self.parties.get(at)?, self.parties.get(at + 1)?);
        let word = word.load(Ordering::Acquire);
        let identity = Identity { pid: (word >> 32) as u32, start: start.load(Ordering::Acquire) };
        Some((word & LIVES != 0).then_some((party, identity)))
    }

    /// Does this number still belong to this process?
    pub(super) fn is(&self, party: u16, identity: Identity) -> bool {
        self.identity(party) == Some(Some((party, identity)))
    }

    /// A number for a process.
    pub(super) fn attach(&self, identity: Identity) -> Result<u16, Full> {
        let most = u16::try_from(self.parties.len() / 2).unwrap_or(u16::MAX);
        let party = (0..most).find(|&party| self.identity(party) == Some(None)).ok_or(Full)?;
        let at = usize::from(party) * 2;
        if self.head[PARTIES_USED].load(Ordering::Relaxed) <= u64::from(party) {
            Self::store(&self.head[PARTIES_USED], u64::from(party) + 1);
        }
        Self::store(&self.parties[at + 1], identity.start);
        Self::store(&self.parties[at], u64::from(identity.pid) << 32 | LIVES);
        Ok(party)
    }

    /// The number is free again.
    pub(super) fn detach(&self, party: u16) {
        Self::store(&self.parties[usize::from(party) * 2], 0);
    }

    /// Has this process anything here?
    pub(super) fn has_any(&self, party: u16) -> bool {
        self.taken().any(|(_, slot)| slot.party == party && slot.state != State::Abandoned)
    }
}

/// Death between any two stores, for the rules' tests.
#[cfg(test)]
pub(super) mod crash {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};

    struct Killed;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    pub(in crate::sync) fn point() {
        if let Some(left) = LEFT.get() {
            if left == 0 {
                LEFT.set(None);
                panic_any(Killed);
            }
            LEFT.set(Some(left - 1));
        }
    }

    /// Runs `act` up to so many stores; `None` if it did not come to its end.
    pub(in crate::sync) fn after<R>(stores: u32, act: impl FnOnce() -> R) -> Option<R> {
        LEFT.set(Some(stores));
        let result = catch_unwind(AssertUnwindSafe(act));
        LEFT.set(None);
        match result {
            Ok(value) => Some(value),
            Err(payload) if payload.is::<Killed>() => None,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }
}
