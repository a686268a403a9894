//! The rules by themselves: random worlds, and death between any two stores of each of them.

use super::table::{Beds, Identity, State, Table, crash};
use super::{notices, permits, turns};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

const PARTIES: u16 = 4;

/// Memory of a monitor, small enough to be full at times.
struct Memory {
    head: Vec<AtomicU64>,
    parties: Vec<AtomicU64>,
    slots: Vec<AtomicU64>,
}

impl Memory {
    fn new(value: u64, limit: u64, slots: usize) -> Self {
        let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let memory = Self { head: words(8), parties: words(usize::from(PARTIES) * 2), slots: words(slots) };
        memory.table().set_value(value);
        memory.table().set_limit(limit);
        memory
    }

    fn table(&self) -> Table<'_> {
        Table { head: &self.head, parties: &self.parties, slots: &self.slots }
    }
}

/// Counts what was rung; a bed that is made anew is silent.
#[derive(Default)]
struct Bells(BTreeMap<usize, u32>);

impl Beds for Bells {
    fn make(&mut self, slot: usize) {
        self.0.remove(&slot);
    }

    fn ring(&mut self, slot: usize) {
        *self.0.entry(slot).or_default() += 1;
    }
}

impl Bells {
    fn has_rung(&self, slot: usize) -> bool {
        self.0.contains_key(&slot)
    }
}

fn slots_of(table: Table<'_>, party: u16, state: State) -> Vec<usize> {
    table.taken().filter(|(_, slot)| slot.party == party && slot.state == state).map(|(at, _)| at).collect()
}

/// What one of the processes does next; a number picks one of its slots.
#[derive(Debug, Clone)]
enum Act {
    Ask(u16, bool),
    GiveBack(u16, usize),
    Forget(u16, usize),
    Add,
    TimeUp(u16, usize),
    WakeUp(u16),
    Die(u16),
}

fn act() -> impl Strategy<Value = Act> {
    let party = || 0..PARTIES;
    prop_oneof![
        4 => (party(), any::<bool>()).prop_map(|(party, wait)| Act::Ask(party, wait)),
        4 => (party(), any::<usize>()).prop_map(|(party, pick)| Act::GiveBack(party, pick)),
        1 => (party(), any::<usize>()).prop_map(|(party, pick)| Act::Forget(party, pick)),
        1 => Just(Act::Add),
        1 => (party(), any::<usize>()).prop_map(|(party, pick)| Act::TimeUp(party, pick)),
        3 => party().prop_map(Act::WakeUp),
        2 => party().prop_map(Act::Die),
    ]
}

fn pick(from: &[usize], pick: usize) -> Option<usize> {
    (!from.is_empty()).then(|| from[pick % from.len()])
}

/// Carries out an act on a semaphore; permits made and forgotten are counted.
fn perform(table: Table<'_>, bells: &mut Bells, act: &Act) {
    match *act {
        Act::Ask(party, wait) => {
            let _ = permits::ask(table, party, wait, bells);
        }
        Act::GiveBack(party, n) => {
            if let Some(at) = pick(&slots_of(table, party, State::Held), n) {
                permits::give_back(table, at, bells);
            }
        }
        Act::Forget(party, n) => {
            if let Some(at) = pick(&slots_of(table, party, State::Held), n) {
                permits::forget(table, at);
            }
        }
        Act::Add => permits::add(table, false, bells).unwrap(),
        Act::TimeUp(party, n) => {
            if let Some(at) = pick(&slots_of(table, party, State::Waiting), n) {
                assert!(table.turn(at, table.slot(at), State::Free));
            }
        }
        Act::WakeUp(party) => {
            for state in [State::Chosen, State::ChosenAbandoned] {
                for at in slots_of(table, party, state) {
                    assert!(table.turn(at, table.slot(at), State::Held));
                }
            }
        }
        Act::Die(party) => permits::purge(table, party, bells),
    }
}

/// What must be true whenever nobody is in the gate.
fn assert_sound(table: Table<'_>, bells: &Bells) {
    let states = [State::Held, State::Chosen, State::ChosenAbandoned];
    let taken: u64 = states.iter().map(|&state| table.count(state)).sum();
    assert_eq!(permits::left(table), table.value().saturating_sub(taken));
    assert!(permits::left(table) == 0 || table.first().is_none(), "somebody waits for what there is");
    for (at, slot) in table.taken() {
        let chosen = matches!(slot.state, State::Chosen | State::ChosenAbandoned);
        assert!(!chosen || bells.has_rung(at), "chosen, and asleep for ever");
    }
}

/// Who performs it; nobody in particular adds or removes the dead.
fn actor(act: &Act) -> Option<u16> {
    match *act {
        Act::Ask(party, _) | Act::GiveBack(party, _) | Act::Forget(party, _) => Some(party),
        Act::TimeUp(party, _) | Act::WakeUp(party) => Some(party),
        Act::Add | Act::Die(_) => None,
    }
}

proptest! {
    #[test]
    fn permits_are_neither_lost_nor_doubled_whoever_dies_whenever(
        value in 0..4_u64,
        acts in prop::collection::vec((act(), prop::option::weighted(0.3, 0..12_u32)), 1..60),
    ) {
        let memory = Memory::new(value, value, 12);
        let (table, mut bells) = (memory.table(), Bells::default());
        for (act, killed_after) in acts {
            let most = table.value() + u64::from(matches!(act, Act::Add));
            let least = table.value().saturating_sub(u64::from(matches!(act, Act::Forget(..))));
            let done = crash::after(killed_after.unwrap_or(u32::MAX), || perform(table, &mut bells, &act));
            if done.is_none() {
                // The kernel tells the next in the gate, and sooner or later everybody of whose process it was.
                permits::mend(table, &mut bells);
                assert_sound(table, &bells);
                match (&act, actor(&act)) {
                    (Act::Die(party), _) => permits::purge(table, *party, &mut bells),
                    (_, Some(party)) => permits::purge(table, party, &mut bells),
                    _ => {}
                }
            }
            prop_assert!((least..=most).contains(&table.value()));
            assert_sound(table, &bells);
        }
        for party in 0..PARTIES {
            permits::purge(table, party, &mut bells);
        }
        prop_assert_eq!(permits::left(table), table.value(), "the dead hold nothing");
    }

    #[test]
    fn a_dead_holders_permit_is_told_of_once(value in 1..4_u64, holders in 1..4_usize) {
        let memory = Memory::new(value, value, 12);
        let (table, mut bells) = (memory.table(), Bells::default());
        let held = holders.min(usize::try_from(value).unwrap());
        for _ in 0..held {
            permits::ask(table, 0, false, &mut bells).unwrap();
        }
        permits::purge(table, 0, &mut bells);
        let told = (0..value)
            .filter(|_| matches!(
                permits::ask(table, 1, false, &mut bells).unwrap(),
                permits::Asked::Got { abandoned: true, .. }
            ))
            .count();
        prop_assert_eq!(told, held);
    }

    #[test]
    fn a_notice_wakes_those_who_waited_longest_and_passes_on_from_the_dead(
        sleepers in prop::collection::vec(0..PARTIES, 1..8),
        notified in 1..4_u64,
        dead in 0..PARTIES,
        killed_after in prop::option::of(0..10_u32),
    ) {
        let memory = Memory::new(0, 0, 12);
        let (table, mut bells) = (memory.table(), Bells::default());
        let slots: Vec<usize> =
            sleepers.iter().map(|&party| notices::lie_down(table, party, &mut bells).unwrap()).collect();
        notices::notify(table, notified, &mut bells);
        let woken = sleepers.len().min(usize::try_from(notified).unwrap());
        for (n, &at) in slots.iter().enumerate() {
            prop_assert_eq!(table.slot(at).state == State::Chosen, n < woken);
            prop_assert_eq!(bells.has_rung(at), n < woken);
        }
        if crash::after(killed_after.unwrap_or(u32::MAX), || notices::purge(table, dead, &mut bells)).is_none() {
            notices::mend(table, &mut bells);
            notices::purge(table, dead, &mut bells);
        }
        let lives: Vec<usize> =
            slots.iter().zip(&sleepers).filter(|(_, party)| **party != dead).map(|(&at, _)| at).collect();
        let awake = lives.iter().filter(|&&at| table.slot(at).state == State::Chosen).count();
        let due = lives.len().min(woken);
        // One more may wake for nothing when a death strikes the one who sees to a death.
        let most = due + usize::from(killed_after.is_some());
        prop_assert!((due..=most).contains(&awake), "{} of {}", awake, due);
        for at in lives {
            prop_assert!(table.slot(at).state == State::Waiting || bells.has_rung(at));
        }
    }

    #[test]
    fn a_notifier_killed_in_the_middle_has_woken_all_or_none(
        sleepers in 1..8_usize,
        killed_after in 0..20_u32,
    ) {
        let memory = Memory::new(0, 0, 12);
        let (table, mut bells) = (memory.table(), Bells::default());
        for _ in 0..sleepers {
            notices::lie_down(table, 1, &mut bells).unwrap();
        }
        crash::after(killed_after, || notices::notify(table, u64::MAX, &mut bells));
        notices::mend(table, &mut bells);
        let awake = slots_of(table, 1, State::Chosen);
        prop_assert!(awake.is_empty() || awake.len() == sleepers);
        prop_assert!(awake.iter().all(|&at| bells.has_rung(at)));
    }

    #[test]
    fn a_barrier_is_passed_by_all_or_broken_for_all(
        parties in 2..6_u64,
        late in prop::option::of(0..5_usize),
        dead in prop::option::of(0..PARTIES),
        killed_after in prop::option::of(0..12_u32),
    ) {
        let memory = Memory::new(0, parties, 12);
        let (table, mut bells) = (memory.table(), Bells::default());
        let mut early = Vec::new();
        for n in 0..parties - 1 {
            let party = u16::try_from(n).unwrap() % PARTIES;
            match turns::come(table, party, true, &mut bells).unwrap() {
                turns::Came::Early(before, at) => {
                    prop_assert_eq!(before, n);
                    early.push((party, at));
                }
                _ => prop_assert!(false, "too early"),
            }
        }
        let late = late.and_then(|late| early.get(late).copied());
        if let Some((_, at)) = late {
            prop_assert!(table.turn(at, table.slot(at), State::Late));
        }
        if let Some(dead) = dead
            && crash::after(killed_after.unwrap_or(u32::MAX), || turns::purge(table, dead, &mut bells)).is_none()
        {
            turns::mend(table, &mut bells);
            turns::purge(table, dead, &mut bells);
        }
        let fails = late.is_some() || early.iter().any(|(party, _)| Some(*party) == dead);
        let came = crash::after(killed_after.unwrap_or(u32::MAX), || turns::come(table, 3, true, &mut bells));
        match &came {
            Some(came) => prop_assert_eq!(came.is_err(), fails),
            None => {
                turns::ring_again(table, &mut bells);
                turns::mend(table, &mut bells);
            }
        }
        let of = |state| early.iter().filter(|(_, at)| table.slot(*at).state == state).count();
        let lives = early.iter().filter(|(party, _)| Some(*party) != dead).count();
        if fails {
            prop_assert_eq!((of(State::Chosen), of(State::Broken)), (0, lives));
            prop_assert!(turns::is_broken(table));
        } else {
            // Who was killed before it had decided has not come at all.
            prop_assert!([0, lives].contains(&of(State::Chosen)));
            prop_assert!(came.is_none() || of(State::Chosen) == lives);
        }
        for (party, at) in early {
            prop_assert!(Some(party) == dead || table.slot(at).state == State::Waiting || bells.has_rung(at));
        }
        turns::reset(table, &mut bells);
        prop_assert!(!turns::is_broken(table) && table.count(State::Waiting) == 0);
    }

    #[test]
    fn any_memory_at_all_ends_in_answers(words in prop::collection::vec(any::<u64>(), 8 + 8 + 12), act in act()) {
        let mut memory = Memory::new(0, 0, 12);
        let mut words = words.into_iter();
        for all in [&mut memory.head, &mut memory.parties, &mut memory.slots] {
            for (word, random) in all.iter_mut().zip(&mut words) {
                *word.get_mut() = random;
            }
        }
        let (table, mut bells) = (memory.table(), Bells::default());
        table.attached().for_each(drop);
        if !matches!(act, Act::Add) {
            perform(table, &mut bells, &act);
        }
        permits::mend(table, &mut bells);
        notices::mend(table, &mut bells);
        notices::purge(table, 1, &mut bells);
        let _ = turns::come(table, 1, true, &mut bells);
        turns::purge(table, 1, &mut bells);
        turns::reset(table, &mut bells);
    }
}

#[test]
fn the_line_is_kept_when_the_tickets_go_round() {
    let memory = Memory::new(0, 0, 12);
    let (table, mut bells) = (memory.table(), Bells::default());
    memory.head[2].store((1 << 48) - 2, std::sync::atomic::Ordering::Relaxed);
    let slots: Vec<usize> = (0..4).map(|_| notices::lie_down(table, 0, &mut bells).unwrap()).collect();
    for at in slots {
        assert_eq!(table.first().unwrap().0, at);
        notices::notify(table, 1, &mut bells);
    }
}

#[test]
fn a_full_table_says_so_and_numbers_are_given_again() {
    let memory = Memory::new(9, 9, 2);
    let (table, mut bells) = (memory.table(), Bells::default());
    let ask = |bells: &mut Bells| permits::ask(table, 0, false, bells);
    assert!(ask(&mut bells).is_ok() && ask(&mut bells).is_ok());
    assert!(ask(&mut bells).unwrap_err().to_string().contains("or hold a permit of it already"));
    let identity = |pid| Identity { pid, start: 7 };
    for pid in 0..u32::from(PARTIES) {
        assert_eq!(table.attach(identity(pid)).unwrap(), u16::try_from(pid).unwrap());
    }
    assert!(table.attach(identity(9)).is_err());
    table.detach(2);
    assert_eq!(table.attach(identity(9)), Ok(2));
    assert_eq!(table.attached().count(), usize::from(PARTIES));
    assert!(table.is(2, identity(9)) && !table.is(2, identity(2)));
}
