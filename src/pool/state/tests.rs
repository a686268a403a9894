//! The state against a world made of random numbers: workers that work, stall, lie and die at any moment.

use super::*;
use crate::Exit;
use crate::error::{Lost, Work};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A call as the worker's page and pipe show it.
#[derive(Debug, Clone)]
struct Claim {
    slot: u8,
    tag: u16,
    job: JobId,
    items: Range<u64>,
    next: u32,
    end: u32,
    answered: u32,
}

#[derive(Debug, Default)]
struct Body {
    calls: VecDeque<Claim>,
    retired: bool,
    killed: bool,
    ready: bool,
}

/// Workers as they would be, without a process.
struct World {
    state: State,
    bodies: BTreeMap<WorkerId, Body>,
    /// How often each item was started, and how it was resolved.
    started: BTreeMap<(JobId, u64), u32>,
    resolved: BTreeMap<(JobId, u64), &'static str>,
    finished: BTreeSet<JobId>,
    submitted: BTreeMap<JobId, u64>,
    now: Instant,
    empty: bool,
    retries: u32,
}

impl World {
    fn new(limits: Limits) -> Self {
        let retries = limits.retries;
        let mut world = Self {
            state: State::new(limits),
            bodies: BTreeMap::new(),
            started: BTreeMap::new(),
            resolved: BTreeMap::new(),
            finished: BTreeSet::new(),
            submitted: BTreeMap::new(),
            now: Instant::now(),
            empty: false,
            retries,
        };
        world.state.refill();
        world.act();
        world
    }

    fn resolve(&mut self, job: JobId, item: u64, how: &'static str) {
        let before = self.resolved.insert((job, item), how);
        assert_eq!(before, None, "item {item} of {job:?} is resolved twice, now {how}");
    }

    fn act(&mut self) {
        while let Some(action) = self.state.next_action() {
            match action {
                Action::Spawn(worker) => {
                    self.bodies.insert(worker, Body::default());
                }
                Action::Send { worker, slot, tag, job, items } => {
                    let end = u32::try_from(items.end - items.start).unwrap();
                    let body = self.bodies.get_mut(&worker).unwrap();
                    assert!(body.ready && !body.retired, "a call for a worker that cannot take it");
                    assert!(body.calls.iter().all(|call| call.slot != slot), "slot {slot} is in use");
                    body.calls.push_back(Claim { slot, tag, job, items, next: 0, end, answered: 0 });
                }
                Action::TakeBack { worker, slot, halve, .. } => {
                    let range = self.take_back(worker, slot, halve);
                    self.state.taken_back(worker, slot, range);
                }
                Action::Freeze(worker) => self.freeze(worker, false),
                Action::Kill(worker) => {
                    if let Some(body) = self.bodies.get_mut(&worker) {
                        body.killed = true;
                    }
                }
                Action::Retire(worker) => self.bodies.get_mut(&worker).unwrap().retired = true,
                Action::Fail { job, items, .. } => {
                    for item in items {
                        self.resolve(job, item, "failed");
                    }
                }
                Action::Finish(job) => assert!(self.finished.insert(job), "a job is finished twice"),
                Action::SpawnLater => {}
                Action::Empty => self.empty = true,
            }
        }
    }

    fn take_back(&mut self, worker: WorkerId, slot: u8, halve: bool) -> Option<Range<u32>> {
        let call = self.bodies.get_mut(&worker)?.calls.iter_mut().find(|call| call.slot == slot)?;
        let end = call.next + if halve { (call.end - call.next) / 2 } else { 0 };
        let range = end..call.end;
        call.end = end;
        Some(range)
    }

    fn freeze(&mut self, worker: WorkerId, overdue: bool) {
        let calls = self.state.calls(worker);
        let taken: Vec<_> =
            calls.into_iter().map(|(slot, _, _)| (slot, self.take_back(worker, slot, false))).collect();
        self.state.frozen(worker, &taken, overdue);
    }

    fn pick(&self, n: usize) -> Option<WorkerId> {
        let keys: Vec<_> = self.bodies.keys().copied().collect();
        (!keys.is_empty()).then(|| keys[n % keys.len()])
    }

    /// The worker goes one step: claims, answers, or ends a call.
    fn work(&mut self, worker: WorkerId) {
        let Some(body) = self.bodies.get_mut(&worker) else { return };
        if body.killed {
            return self.die(worker, true);
        }
        if !body.ready {
            body.ready = true;
            self.state.ready(worker);
            return self.act();
        }
        let Some(call) = body.calls.front_mut() else {
            if body.retired {
                self.die(worker, true);
            }
            return;
        };
        if call.answered < call.next {
            call.answered += 1;
            let item = call.items.start + u64::from(call.answered) - 1;
            let job = call.job;
            let due = self.state.due(worker).map(|(job, items)| (job, items.start));
            assert_eq!(due, Some((job, item)), "an answer is credited to another item");
            self.state.answered(worker, 1).unwrap();
            self.resolve(job, item, "answered");
        } else if call.next < call.end {
            let item = (call.job, call.items.start + u64::from(call.next));
            call.next += 1;
            *self.started.entry(item).or_default() += 1;
        } else {
            let end = End { tag: call.tag, count: call.answered, nanos: 1000 };
            body.calls.pop_front();
            self.state.ended(worker, end).unwrap();
        }
        self.act();
    }

    fn die(&mut self, worker: WorkerId, honest: bool) {
        let Some(body) = self.bodies.remove(&worker) else { return };
        if self.state.is_starting(worker) {
            let error = SpawnError::Birth { stage: "".into(), text: "".into(), exit: None };
            self.state.born_dead(worker, error);
        } else {
            let started: Vec<_> = body.calls.iter().map(|call| honest.then_some(call.next)).collect();
            self.state.died(worker, &started, self.now, |why| match why {
                Some(Why::Terminated) => TaskError::Closed,
                Some(Why::Cancelled) => TaskError::Cancelled,
                _ => TaskError::Lost(Lost {
                    exit: Exit::Signal(9),
                    pid: 1,
                    worker: "w".into(),
                    reason: None,
                    index: None,
                    work: Work::Task,
                }),
            });
        }
        self.now += Duration::from_secs(1);
        self.act();
    }

    fn submit(&mut self, count: u64, single: bool) -> Option<JobId> {
        let job = self.state.open(single).ok()?;
        let count = if single { 1 } else { count };
        self.submitted.insert(job, count);
        let half = count / 2;
        for items in [0..half, half..count] {
            if !items.is_empty() {
                self.state.submit(job, items);
                self.act();
            }
        }
        self.state.seal(job);
        self.act();
        Some(job)
    }

    /// Everything that can still happen happens.
    fn run_out(&mut self) {
        for _ in 0..100_000 {
            let has_to_do =
                |body: &Body| !body.ready || body.killed || body.retired || !body.calls.is_empty();
            let busy: Vec<_> = self.bodies.iter().filter(|(_, b)| has_to_do(b)).map(|(id, _)| *id).collect();
            if busy.is_empty() {
                return;
            }
            for worker in busy {
                self.work(worker);
            }
        }
        panic!("it never comes to rest: {:?}", self.bodies);
    }

    fn check(&self) {
        for (&job, &count) in &self.submitted {
            for item in 0..count {
                assert!(
                    self.resolved.contains_key(&(job, item)) || self.finished.contains(&job),
                    "item {item} of {job:?} hangs"
                );
            }
            assert!(self.finished.contains(&job), "{job:?} is never finished");
        }
        for (item, &times) in &self.started {
            assert!(times <= 1 + self.retries, "{item:?} was started {times} times");
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Submit { count: u64, single: bool },
    Work(usize),
    Die(usize),
    DieLying(usize),
    Overdue(usize),
    Cancel(usize),
    SpawnAgain,
    Close,
    Terminate,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1_u64..60, any::<bool>()).prop_map(|(count, single)| Event::Submit { count, single }),
        60 => any::<usize>().prop_map(Event::Work),
        4 => any::<usize>().prop_map(Event::Die),
        1 => any::<usize>().prop_map(Event::DieLying),
        2 => any::<usize>().prop_map(Event::Overdue),
        2 => any::<usize>().prop_map(Event::Cancel),
        1 => Just(Event::SpawnAgain),
        1 => Just(Event::Close),
        1 => Just(Event::Terminate),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (1_usize..5, prop::option::of(1_u64..9), prop::option::of(1_u32..20), 0_u32..3).prop_map(
        |(workers, max_tasks, chunk_size, retries)| Limits { workers, max_tasks, chunk_size, retries },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn every_item_is_resolved_exactly_once_whatever_happens(limits in limits(), events in prop::collection::vec(event(), 0..400)) {
        let mut world = World::new(limits);
        let mut jobs = Vec::new();
        for event in events {
            match event {
                Event::Submit { count, single } => jobs.extend(world.submit(count, single)),
                Event::Work(n) => {
                    if let Some(worker) = world.pick(n) {
                        world.work(worker);
                    }
                }
                Event::Die(n) => {
                    if let Some(worker) = world.pick(n) {
                        world.die(worker, true);
                    }
                }
                Event::DieLying(n) => {
                    if let Some(worker) = world.pick(n) {
                        world.die(worker, false);
                    }
                }
                Event::Overdue(n) => {
                    if let Some(worker) = world.pick(n) {
                        world.freeze(worker, true);
                        world.act();
                    }
                }
                Event::Cancel(n) => {
                    if !jobs.is_empty() {
                        world.state.cancel(jobs[n % jobs.len()]);
                        world.act();
                    }
                }
                Event::SpawnAgain => {
                    world.state.retry_spawn();
                    world.act();
                }
                Event::Close => {
                    world.state.close();
                    world.act();
                }
                Event::Terminate => {
                    world.state.terminate();
                    world.act();
                }
            }
        }
        world.run_out();
        world.check();
        world.state.close();
        world.act();
        world.run_out();
        prop_assert!(world.empty && !world.state.has_workers(), "a closed pool keeps workers");
    }
}

fn two_workers() -> World {
    World::new(Limits { workers: 2, max_tasks: None, chunk_size: Some(10), retries: 0 })
}

#[test]
fn an_idle_worker_gets_what_a_busy_one_has_not_started() {
    let mut world = two_workers();
    let first = world.pick(0).unwrap();
    world.work(first);
    // Both chunks land on the only worker that is ready: one to run, one in reserve.
    let job = world.submit(20, false).unwrap();
    assert_eq!(world.bodies[&first].calls.len(), 2);
    let second = world.pick(1).unwrap();
    world.work(second);
    assert_eq!(
        world.bodies[&second].calls.len(),
        1,
        "the reserve is taken back for the one that has nothing"
    );
    world.run_out();
    assert!(world.finished.contains(&job));
    assert!(world.started.values().all(|&times| times == 1));
}

#[test]
fn a_worker_that_answers_too_much_is_told_apart_from_one_that_is_asked() {
    let mut world = two_workers();
    let worker = world.pick(0).unwrap();
    world.work(worker);
    assert!(world.state.answered(worker, 1).is_err());
    assert!(world.state.ended(worker, End { tag: 1, count: 0, nanos: 0 }).is_err());
}

#[test]
fn births_that_fail_in_a_row_end_the_pool_with_their_reason() {
    let mut world = two_workers();
    let job = world.submit(1, true).unwrap();
    for _ in 0..BIRTHS {
        let worker = world.pick(0).unwrap();
        world.die(worker, true);
    }
    assert_eq!(world.resolved[&(job, 0)], "failed");
    assert!(matches!(world.state.open(true), Err(TaskError::Spawn(_))));
    world.run_out();
    assert!(world.bodies.is_empty(), "nothing is started any more");
}

#[test]
fn a_full_system_fails_what_waits_and_serves_again_later() {
    let mut world = two_workers();
    let job = world.submit(3, false).unwrap();
    for worker in world.bodies.keys().copied().collect::<Vec<_>>() {
        world.bodies.remove(&worker);
        world.state.spawn_failed(worker, SpawnError::System { stage: "starting", errno: crate::sys::EAGAIN });
        world.act();
    }
    assert!((0..3).all(|item| world.resolved[&(job, item)] == "failed"));
    world.state.retry_spawn();
    world.act();
    let job = world.submit(3, false).unwrap();
    world.run_out();
    assert!((0..3).all(|item| world.resolved[&(job, item)] == "answered"));
}

#[test]
fn a_dying_worker_gets_nothing_more_to_do_whatever_it_still_says() {
    let mut world = two_workers();
    let (dying, other) = (world.pick(0).unwrap(), world.pick(1).unwrap());
    world.work(dying);
    let job = world.submit(60, false).unwrap();
    world.work(dying);
    world.work(dying);
    world.state.dying(dying);
    // Its last words are heard after its death: they must not earn it a call.
    for _ in 0..60 {
        world.work(dying);
    }
    assert!(world.bodies[&dying].calls.is_empty());
    world.die(dying, true);
    world.work(other);
    world.run_out();
    assert!((0..60).all(|item| world.resolved[&(job, item)] == "answered"));
}
