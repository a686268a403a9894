//! Any world at all: copies that end, hang, are late, and an operator who changes his mind.

use super::seat::Phase;
use super::*;
use crate::cause::Cause;
use crate::exit::Exit;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// What the skin would see.
struct World {
    state: State,
    now: Instant,
    alive: BTreeMap<u32, Living>,
    starts: BTreeMap<u32, Vec<Instant>>,
    told: Vec<(u32, What)>,
    done: Option<Verdict>,
    refuse: bool,
}

#[derive(Default)]
struct Living {
    stopping: bool,
    killed: bool,
}

impl World {
    fn new(policy: Policy) -> Self {
        policy.check().expect("a policy that can be");
        let now = Instant::now();
        let state = State::new(policy, 4711, now);
        let mut world = Self {
            state,
            now,
            alive: BTreeMap::new(),
            starts: BTreeMap::new(),
            told: Vec::new(),
            done: None,
            refuse: false,
        };
        world.on(Event::Clock);
        world
    }

    fn on(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = VecDeque::from(self.state.on(event, self.now));
            while let Some(action) = actions.pop_front() {
                assert!(self.done.is_none(), "nothing comes after the end: {action:?}");
                if let Some(event) = self.act(action) {
                    actions.extend(self.state.on(event, self.now));
                }
            }
        }
        self.holds();
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Start { id, .. } if self.state.is_stopping() => {
                return Some(Event::Ended { id, cause: Cause::Skipped, exit: None });
            }
            Action::Start { id, .. } if self.refuse => {
                return Some(Event::Failed {
                    id,
                    cause: Cause::Spawn { stage: crate::Stage::Exec, errno: 2 },
                });
            }
            Action::Start { id, attempt } => {
                assert!(self.alive.insert(id, Living::default()).is_none(), "{id} lives already");
                let starts = self.starts.entry(id).or_default();
                starts.push(self.now);
                assert!(attempt >= 1);
                return Some(Event::Started { id, pid: 1000 + id });
            }
            Action::Stop { id } => {
                self.alive.get_mut(&id).into_iter().for_each(|living| living.stopping = true);
            }
            Action::Kill { id } => {
                self.alive.get_mut(&id).into_iter().for_each(|living| living.killed = true);
            }
            Action::Tell { id, what } => self.told.push((id, what)),
            Action::Done(verdict) => self.done = Some(verdict),
        }
        None
    }

    fn holds(&self) {
        for (id, seat) in &self.state.seats {
            assert_eq!(seat.lives(), self.alive.contains_key(id), "{id} {seat:?}");
            if let Phase::Stopping { .. } = seat.phase {
                assert!(self.alive[id].stopping, "{id} is asked to end");
            }
            if let RestartLimit::InARow(most) = self.state.policy.limit {
                assert!(seat.in_a_row <= most, "{id} {seat:?}");
            }
        }
        assert!(self.alive.keys().all(|id| self.state.seats.contains_key(id)), "nobody is forgotten");
        assert!(self.done.is_none() || self.alive.is_empty(), "it is over when nobody lives");
    }

    fn end(&mut self, id: u32, exit: Exit) {
        if let Some(living) = self.alive.remove(&id) {
            let cause = if living.killed {
                Cause::Killed
            } else if living.stopping {
                Cause::Stopped
            } else {
                exit.into()
            };
            self.on(Event::Ended { id, cause, exit: Some(exit) });
        }
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.state.deadline().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.on(Event::Clock);
            assert!(
                self.state.deadline().is_none_or(|next| next > at || self.done.is_some()),
                "time goes on"
            );
        }
        self.now = until;
    }

    fn states(&self) -> Vec<PlaceState> {
        self.state.seats.values().map(|seat| seat.state(&self.state.policy)).collect()
    }
}

#[derive(Debug, Clone)]
enum Deed {
    End(u32, u8),
    Ready(u32),
    Wait(u64),
    Scale(u32),
    Restart(u32),
    Rest(u32),
    Start(u32),
    Refuse(bool),
    Drain,
    Stop,
    Kill,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let id = 0..5_u32;
    let deed = prop_oneof![
        8 => (id.clone(), 0..4_u8).prop_map(|(id, how)| Deed::End(id, how)),
        3 => id.clone().prop_map(Deed::Ready),
        6 => (0..40_000_u64).prop_map(Deed::Wait),
        1 => (0..5_u32).prop_map(Deed::Scale),
        1 => id.clone().prop_map(Deed::Restart),
        1 => id.clone().prop_map(Deed::Rest),
        1 => id.prop_map(Deed::Start),
        1 => any::<bool>().prop_map(Deed::Refuse),
        1 => prop_oneof![Just(Deed::Drain), Just(Deed::Stop), Just(Deed::Kill)],
    ];
    proptest::collection::vec(deed, 0..60)
}

fn policies() -> impl Strategy<Value = Policy> {
    let restart = prop_oneof![
        Just(Restart::No),
        Just(Restart::OnFailure),
        Just(Restart::OnCrash),
        Just(Restart::Always)
    ];
    let limit = prop_oneof![
        Just(RestartLimit::None),
        (0..4_u32).prop_map(RestartLimit::InARow),
        (0..4_u32).prop_map(|count| RestartLimit::Within(count, 60 * SECOND)),
    ];
    let until = prop_oneof![Just(Until::Any), Just(Until::All), Just(Until::Never)];
    let bits = (any::<bool>(), any::<bool>(), any::<bool>());
    (1..5_u32, restart, limit, until, bits).prop_map(
        |(copies, restart, limit, until, (ready, age, on_limit))| Policy {
            copies,
            restart,
            limit,
            until,
            on_limit: if on_limit { OnLimit::Stop } else { OnLimit::Fail },
            ready_within: ready.then_some(5 * SECOND),
            max_age: age.then_some(20 * SECOND),
            fatal: [Exit::Code(78)].into_iter().collect(),
            ..Policy::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn in_any_world_all_that_must_hold_holds_and_it_can_be_ended(policy in policies(), deeds in deeds()) {
        let mut world = World::new(policy);
        for deed in deeds {
            match deed {
                Deed::End(id, how) => {
                    let exit = [Exit::Code(0), Exit::Code(1), Exit::Signal(11), Exit::Code(78)][usize::from(how)];
                    world.end(id, exit);
                }
                Deed::Ready(id) => world.on(Event::Ready { id }),
                Deed::Wait(millis) => world.wait(Duration::from_millis(millis)),
                Deed::Scale(count) => world.on(Event::Scale(count)),
                Deed::Restart(id) => world.on(Event::Restart(vec![id])),
                Deed::Rest(id) => world.on(Event::Rest(vec![id])),
                Deed::Start(id) => world.on(Event::Start(vec![id])),
                Deed::Refuse(yes) => world.refuse = yes,
                Deed::Drain => world.on(Event::Drain),
                Deed::Stop => world.on(Event::Stop),
                Deed::Kill => world.on(Event::Kill),
            }
        }
        // Whoever obeys ends, and whoever does not is killed; then it is over.
        world.on(Event::Stop);
        world.wait(11 * SECOND);
        prop_assert!(world.alive.values().all(|living| living.killed));
        for id in world.alive.keys().copied().collect::<Vec<_>>() {
            world.end(id, Exit::Signal(9));
        }
        prop_assert!(world.done.is_some());
        prop_assert_eq!(world.state.deadline(), None);
    }
}

#[test]
fn the_tenth_restart_in_a_row_is_the_last() {
    let mut world = World::new(Policy::default());
    for restart in 1..=10 {
        world.end(0, Exit::Code(1));
        assert_eq!(world.states(), [PlaceState::Backoff], "{restart}");
        world.wait(40 * SECOND);
        world.now -= 31 * SECOND; // Not up for long: it is the wait that was long.
    }
    world.end(0, Exit::Code(1));
    assert!(world.done.is_some_and(|verdict| verdict.gave_up));
    assert!(world.told.contains(&(0, What::GaveUp { cause: Cause::Exit(1) })));
}

#[test]
fn who_was_stable_is_forgiven_and_who_was_not_waits_longer() {
    let mut world = World::new(Policy::default());
    let counts = |world: &World| -> Vec<u32> {
        let count = |(_, what): &(u32, What)| match what {
            What::Backoff { count, .. } => Some(*count),
            _ => None,
        };
        world.told.iter().filter_map(count).collect()
    };
    for _ in 0..3 {
        world.end(0, Exit::Signal(11));
        world.wait(SECOND);
    }
    world.wait(11 * SECOND);
    world.end(0, Exit::Signal(11));
    assert_eq!(counts(&world), [1, 2, 3, 1]);
}

#[test]
fn no_restart_delay_is_no_delay() {
    let mut world = World::new(Policy { restart_delay: Duration::ZERO, ..Policy::default() });
    let before = world.now;
    world.end(0, Exit::Code(1));
    assert_eq!((world.states(), world.now), (vec![PlaceState::Running], before));
}

#[test]
fn replacing_all_is_one_after_the_other() {
    let mut world = World::new(Policy { copies: 3, ready_within: Some(5 * SECOND), ..Policy::default() });
    (0..3).for_each(|id| world.on(Event::Ready { id }));
    world.on(Event::Restart(vec![0, 1, 2]));
    for id in 0..3 {
        let stopping: Vec<u32> =
            world.alive.iter().filter(|(_, living)| living.stopping).map(|(&id, _)| id).collect();
        assert_eq!(stopping, [id]);
        world.end(id, Exit::Code(0));
        assert!(
            !world.alive.values().any(|living| living.stopping),
            "the next waits until this one is ready"
        );
        world.on(Event::Ready { id });
    }
    assert!(world.starts.values().all(|starts| starts.len() == 2));
}

#[test]
fn age_is_an_end_with_a_replacement_and_wakes_nobody_before() {
    let mut world = World::new(Policy { copies: 2, max_age: Some(100 * SECOND), ..Policy::default() });
    assert!(world.state.deadline().is_some_and(|at| at >= world.now + 90 * SECOND));
    world.wait(110 * SECOND);
    assert_eq!(world.alive.values().filter(|living| living.stopping).count(), 1);
    world.end(0, Exit::Code(0));
    world.end(1, Exit::Code(0));
    assert_eq!(world.alive.len(), 2);
}

#[test]
fn who_is_not_ready_in_time_has_failed() {
    let mut world = World::new(Policy {
        ready_within: Some(5 * SECOND),
        limit: RestartLimit::InARow(0),
        ..Policy::default()
    });
    world.wait(6 * SECOND);
    assert!(world.told.contains(&(0, What::Late)) && world.alive[&0].stopping);
    world.end(0, Exit::Code(0));
    let verdict = world.done.expect("it is over");
    assert!(verdict.gave_up && verdict.last.is_some_and(|(cause, _)| cause == Cause::StartTimeout));
}

#[test]
fn what_never_ran_is_not_tried_again() {
    let mut world = World::new(Policy { copies: 1, ..Policy::default() });
    assert!(world.done.is_none());
    world.refuse = true;
    world.end(0, Exit::Code(1));
    world.wait(SECOND);
    assert!(world.done.is_none(), "it did run once: this may pass");
    let policy = Policy { copies: 3, ..Policy::default() };
    let mut state = State::new(policy, 1, world.now);
    let starts = state.on(Event::Clock, world.now).len();
    assert_eq!(starts, 3);
    let cause = Cause::Spawn { stage: crate::Stage::Exec, errno: 2 };
    state.on(Event::Failed { id: 0, cause }, world.now);
    state.on(Event::Ended { id: 1, cause: Cause::Skipped, exit: None }, world.now);
    let actions = state.on(Event::Ended { id: 2, cause: Cause::Skipped, exit: None }, world.now);
    let over = |action: &Action| matches!(action, Action::Done(verdict) if verdict.never_ran == Some(cause));
    assert!(actions.iter().any(over), "{actions:?}");
}

#[test]
fn while_nothing_is_due_there_is_no_deadline() {
    let world = World::new(Policy { copies: 100, ..Policy::default() });
    assert_eq!(world.state.deadline(), None);
}

#[test]
fn until_any_ends_all_and_until_never_none() {
    let until = |until| World::new(Policy { copies: 2, until, ..Policy::default() });
    let mut any = until(Until::Any);
    any.end(0, Exit::Code(0));
    assert!(any.alive[&1].stopping);
    any.end(1, Exit::Signal(15));
    assert!(any.done.is_some_and(|verdict| !verdict.failed));
    let mut never = until(Until::Never);
    (0..2).for_each(|id| never.end(id, Exit::Code(0)));
    assert!(never.done.is_none());
    never.on(Event::Start(vec![0]));
    assert_eq!(never.states(), [PlaceState::Running, PlaceState::Done]);
}
