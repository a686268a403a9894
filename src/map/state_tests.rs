//! The state under random tasks, ends and times.

use super::super::halt::Halt;
use super::super::pace::Limit;
use super::super::retry::Retry;
use super::*;
use crate::map::retry::RetryOn;
use proptest::prelude::*;
use std::collections::HashMap;

const MILLI: Duration = Duration::from_millis(1);
const CRASH: Cause = Cause::Signal { signal: 11, core: false };

fn rules(slots: usize) -> Rules {
    Rules {
        slots,
        depth: Depth::Fixed(1),
        ordered: true,
        window: 1000,
        most_held: 1000,
        timeout: None,
        deadline: None,
        grace: 10 * MILLI,
        retry: Retry { extra: 0, delay: MILLI, on: RetryOn::default(), crash_limit: 3 },
        halt: None,
        spacing: Duration::ZERO,
    }
}

fn fed(rules: Rules, tasks: u8) -> State<u32> {
    let mut state = State::new(rules);
    (0..tasks).for_each(|n| state.add(vec![n].into()));
    state.end_of_input();
    state
}

/// Steps, and gives what was begun, stopped, killed and reported.
type Step = (Vec<usize>, Vec<usize>, Vec<usize>, Vec<(u64, Cause)>);

fn step(state: &mut State<u32>, now: Time) -> Step {
    state.step(now);
    let (mut begun, mut stopped, mut killed, mut told) = (vec![], vec![], vec![], vec![]);
    while let Some(action) = state.action() {
        match action {
            Action::Begin(slot) => begun.push(slot),
            Action::Stop(slot) => stopped.push(slot),
            Action::Kill(slot) => killed.push(slot),
            Action::Recall(_) => {}
            Action::Report(finished, weight) => {
                state.written(weight);
                told.push((finished.task.seq, finished.cause));
            }
        }
    }
    (begun, stopped, killed, told)
}

proptest! {
    #[test]
    fn each_task_is_told_once_in_order_and_tried_no_more_than_allowed(
        slots in 1..5_usize,
        depth in 1..4_usize,
        window in 1..9_u64,
        retries in 0..3_u32,
        ordered: bool,
        fates in proptest::collection::vec((0..4_u8, 1..30_u64, 0..200_usize), 1..60),
    ) {
        let retry = Retry { extra: retries, delay: MILLI, on: RetryOn::default(), crash_limit: 2 };
        let mut state = fed(
            Rules { depth: Depth::Fixed(depth), window, ordered, retry, ..rules(slots) },
            u8::try_from(fates.len()).unwrap(),
        );
        let mut ends: BTreeMap<(Time, usize), ()> = BTreeMap::new();
        let (mut now, mut told, mut begun) = (Time::ZERO, Vec::new(), HashMap::new());
        for _round in 0..10_000 {
            let (starts, _, _, news) = step(&mut state, now);
            told.extend(news);
            for slot in starts {
                let begins = state.hand(slot).unwrap().0.seq;
                let (task, _) = state.at_work(slot).unwrap();
                *begun.entry(begins).or_insert(0) += 1;
                if !ends.keys().any(|(_, at)| *at == slot) {
                    ends.insert((now + MILLI * u32::try_from(fates[task.bytes[0] as usize].1).unwrap(), slot), ());
                }
            }
            prop_assert!(state.workers().count() <= slots);
            if ordered {
                let seqs = state.workers().map(|(_, task, _)| task.seq);
                prop_assert!(seqs.max().is_none_or(|last| last < told.len() as u64 + window));
            }
            if state.is_over() {
                break;
            }
            let next = ends.keys().next().copied();
            match (next, state.alarm()) {
                (Some((at, _)), Some(alarm)) if alarm < at => now = now.max(alarm),
                (Some((at, slot)), _) => {
                    ends.remove(&(at, slot));
                    now = now.max(at);
                    let seq = state.at_work(slot).unwrap().0.seq;
                    let (fate, millis, weight) = fates[usize::try_from(seq).unwrap()];
                    match fate {
                        0 => state.ended(slot, CRASH, 0, weight, now),
                        1 => state.answered(slot, 0, Cause::Exit(1), 0, weight, now),
                        _ => state.answered(slot, 0, Cause::Ok, 0, weight, now),
                    }
                    if state.at_work(slot).is_some() {
                        ends.insert((now + MILLI * u32::try_from(millis).unwrap(), slot), ());
                    }
                }
                (None, Some(alarm)) => now = now.max(alarm),
                (None, None) => prop_assert!(false, "it waits for nothing: {state:?}"),
            }
        }
        prop_assert!(state.is_over());
        prop_assert_eq!(told.len(), fates.len());
        let mut seqs: Vec<u64> = told.iter().map(|(seq, _)| *seq).collect();
        if !ordered {
            seqs.sort_unstable();
        }
        prop_assert_eq!(seqs, (0..fates.len() as u64).collect::<Vec<_>>());
        for (seq, cause) in told {
            let right = match fates[usize::try_from(seq).unwrap()].0 {
                0 if retries >= 2 => Cause::Poison,
                0 => CRASH,
                1 => Cause::Exit(1),
                _ => Cause::Ok,
            };
            prop_assert_eq!(cause, right);
            // Behind a crash at a deep slot a task is begun anew without having been tried.
            if depth == 1 {
                prop_assert!(begun[&seq] <= 1 + retries);
            }
        }
    }
}

#[test]
fn results_that_wait_hold_up_all_but_the_one_they_wait_for() {
    let mut state = fed(rules(3), 10);
    assert_eq!(step(&mut state, Time::ZERO).0, [0, 1, 2]);
    state.ended(1, Cause::Ok, 0, 5000, MILLI);
    assert!(step(&mut state, MILLI).0.is_empty());
    assert_eq!(state.alarm(), None);
    state.ended(0, Cause::Ok, 0, 1, MILLI);
    let (begun, _, _, told) = step(&mut state, MILLI);
    assert_eq!((begun, told.len()), (vec![], 2));
    assert_eq!(step(&mut state, MILLI).0, [0, 1]);
}

#[test]
fn who_runs_over_time_is_stopped_then_killed_and_told_so() {
    let mut state = fed(Rules { timeout: Some(Limit::Fixed(5 * MILLI)), ..rules(1) }, 1);
    assert_eq!(step(&mut state, Time::ZERO).0, [0]);
    assert_eq!(state.alarm(), Some(5 * MILLI));
    assert_eq!(step(&mut state, 5 * MILLI).1, [0]);
    assert_eq!(state.alarm(), Some(15 * MILLI));
    assert_eq!(step(&mut state, 15 * MILLI).2, [0]);
    state.ended(0, Cause::Killed, 0, 0, 16 * MILLI);
    assert_eq!(step(&mut state, 16 * MILLI).3, [(0, Cause::Timeout)]);
    assert!(state.is_over());
}

#[test]
fn at_its_first_failure_it_stops_what_runs_and_skips_the_rest() {
    let mut state = fed(Rules { halt: Some(Halt::FIRST_FAILURE), ..rules(2) }, 5);
    step(&mut state, Time::ZERO);
    state.ended(1, Cause::Exit(1), 0, 0, MILLI);
    let (begun, stopped, _, told) = step(&mut state, MILLI);
    assert_eq!((begun, stopped, told), (vec![], vec![0], vec![]));
    state.ended(0, Cause::Stopped, 0, 0, 2 * MILLI);
    let told = step(&mut state, 2 * MILLI).3;
    let skipped = (2..5).map(|seq| (seq, Cause::Skipped));
    assert!(told.iter().copied().eq([(0, Cause::Stopped), (1, Cause::Exit(1))].into_iter().chain(skipped)));
    assert_eq!((state.counts().failed, state.counts().skipped, state.why()), (1, 4, Some(Why::Halt)));
}

#[test]
fn starts_are_spaced_and_the_deadline_ends_it_all() {
    let mut state = fed(Rules { spacing: 10 * MILLI, deadline: Some(15 * MILLI), ..rules(3) }, 9);
    assert_eq!(step(&mut state, Time::ZERO).0, [0]);
    assert_eq!(state.alarm(), Some(10 * MILLI));
    assert_eq!(step(&mut state, 10 * MILLI).0, [1]);
    assert_eq!(state.alarm(), Some(15 * MILLI));
    assert_eq!(step(&mut state, 15 * MILLI).1, [0, 1]);
    assert_eq!(state.why(), Some(Why::Deadline));
}

#[test]
fn no_process_to_be_had_is_no_attempt() {
    let mut state = fed(rules(1), 1);
    step(&mut state, Time::ZERO);
    let mut now = Time::ZERO;
    for _ in 0..REFUSALS {
        state.refused(0, CRASH, 0, now);
        assert!(step(&mut state, now).3.is_empty());
        now = state.alarm().unwrap();
        assert_eq!(step(&mut state, now).0, [0]);
    }
    state.refused(0, CRASH, 0, now);
    assert_eq!(step(&mut state, now).3, [(0, CRASH)]);
}

/// A slot from outside, where each task has a process: the one at work, and the one that follows by itself.
#[derive(Default)]
struct Chain {
    ends: Option<Time>,
    follows: bool,
}

proptest! {
    #[test]
    fn what_is_to_follow_begins_once_and_waits_for_nobody_else(
        slots in 1..5_usize,
        retries in 0..2_u32,
        stops in proptest::option::of(0..300_u64),
        fates in proptest::collection::vec((0..8_u8, 1..60_u64), 1..80),
        luck in proptest::collection::vec(any::<bool>(), 16),
    ) {
        let retry = Retry { extra: retries, delay: MILLI, on: RetryOn::default(), crash_limit: 9 };
        let rules = Rules { depth: Depth::Next, ordered: false, retry, ..rules(slots) };
        let mut state = fed(rules, u8::try_from(fates.len()).unwrap());
        let fate = |state: &State<u32>, slot| {
            let task = state.at_work(slot).unwrap().0;
            let (fate, millis) = fates[usize::try_from(task.seq).unwrap()];
            (fate, MILLI * u32::try_from(millis).unwrap())
        };
        let mut chains: Vec<Chain> = (0..slots).map(|_| Chain::default()).collect();
        let (mut now, mut told, mut lucky) = (Time::ZERO, Vec::new(), luck.iter().cycle());
        let mut stops = stops.map(|at| MILLI * u32::try_from(at).unwrap());
        let mut quiet = 0;
        for _round in 0..20_000 {
            if stops.is_some_and(|at| at <= now) {
                stops = None;
                state.stop(Why::Signal(15), now);
            }
            state.step(now);
            while let Some(action) = state.action() {
                quiet = 0;
                match action {
                    Action::Begin(slot) => {
                        let is_first = state.hand(slot).unwrap().1;
                        if is_first {
                            chains[slot].ends = Some(now + fate(&state, slot).1);
                        } else {
                            prop_assert!(!std::mem::replace(&mut chains[slot].follows, true), "two follow");
                        }
                    }
                    // In time, or just too late: then nobody answers.
                    Action::Recall(slot) if chains[slot].follows && *lucky.next().unwrap() => {
                        chains[slot].follows = false;
                        state.recalled(slot, 1, now);
                    }
                    Action::Recall(_) => {}
                    Action::Stop(slot) | Action::Kill(slot) => chains[slot].ends = Some(now),
                    Action::Report(finished, weight) => {
                        state.written(weight);
                        told.push((finished.task.seq, finished.cause));
                    }
                }
            }
            if state.is_over() {
                break;
            }
            let next = (0..slots).filter_map(|slot| chains[slot].ends.map(|at| (at, slot))).min();
            match (next, state.alarm()) {
                (Some((at, _)), Some(alarm)) if alarm < at => now = now.max(alarm),
                (Some((at, slot)), _) => {
                    now = now.max(at);
                    let seq = state.at_work(slot).unwrap().0.seq;
                    match fate(&state, slot).0 {
                        0 => state.ended(slot, CRASH, 0, 1, now),
                        1 if *lucky.next().unwrap() => state.refused(slot, CRASH, 0, now),
                        _ => state.ended(slot, Cause::Ok, 0, 1, now),
                    }
                    let follows = std::mem::take(&mut chains[slot].follows);
                    prop_assert_eq!(state.at_work(slot).is_some(), follows, "{} was at {}", seq, slot);
                    chains[slot].ends = follows.then(|| now + fate(&state, slot).1);
                }
                (None, Some(alarm)) => now = now.max(alarm),
                (None, None) => {
                    quiet += 1;
                    prop_assert!(quiet < 3, "it waits for nothing: {state:?}");
                }
            }
        }
        prop_assert!(state.is_over());
        let seqs: std::collections::BTreeSet<u64> = told.iter().map(|(seq, _)| *seq).collect();
        prop_assert_eq!((told.len(), seqs.len()), (fates.len(), fates.len()));
    }
}

#[test]
fn behind_a_short_task_the_next_follows_and_an_idle_slot_takes_it_back() {
    let mut state = fed(Rules { depth: Depth::Next, ..rules(2) }, 6);
    assert_eq!(step(&mut state, Time::ZERO).0, [0, 1]);
    (0..2).for_each(|slot| assert!(state.hand(slot).unwrap().1));
    // Both were short: each has one at work and one that follows, the last two of six.
    state.ended(0, Cause::Ok, 0, 0, MILLI);
    state.ended(1, Cause::Ok, 0, 0, MILLI);
    assert_eq!(step(&mut state, MILLI).0, [0, 1, 0, 1]);
    for slot in [0, 1, 0, 1] {
        state.hand(slot).unwrap();
    }
    // At slot 1 both are done, at slot 0 the first still runs.
    state.ended(1, Cause::Ok, 0, 0, 2 * MILLI);
    assert_eq!(state.at_work(1).unwrap().0.seq, 5);
    state.ended(1, Cause::Ok, 0, 0, 3 * MILLI);
    state.step(3 * MILLI);
    let recalled = std::iter::from_fn(|| state.action()).filter_map(|action| match action {
        Action::Recall(slot) => Some(slot),
        _ => None,
    });
    assert_eq!(recalled.collect::<Vec<_>>(), [0]);
    state.recalled(0, 1, 3 * MILLI);
    assert_eq!(step(&mut state, 3 * MILLI).0, [1]);
    assert_eq!(state.hand(1).map(|(task, is_first)| (task.seq, is_first)), Some((4, true)));
}
