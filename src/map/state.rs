//! Which task runs where and when, and what follows from its end: pure. The picture is in `README.md` beside this.
//!
//! Times are measured from the start of the run; whoever asks says what time it is.

use super::order::Order;
use super::pace::Pace;
use super::retry::{Sequel, is_crash};
pub(crate) use super::rules::{Depth, Rules, Time};
use crate::cause::Cause;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// One thing to be done.
#[derive(Debug)]
pub(crate) struct Task {
    /// Its number, from 0.
    pub(crate) seq: u64,
    pub(crate) bytes: Box<[u8]>,
    /// How often it was tried to the end.
    pub(crate) attempts: u32,
    crashes: u32,
    /// How often there was no process for it.
    refusals: u32,
    /// Whether its worker says that it is worth trying again.
    advice: Option<bool>,
}

/// A task that nothing more happens to.
#[derive(Debug)]
pub(crate) struct Finished<O> {
    pub(crate) task: Task,
    pub(crate) cause: Cause,
    /// What it has come to; `None` if it never ran.
    pub(crate) product: Option<O>,
    /// From 0; of its last attempt.
    pub(crate) slot: usize,
    /// How long its last attempt took.
    pub(crate) took: Duration,
    /// It did not end by itself: the run was ended.
    pub(crate) cut: bool,
}

/// What is to be done outside.
#[derive(Debug)]
pub(crate) enum Action<O> {
    /// The [next](State::hand) task of this slot is to be begun.
    Begin(usize),
    /// Whatever runs at this slot is to end, and knows best how.
    Stop(usize),
    /// It is to end now.
    Kill(usize),
    /// What is to follow at this slot is not to begin after all: to be answered by [`State::recalled`], if it is not too late.
    Recall(usize),
    /// This is what came of it; how much it weighs is to be told by [`State::written`].
    Report(Finished<O>, usize),
}

/// Why a run ends before its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Halt,
    Deadline,
    Signal(i32),
    /// The word is the engine's.
    Fatal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// What runs may end.
    Draining,
    /// What runs is being stopped.
    Stopping,
}

/// What has become of the tasks so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) poisoned: u64,
    pub(crate) retried: u64,
    /// Not begun, or cut short by the end of the run.
    pub(crate) skipped: u64,
}

/// One place to run at.
#[derive(Debug, Default)]
struct Place {
    queue: VecDeque<Task>,
    /// So many of them have been handed over.
    handed: usize,
    /// Since when the first one runs.
    began: Time,
    /// What it will have ended of, whatever it says.
    doom: Option<Cause>,
    /// Its process was told to end, and gets no more tasks.
    dying: bool,
    kill_at: Option<Time>,
    pace: Pace,
    /// The latest task was short.
    swift: bool,
    /// How many had been begun anywhere when the one was that is to follow.
    followed_at: u64,
    /// That one is being taken back.
    recalled: bool,
}

impl Place {
    /// It could begin one.
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.dying
    }
}

#[derive(Debug)]
pub(crate) struct State<O> {
    rules: Rules,
    places: Vec<Place>,
    slots: usize,
    input: VecDeque<Task>,
    /// To be tried again, from this time on.
    again: BTreeMap<(Time, u64), Task>,
    order: Order<Finished<O>>,
    taken: u64,
    input_ended: bool,
    phase: Phase,
    why: Option<Why>,
    next_start: Time,
    running: usize,
    /// So many have been begun.
    begun: u64,
    /// What runs is to end at once.
    killing: bool,
    unwritten: usize,
    counts: Counts,
    typical: Pace,
    actions: VecDeque<Action<O>>,
}

/// So much may have been reported and not have left the house: who takes it is slower than we are.
const MOST_UNWRITTEN: usize = 8 << 20;

/// Tasks that take less are short: the way to a new process and back is worth saving.
const SHORT: Duration = Duration::from_millis(20);
/// One that is to follow is taken back when so many others per slot were begun since.
const PATIENCE: u64 = 4;

/// There is no process to be had: so often is it tried.
const REFUSALS: u32 = 12;
const FIRST_REFUSAL: Duration = Duration::from_millis(5);

impl<O> State<O> {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            order: Order::new(rules.ordered),
            slots: rules.slots,
            rules,
            places: Vec::new(),
            input: VecDeque::new(),
            again: BTreeMap::new(),
            taken: 0,
            input_ended: false,
            phase: Phase::Running,
            why: None,
            next_start: Time::ZERO,
            running: 0,
            begun: 0,
            killing: false,
            unwritten: 0,
            counts: Counts::default(),
            typical: Pace::default(),
            actions: VecDeque::new(),
        }
    }

    pub(crate) fn add(&mut self, bytes: Box<[u8]>) {
        self.input.push_back(Task {
            seq: self.taken,
            bytes,
            attempts: 0,
            crashes: 0,
            refusals: 0,
            advice: None,
        });
        self.taken += 1;
    }

    /// A number that has no task.
    pub(crate) fn skip(&mut self) {
        self.order.skip(self.taken);
        self.taken += 1;
    }

    pub(crate) fn end_of_input(&mut self) {
        self.input_ended = true;
    }

    /// How many more tasks it can make use of soon.
    pub(crate) fn hunger(&self) -> usize {
        if self.phase == Phase::Running {
            (2048 + 2 * self.slots).saturating_sub(self.input.len())
        } else {
            0
        }
    }

    /// The next task of a slot that is to be begun, once; and is it the one to be worked on?
    pub(crate) fn hand(&mut self, slot: usize) -> Option<(&Task, bool)> {
        let place = &mut self.places[slot];
        let at = place.handed;
        let task = place.queue.get(at)?;
        place.handed += 1;
        Some((task, at == 0))
    }

    /// The one that a slot works on, and since when.
    pub(crate) fn at_work(&self, slot: usize) -> Option<(&Task, Time)> {
        let place = self.places.get(slot)?;
        place.queue.front().map(|task| (task, place.began))
    }

    /// All that work.
    pub(crate) fn workers(&self) -> impl Iterator<Item = (usize, &Task, Time)> {
        (0..self.places.len()).filter_map(|slot| self.at_work(slot).map(|(task, since)| (slot, task, since)))
    }

    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) const fn why(&self) -> Option<Why> {
        self.why
    }

    pub(crate) const fn slots(&self) -> usize {
        self.slots
    }

    pub(crate) const fn taken(&self) -> u64 {
        self.taken
    }

    pub(crate) const fn input_ended(&self) -> bool {
        self.input_ended
    }

    pub(crate) fn waiting(&self) -> usize {
        self.input.len() + self.again.len()
    }

    /// May no task be begun any more?
    pub(crate) fn is_ending(&self) -> bool {
        self.phase > Phase::Running
    }

    /// Nothing runs, and nothing will.
    pub(crate) fn is_over(&self) -> bool {
        let nothing_left = self.input_ended && self.input.is_empty() && self.again.is_empty();
        self.running == 0 && (nothing_left || self.phase > Phase::Running)
    }

    /// One slot more, or one less; what runs there may end.
    pub(crate) fn resize(&mut self, more: bool) {
        self.slots = if more { self.slots + 1 } else { (self.slots - 1).max(1) };
        (self.slots..self.places.len()).for_each(|slot| self.recall(slot));
    }

    /// So much of what was reported has left the house.
    pub(crate) fn written(&mut self, weight: usize) {
        self.unwritten = self.unwritten.saturating_sub(weight);
    }

    /// Where a task stands in the queue of a slot.
    pub(crate) fn place_of(&self, slot: usize, seq: u64) -> Option<usize> {
        self.places.get(slot)?.queue.iter().position(|task| task.seq == seq)
    }

    /// A worker says of a task whether it is worth trying again, before it has [answered](Self::answered).
    pub(crate) fn advise(&mut self, slot: usize, at: usize, advice: Option<bool>) {
        if let Some(task) = self.places[slot].queue.get_mut(at) {
            task.advice = advice;
        }
    }

    /// A task of a slot is done, most often the first, and its process goes on.
    pub(crate) fn answered(
        &mut self,
        slot: usize,
        at: usize,
        cause: Cause,
        product: O,
        weight: usize,
        now: Time,
    ) {
        let place = &mut self.places[slot];
        let Some(task) = place.queue.remove(at) else { return };
        place.handed = place.handed.saturating_sub(1);
        place.pace.note(now);
        let (began, doom) = (place.began, if at == 0 { place.doom.take() } else { None });
        if at == 0 {
            place.began = now;
        }
        if place.queue.is_empty() {
            self.running -= 1;
        }
        self.settle(task, doom.unwrap_or(cause), Some(product), weight, slot, (began, now));
    }

    /// The process of a slot has ended, and its first task with it; the others know nothing of it.
    pub(crate) fn ended(&mut self, slot: usize, cause: Cause, product: O, weight: usize, now: Time) {
        let place = &mut self.places[slot];
        let (doom, dying) = (place.doom.take(), std::mem::take(&mut place.dying));
        place.kill_at = None;
        if place.queue.is_empty() {
            return;
        }
        // The one it was told to end for has had its answer: no other is to blame.
        let blamed = if dying && doom.is_none() { None } else { place.queue.pop_front() };
        place.pace = Pace::default();
        let began = place.began;
        place.swift = now.saturating_sub(began) < SHORT;
        self.leave(slot, now);
        let Some(task) = blamed else { return };
        let cause = match doom {
            // It came to its end before it was told to.
            Some(Cause::Stopped) if cause.is_ok() => cause,
            Some(doom) => doom,
            None => cause,
        };
        self.settle(task, cause, Some(product), weight, slot, (began, now));
    }

    /// There was no process to be had for the first task of a slot.
    pub(crate) fn refused(&mut self, slot: usize, cause: Cause, product: O, now: Time) {
        let place = &mut self.places[slot];
        let Some(task) = place.queue.front_mut() else { return };
        task.refusals += 1;
        let refusals = task.refusals;
        if refusals > REFUSALS {
            return self.ended(slot, cause, product, 0, now);
        }
        (place.doom, place.kill_at, place.dying, place.swift) = (None, None, false, false);
        let pause = FIRST_REFUSAL * (1 << refusals.min(10));
        let along = if self.rules.depth == Depth::Next { 1 } else { place.queue.len() };
        for task in place.queue.drain(..along) {
            self.again.insert((now + pause, task.seq), task);
        }
        self.leave(slot, now);
    }

    /// A task that was to follow, most often the second of its slot, has not begun and will not.
    pub(crate) fn recalled(&mut self, slot: usize, at: usize, now: Time) {
        let place = &mut self.places[slot];
        let Some(task) = place.queue.remove(at) else { return };
        (place.recalled, place.swift) = (false, false);
        self.again.insert((Time::ZERO, task.seq), task);
        if at == 0 {
            self.leave(slot, now);
        } else {
            place.handed = place.handed.saturating_sub(1);
        }
    }

    /// The first task of a slot has gone, and its process with it. Those behind it begin by themselves, or elsewhere.
    fn leave(&mut self, slot: usize, now: Time) {
        let place = &mut self.places[slot];
        if self.rules.depth == Depth::Next && !place.queue.is_empty() {
            (place.began, place.handed, place.recalled) = (now, place.handed.saturating_sub(1), false);
            // What was to be done to the one that has gone is not for the one that follows.
            self.actions.retain(|action| match action {
                Action::Stop(of) | Action::Kill(of) | Action::Recall(of) => *of != slot,
                Action::Begin(_) | Action::Report(..) => true,
            });
            if self.phase == Phase::Stopping {
                self.doom(slot, Cause::Stopped, now);
            }
            return;
        }
        (place.handed, place.recalled) = (0, false);
        self.running -= 1;
        for task in place.queue.drain(..) {
            self.again.insert((Time::ZERO, task.seq), task);
        }
    }

    /// Is there another to begin by itself when the first of this slot has gone?
    pub(crate) fn is_followed(&self, slot: usize) -> bool {
        self.rules.depth == Depth::Next && self.places.get(slot).is_some_and(|place| place.queue.len() > 1)
    }

    /// Nothing is to follow anywhere.
    pub(crate) fn recall_all(&mut self) {
        (0..self.places.len()).for_each(|slot| self.recall(slot));
    }

    /// What is to follow at a slot is not to.
    fn recall(&mut self, slot: usize) {
        let place = &mut self.places[slot];
        if self.rules.depth == Depth::Next && place.queue.len() > 1 && !place.recalled {
            place.recalled = true;
            self.actions.push_back(Action::Recall(slot));
        }
    }

    fn settle(
        &mut self,
        mut task: Task,
        cause: Cause,
        product: Option<O>,
        weight: usize,
        slot: usize,
        (began, now): (Time, Time),
    ) {
        task.attempts += 1;
        task.crashes += u32::from(is_crash(cause));
        let took = now.saturating_sub(began);
        let cut = self.phase == Phase::Stopping && matches!(cause, Cause::Stopped | Cause::Killed);
        let mut cause = cause;
        if !cause.is_ok() && !cut && self.phase == Phase::Running {
            let retry = &self.rules.retry;
            let sequel = match task.advice.take() {
                Some(false) => Sequel::Final,
                Some(true) => retry.again(cause, task.attempts, task.crashes, task.seq),
                None => retry.judge(cause, task.attempts, task.crashes, task.seq),
            };
            match sequel {
                Sequel::Again(pause) => {
                    self.counts.retried += 1;
                    self.again.insert((now + pause, task.seq), task);
                    return;
                }
                Sequel::Poison => cause = Cause::Poison,
                Sequel::Final => {}
            }
        }
        match cause {
            Cause::Ok => self.counts.ok += 1,
            _ if cut => self.counts.skipped += 1,
            _ => self.counts.failed += 1,
        }
        self.counts.poisoned += u64::from(cause == Cause::Poison);
        if cause.is_ok() {
            self.typical.sample(took);
        }
        self.order.put(task.seq, Finished { task, cause, product, slot, took, cut }, weight);
        if let Some(halt) = self.rules.halt
            && self.phase == Phase::Running
            && halt.is_reached(self.counts.ok, self.counts.failed)
        {
            if halt.is_now() { self.stop(Why::Halt, now) } else { self.drain(Why::Halt) }
        }
    }

    /// Begins nothing more.
    pub(crate) fn drain(&mut self, why: Why) {
        self.why.get_or_insert(why);
        self.phase = self.phase.max(Phase::Draining);
        self.recall_all();
    }

    /// Stops all that runs; after its grace it is killed.
    pub(crate) fn stop(&mut self, why: Why, now: Time) {
        self.drain(why);
        if self.phase == Phase::Stopping {
            return;
        }
        self.phase = Phase::Stopping;
        for slot in 0..self.places.len() {
            self.doom(slot, Cause::Stopped, now);
        }
    }

    /// Kills all that runs.
    pub(crate) fn kill(&mut self, why: Why, now: Time) {
        self.stop(why, now);
        self.killing = true;
        for (slot, place) in self.places.iter_mut().enumerate() {
            if !place.queue.is_empty() {
                place.kill_at = None;
                self.actions.push_back(Action::Kill(slot));
            }
        }
    }

    /// What runs at a slot is to end, and this will be why.
    pub(crate) fn doom(&mut self, slot: usize, cause: Cause, now: Time) {
        let place = &mut self.places[slot];
        if place.queue.is_empty() || place.dying {
            return;
        }
        (place.doom, place.dying) = (Some(cause), true);
        if cause == Cause::OutputLimit || self.rules.grace.is_zero() || self.killing {
            self.actions.push_back(Action::Kill(slot));
        } else {
            place.kill_at = Some(now + self.rules.grace);
            self.actions.push_back(Action::Stop(slot));
        }
    }

    /// Looks at the clock, and finds out what there is to do.
    pub(crate) fn step(&mut self, now: Time) {
        if self.rules.deadline.is_some_and(|deadline| deadline <= now) && !self.is_over() {
            self.stop(Why::Deadline, now);
        }
        if self.rules.timeout.is_some() || self.phase == Phase::Stopping || self.has_doomed() {
            self.look_at_the_clock(now);
        }
        self.tell();
        if self.phase == Phase::Running {
            self.begin(now);
        }
        if self.is_over() {
            self.bury();
            self.tell();
        }
    }

    /// Reports those whose turn it is.
    fn tell(&mut self) {
        while let Some((finished, weight)) = self.order.take() {
            self.unwritten += weight;
            self.actions.push_back(Action::Report(finished, weight));
        }
    }

    /// The next thing to be done outside.
    pub(crate) fn action(&mut self) -> Option<Action<O>> {
        self.actions.pop_front()
    }

    fn has_doomed(&self) -> bool {
        self.places.iter().any(|place| place.kill_at.is_some())
    }

    fn time_limit(&self) -> Option<Duration> {
        self.rules.timeout.and_then(|limit| limit.after(&self.typical))
    }

    fn look_at_the_clock(&mut self, now: Time) {
        let limit = self.time_limit();
        for slot in 0..self.places.len() {
            let place = &mut self.places[slot];
            if place.queue.is_empty() {
                continue;
            }
            if place.kill_at.is_some_and(|at| at <= now) {
                place.kill_at = None;
                self.actions.push_back(Action::Kill(slot));
            } else if !place.dying && limit.is_some_and(|limit| place.began + limit <= now) {
                self.doom(slot, Cause::Timeout, now);
            }
        }
    }

    /// Is there room for what this task will come to?
    fn may_begin(&self, seq: u64) -> bool {
        let is_turn = !self.rules.ordered || seq == self.order.next();
        let near = !self.rules.ordered || seq < self.order.next() + self.rules.window;
        let held = if is_turn { self.unwritten } else { self.unwritten + self.order.weight() };
        near && held < self.rules.most_held && self.unwritten < MOST_UNWRITTEN
    }

    fn next_task(&mut self, now: Time) -> Option<Task> {
        if now < self.next_start {
            return None;
        }
        // Whatever was tried before comes first, if its time has come.
        let due = self.again.range(..=(now, u64::MAX)).map(|(key, _)| *key).min_by_key(|(_, seq)| *seq);
        if let Some(key) = due
            && self.may_begin(key.1)
        {
            return self.again.remove(&key);
        }
        let seq = self.input.front()?.seq;
        if self.may_begin(seq) { self.input.pop_front() } else { None }
    }

    fn begin(&mut self, now: Time) {
        while self.places.len() < self.slots {
            self.places.push(Place::default());
        }
        // One for each that has none, and then what each has room for.
        for slot in 0..self.slots {
            let place = &self.places[slot];
            if place.is_idle() && !self.begin_at(slot, now) {
                return self.take_back();
            }
        }
        for slot in 0..self.slots {
            let depth = self.depth(slot);
            while self.places[slot].queue.len() < depth && !self.places[slot].dying {
                if !self.begin_at(slot, now) {
                    return;
                }
            }
        }
        if self.rules.depth == Depth::Next {
            let patience = PATIENCE * self.slots as u64;
            for slot in 0..self.slots {
                if self.begun - self.places[slot].followed_at > patience {
                    self.recall(slot);
                }
            }
        }
    }

    fn depth(&self, slot: usize) -> usize {
        let place = &self.places[slot];
        match self.rules.depth {
            Depth::Fixed(depth) => depth,
            Depth::Paced => place.pace.depth(),
            Depth::Next => {
                // Where a failure is the end of it all, or starts are spaced, each is decided on its own.
                let may_follow = self.rules.halt.is_none() && self.rules.spacing.is_zero();
                1 + usize::from(place.swift && !place.recalled && may_follow)
            }
        }
    }

    /// There is nothing to begin for a slot: what is to follow at another can be had sooner.
    fn take_back(&mut self) {
        if self.rules.depth != Depth::Next {
            return;
        }
        let idle = self.places[..self.slots].iter().filter(|place| place.is_idle()).count();
        let coming = self.places.iter().filter(|place| place.recalled).count();
        let waits = |slot: &usize| self.places[*slot].queue.len() > 1 && !self.places[*slot].recalled;
        let mut waiting: Vec<usize> = (0..self.places.len()).filter(waits).collect();
        waiting.sort_by_key(|slot| self.places[*slot].queue[1].seq);
        for slot in waiting.into_iter().take(idle.saturating_sub(coming)) {
            self.recall(slot);
        }
    }

    fn begin_at(&mut self, slot: usize, now: Time) -> bool {
        let Some(task) = self.next_task(now) else { return false };
        let place = &mut self.places[slot];
        if place.queue.is_empty() {
            place.began = now;
            place.pace.begin(now);
            self.running += 1;
        }
        place.queue.push_back(task);
        self.begun += 1;
        place.followed_at = self.begun;
        if !self.rules.spacing.is_zero() {
            self.next_start = self.next_start.max(now) + self.rules.spacing;
        }
        self.actions.push_back(Action::Begin(slot));
        true
    }

    /// It is over: what was not begun will not be.
    fn bury(&mut self) {
        let left = std::mem::take(&mut self.again).into_values().chain(self.input.drain(..));
        for task in left {
            self.counts.skipped += 1;
            let seq = task.seq;
            let (cause, took) = (Cause::Skipped, Duration::ZERO);
            self.order.put(seq, Finished { task, cause, product: None, slot: 0, took, cut: true }, 0);
        }
        self.order.give_up();
    }

    /// When it wants to look at the clock again, if nothing happens before.
    pub(crate) fn alarm(&self) -> Option<Time> {
        let mut times = Vec::with_capacity(4);
        if !self.is_over() {
            times.extend(self.rules.deadline.filter(|_| self.phase < Phase::Stopping));
        }
        let limit = self.time_limit();
        if limit.is_some() || self.has_doomed() {
            for place in self.places.iter().filter(|place| !place.queue.is_empty()) {
                let over = limit.filter(|_| !place.dying).map(|limit| place.began + limit);
                times.extend(place.kill_at.or(over));
            }
        }
        if self.phase == Phase::Running {
            let has_room = (0..self.slots).any(|slot| self.places.get(slot).is_none_or(Place::is_idle));
            if has_room {
                let first = self.again.keys().find(|(_, seq)| self.may_begin(*seq)).map(|(at, _)| *at);
                let fresh = self.input.front().filter(|task| self.may_begin(task.seq)).map(|_| Time::ZERO);
                times.extend(first.into_iter().chain(fresh).map(|at| at.max(self.next_start)));
            }
        }
        times.into_iter().min()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
