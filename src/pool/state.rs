//! The pure heart of a pool: what is queued, who runs what, and what follows from each event. No clock, no process, no
//! descriptor; `README.md` beside this file has the picture.

mod action;
mod dispatch;

pub(crate) use action::{Action, Nonsense, Why};

use super::chunk::Pace;
use crate::error::{SpawnError, TaskError};
use crate::supervisor::Intensity;
use procession_worker::ipc::page::SLOTS;
use procession_worker::wire::message::End;
use slotmap::{SlotMap, new_key_type};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

new_key_type! {
    /// One submission: a single task, or all items of a map.
    pub(crate) struct JobId;
    /// One worker process, from the order to spawn it to its death.
    pub(crate) struct WorkerId;
}

/// How many births may fail in a row before the pool gives up.
const BIRTHS: u32 = 5;
/// Calls shorter than this are worth more than one in reserve.
const SHORT_NANOS: f64 = 50_000.0;
/// How many of those a worker may hold.
const DEEP: usize = SLOTS / 2;

/// The pool's settings, as far as they concern decisions.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) workers: usize,
    pub(crate) max_tasks: Option<u64>,
    pub(crate) chunk_size: Option<u32>,
    pub(crate) retries: u32,
}

/// Items of one job that lie next to each other and are not started.
#[derive(Debug, Clone)]
struct Run {
    job: JobId,
    items: Range<u64>,
}

#[derive(Debug)]
struct Job {
    pace: Pace,
    /// Items submitted and neither answered nor failed.
    unresolved: u64,
    /// Of these, how many are in the queue.
    queued: u64,
    single: bool,
    /// More items may come.
    open: bool,
    cancelled: bool,
}

/// A call on its way: `items.start + n` is the call's item `n`.
#[derive(Debug)]
struct Call {
    slot: u8,
    tag: u16,
    job: JobId,
    first: u64,
    count: u32,
    /// One past the last item that is still this call's: lowered when items are taken back.
    end: u32,
    done: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Retiring,
}

#[derive(Debug)]
struct Worker {
    phase: Phase,
    condemned: Option<Why>,
    /// It has ended, and what it left behind is being read.
    dying: bool,
    calls: VecDeque<Call>,
    free_slots: u64,
    tags: u16,
    /// Items on it that are not answered.
    load: u64,
    /// Items it was given in its life, less those taken back.
    taken: u64,
    /// Has it answered or lost anything? One that never does makes no progress, however often it is started again.
    productive: bool,
    /// Nothing could be taken back; not worth asking until something changes.
    dry: bool,
    idle_listed: bool,
    spare_listed: bool,
}

impl Worker {
    fn serves(&self) -> bool {
        self.phase == Phase::Ready && self.condemned.is_none() && !self.dying
    }

    fn has_more_than_it_runs(&self) -> bool {
        self.load >= 2 && !self.dry && self.serves()
    }
}

/// The one place where a worker's load changes, so that the count of the laden stays right.
fn set_load(laden: &mut usize, load: &mut u64, new: u64) {
    *laden -= usize::from(*load >= 2);
    *load = new;
    *laden += usize::from(*load >= 2);
}

/// The state; see the module.
#[derive(Debug)]
pub(crate) struct State {
    limits: Limits,
    jobs: SlotMap<JobId, Job>,
    workers: SlotMap<WorkerId, Worker>,
    queue: VecDeque<Run>,
    /// Ready workers with nothing to do, the warmest last.
    idle: Vec<WorkerId>,
    /// Ready workers that could hold another call in reserve.
    spare: VecDeque<WorkerId>,
    attempts: HashMap<(JobId, u64), u32>,
    /// How many workers have two items or more: only these can have something to give back.
    laden: usize,
    call_nanos: f64,
    births_failed: u32,
    unproductive: Intensity,
    broken: Option<SpawnError>,
    terminated: bool,
    /// Spawning failed for want of something; asked for again later.
    starved: bool,
    closing: bool,
    actions: VecDeque<Action>,
}

impl State {
    pub(crate) fn new(limits: Limits) -> Self {
        let unproductive = Intensity::new(3 * limits.workers + 10, Duration::from_secs(5));
        Self {
            limits,
            jobs: SlotMap::with_key(),
            workers: SlotMap::with_key(),
            queue: VecDeque::new(),
            idle: Vec::new(),
            spare: VecDeque::new(),
            attempts: HashMap::new(),
            call_nanos: 0.0,
            births_failed: 0,
            unproductive,
            broken: None,
            terminated: false,
            laden: 0,
            starved: false,
            closing: false,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    #[inline]
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // ---- what callers do ------------------------------------------------------------------------------------------

    /// Opens a job; its items come by [`submit`](Self::submit). `None`, with the reason, if the pool takes no more.
    pub(crate) fn open(&mut self, single: bool) -> Result<JobId, TaskError> {
        if let Some(error) = &self.broken {
            return Err(TaskError::Spawn(error.clone()));
        }
        if self.closing {
            return Err(TaskError::Closed);
        }
        let pace = Pace::default();
        Ok(self.jobs.insert(Job { pace, unresolved: 0, queued: 0, single, open: true, cancelled: false }))
    }

    /// More items of a job, next to each other.
    pub(crate) fn submit(&mut self, job: JobId, items: Range<u64>) {
        let count = items.end - items.start;
        let over = self.over();
        let Some(entry) = self.jobs.get_mut(job) else { return };
        entry.unresolved += count;
        entry.queued += count;
        if entry.cancelled || over.is_some() {
            entry.queued -= count;
            let error = over.unwrap_or(TaskError::Cancelled);
            self.fail(job, items, error);
            return;
        }
        self.queue.push_back(Run { job, items });
        self.refill();
        self.dispatch();
    }

    /// Why nothing will ever run again, if that is so.
    pub(crate) fn over(&self) -> Option<TaskError> {
        let broken = self.broken.clone().map(TaskError::Spawn);
        broken.or(self.terminated.then_some(TaskError::Closed))
    }

    /// No more items of this job will come.
    pub(crate) fn seal(&mut self, job: JobId) {
        if let Some(entry) = self.jobs.get_mut(job) {
            entry.open = false;
            self.resolve(job, 0);
        }
    }

    /// Gives a job up: what is queued never runs, and who runs one of its items is killed. The caller is told at once.
    pub(crate) fn cancel(&mut self, job: JobId) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        entry.cancelled = true;
        entry.open = false;
        let concerned: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, w)| w.calls.iter().any(|call| call.job == job))
            .map(|(id, _)| id)
            .collect();
        for worker in concerned {
            self.actions.push_back(Action::Freeze(worker));
        }
        // A run of many items is worth finding; the runs of a million single tasks are dropped when their turn comes.
        if !entry.single {
            let mut dropped = 0;
            self.queue.retain(|run| {
                let stays = run.job != job;
                if !stays {
                    dropped += run.items.end - run.items.start;
                }
                stays
            });
            entry.queued -= dropped;
            self.resolve(job, dropped);
        }
    }

    /// No new jobs; workers go when everything is done.
    pub(crate) fn close(&mut self) {
        self.closing = true;
        self.dismiss_the_idle();
    }

    /// Ends everything now: what is not answered fails.
    pub(crate) fn terminate(&mut self) {
        self.closing = true;
        self.terminated = true;
        self.drop_queue(&TaskError::Closed);
        let all: Vec<WorkerId> = self.workers.keys().collect();
        for worker in all {
            self.condemn(worker, Why::Terminated);
        }
        self.announce_empty();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    pub(crate) fn has_workers(&self) -> bool {
        !self.workers.is_empty()
    }

    /// Where a job's one item lies, if its worker does nothing else: then its caller may as well wait at the pipe itself.
    pub(crate) fn sole_runner(&self, job: JobId) -> Option<WorkerId> {
        match self.actions.back() {
            Some(Action::Send { worker, job: sent, .. })
                if *sent == job && self.workers[*worker].calls.len() == 1 =>
            {
                Some(*worker)
            }
            _ => None,
        }
    }

    /// How many items may usefully be on their way for this job: enough that no worker runs dry.
    pub(crate) fn window(&self, job: JobId) -> u64 {
        let workers = self.limits.workers as u64;
        let mut pace = self.jobs.get(job).map(|job| job.pace).unwrap_or_default();
        let chunk = self.limits.chunk_size.unwrap_or_else(|| pace.next(u64::MAX, 1));
        workers * 4 * u64::from(chunk)
    }

    // ---- what workers do ------------------------------------------------------------------------------------------

    /// Starts what is missing.
    pub(crate) fn refill(&mut self) {
        if self.broken.is_some() || self.starved || (self.closing && self.queue.is_empty()) {
            return;
        }
        let alive =
            self.workers.values().filter(|w| w.phase != Phase::Retiring && w.condemned.is_none()).count();
        for _ in alive..self.limits.workers {
            let worker = self.workers.insert(Worker {
                phase: Phase::Starting,
                condemned: None,
                dying: false,
                calls: VecDeque::new(),
                free_slots: u64::MAX,
                tags: 0,
                load: 0,
                taken: 0,
                productive: false,
                dry: false,
                idle_listed: false,
                spare_listed: false,
            });
            self.actions.push_back(Action::Spawn(worker));
        }
    }

    /// The system may have more to give by now.
    pub(crate) fn retry_spawn(&mut self) {
        self.starved = false;
        self.refill();
    }

    /// The process could not be started.
    pub(crate) fn spawn_failed(&mut self, worker: WorkerId, error: SpawnError) {
        self.workers.remove(worker);
        if error.is_temporary() {
            self.starved = true;
            self.actions.push_back(Action::SpawnLater);
            if self.workers.is_empty() {
                self.drop_queue(&TaskError::Spawn(error));
            }
        } else {
            self.break_down(error);
        }
        self.announce_empty();
    }

    /// Said Hello, and its initializer is done.
    pub(crate) fn ready(&mut self, worker: WorkerId) {
        // Its Hello was found in what it left behind: it was never of use, and must not count as a birth that went well.
        let Some(entry) = self.workers.get_mut(worker).filter(|entry| !entry.dying) else { return };
        self.births_failed = 0;
        self.starved = false;
        entry.phase = Phase::Ready;
        if entry.condemned.is_none() {
            self.rest(worker);
            self.dispatch();
            self.dismiss_the_idle();
        }
    }

    /// Which items a worker is to answer next: those of its oldest call that are left.
    #[inline]
    pub(crate) fn due(&self, worker: WorkerId) -> Option<(JobId, Range<u64>)> {
        let call = self.workers.get(worker)?.calls.front()?;
        Some((call.job, call.first + u64::from(call.done)..call.first + u64::from(call.end)))
    }

    /// The worker answered the next so many items of its oldest call.
    pub(crate) fn answered(&mut self, worker: WorkerId, count: u32) -> Result<(), Nonsense> {
        let entry = self.workers.get_mut(worker).ok_or(Nonsense("it is no worker of this pool"))?;
        let call = entry.calls.front_mut().ok_or(Nonsense("it answered what it was not asked"))?;
        if call.end - call.done < count {
            return Err(Nonsense("it answered more items than it was given"));
        }
        call.done += count;
        let job = call.job;
        let load = entry.load - u64::from(count);
        set_load(&mut self.laden, &mut entry.load, load);
        entry.productive = true;
        entry.dry = false;
        // Not through `resolve`: the job cannot finish before its call has ended.
        if let Some(job) = self.jobs.get_mut(job) {
            job.unresolved -= u64::from(count);
        }
        Ok(())
    }

    /// The worker is done with its oldest call.
    pub(crate) fn ended(&mut self, worker: WorkerId, end: End) -> Result<(), Nonsense> {
        let entry = self.workers.get_mut(worker).ok_or(Nonsense("it is no worker of this pool"))?;
        let call = entry.calls.front().ok_or(Nonsense("it ended a call it was not given"))?;
        if call.tag != end.tag || call.done != end.count {
            return Err(Nonsense("it ended a call without having answered it"));
        }
        let Some(call) = entry.calls.pop_front() else { return Ok(()) };
        entry.free_slots |= 1 << call.slot;
        // It could not decode an item, and leaves the rest of the chunk to us.
        let left = call.first + u64::from(call.done)..call.first + u64::from(call.end);
        let load = entry.load - (left.end - left.start);
        set_load(&mut self.laden, &mut entry.load, load);
        entry.taken -= left.end - left.start;
        entry.dry = false;
        #[expect(clippy::cast_precision_loss, reason = "a mean of times needs no more than 52 bits")]
        let nanos = end.nanos as f64;
        self.call_nanos += 0.2 * (nanos - self.call_nanos);
        if let Some(job) = self.jobs.get_mut(call.job) {
            job.pace.learn(end.count, end.nanos);
        }
        self.requeue(call.job, left);
        self.resolve(call.job, 0);
        self.rest(worker);
        self.dispatch();
        self.dismiss_the_idle();
        Ok(())
    }

    /// What could be taken back of a call, as numbers within it; `None` if the worker's page makes no sense.
    pub(crate) fn taken_back(&mut self, worker: WorkerId, slot: u8, range: Option<Range<u32>>) {
        let Some(range) = range else {
            self.condemn(worker, Why::Nonsense("its shared page makes no sense".into()));
            return;
        };
        if let Some(entry) = self.workers.get_mut(worker) {
            entry.dry = range.is_empty();
        }
        self.give_back(worker, slot, range);
        self.dispatch();
        self.dismiss_the_idle();
    }

    fn give_back(&mut self, worker: WorkerId, slot: u8, range: Range<u32>) {
        let Some(entry) = self.workers.get_mut(worker) else { return };
        let Some(call) = entry.calls.iter_mut().find(|call| call.slot == slot) else { return };
        if range.end != call.end {
            self.condemn(worker, Why::Nonsense("its shared page makes no sense".into()));
            return;
        }
        // The worker may have answered further than it admits to have claimed.
        let range = range.start.max(call.done)..range.end.min(call.end);
        if range.is_empty() {
            return;
        }
        let items = call.first + u64::from(range.start)..call.first + u64::from(range.end);
        call.end = range.start;
        let load = entry.load - u64::from(range.end - range.start);
        set_load(&mut self.laden, &mut entry.load, load);
        entry.taken -= u64::from(range.end - range.start);
        let job = call.job;
        self.requeue(job, items);
    }

    /// The calls of a worker, for the shell to freeze: slot, tag, count.
    pub(crate) fn calls(&self, worker: WorkerId) -> Vec<(u8, u16, u32)> {
        // A call that is decided and not yet sent is not in the page either.
        let unsent = |slot: u8| {
            let sends = |action: &Action| matches!(action, Action::Send { worker: to, slot: at, .. } if *to == worker && *at == slot);
            self.actions.iter().any(sends)
        };
        let calls = self.workers.get(worker).map(|entry| entry.calls.iter());
        calls
            .into_iter()
            .flatten()
            .filter(|call| !unsent(call.slot))
            .map(|call| (call.slot, call.tag, call.count))
            .collect()
    }

    /// Everything that a worker had not started was taken back, call by call. `overdue`: the item that runs has run for
    /// too long. Kills the worker if what runs is overdue or cancelled.
    pub(crate) fn frozen(&mut self, worker: WorkerId, taken: &[(u8, Option<Range<u32>>)], overdue: bool) {
        for (slot, range) in taken {
            match range {
                Some(range) => self.give_back(worker, *slot, range.clone()),
                None => return self.condemn(worker, Why::Nonsense("its shared page makes no sense".into())),
            }
        }
        let Some(entry) = self.workers.get(worker) else { return };
        // Calls are run in order, so what runs is the last that has anything started.
        let running = entry.calls.iter().rev().find(|call| call.end > 0);
        let Some(running) = running.filter(|call| call.done < call.end).map(|call| call.job) else {
            // It stands still with nothing started, stopped perhaps: another one may do better.
            if overdue && entry.calls.iter().any(|call| call.count > 0) {
                self.condemn(worker, Why::Deadline);
            }
            return self.dispatch();
        };
        if overdue {
            self.condemn(worker, Why::Deadline);
        } else if self.jobs.get(running).is_some_and(|job| job.cancelled) {
            self.condemn(worker, Why::Cancelled);
        }
        self.dispatch();
    }

    /// Kills a worker, and remembers why.
    pub(crate) fn condemn(&mut self, worker: WorkerId, why: Why) {
        let Some(entry) = self.workers.get_mut(worker) else { return };
        if entry.condemned.is_none() {
            entry.condemned = Some(why);
            self.actions.push_back(Action::Kill(worker));
        }
    }

    /// A worker has ended. It is given nothing more while its last words are heard; [`died`](Self::died) or
    /// [`born_dead`](Self::born_dead) follows.
    pub(crate) fn dying(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(worker) {
            entry.dying = true;
        }
    }

    /// Why a worker is being killed, if it is.
    pub(crate) fn condemned(&self, worker: WorkerId) -> Option<&Why> {
        self.workers.get(worker)?.condemned.as_ref()
    }

    /// Has this worker anything to do?
    pub(crate) fn is_busy(&self, worker: WorkerId) -> bool {
        self.workers.get(worker).is_some_and(|entry| !entry.calls.is_empty())
    }

    /// Has it one call only?
    pub(crate) fn is_alone(&self, worker: WorkerId) -> bool {
        self.workers.get(worker).is_some_and(|entry| entry.calls.len() == 1)
    }

    /// Has this worker items of this job?
    pub(crate) fn holds(&self, worker: WorkerId, job: JobId) -> bool {
        self.workers.get(worker).is_some_and(|entry| entry.calls.iter().any(|call| call.job == job))
    }

    pub(crate) fn is_starting(&self, worker: WorkerId) -> bool {
        self.workers.get(worker).is_some_and(|entry| entry.phase == Phase::Starting)
    }

    /// The workers that have items of this job.
    pub(crate) fn runners(&self, job: JobId) -> impl Iterator<Item = WorkerId> {
        self.workers.iter().filter(move |(_, w)| w.calls.iter().any(|call| call.job == job)).map(|(id, _)| id)
    }

    /// A process died before it was ready, or its initializer failed.
    pub(crate) fn born_dead(&mut self, worker: WorkerId, error: SpawnError) {
        let condemned = self.workers.remove(worker).and_then(|entry| entry.condemned);
        if matches!(condemned, Some(Why::Terminated)) {
            return self.announce_empty();
        }
        self.births_failed += 1;
        if self.births_failed >= BIRTHS && !self.workers.values().any(Worker::serves) {
            self.break_down(error);
        } else if self.births_failed < BIRTHS {
            self.refill();
        }
        self.announce_empty();
    }

    /// A worker died. `started` says for each of its calls, in order, how many items it had claimed, as far as its page
    /// makes sense; everything it had answered has been told before. `fate` makes the error of what it ran.
    pub(crate) fn died(
        &mut self,
        worker: WorkerId,
        started: &[Option<u32>],
        now: Instant,
        fate: impl Fn(Option<&Why>) -> TaskError,
    ) {
        let Some(mut entry) = self.workers.remove(worker) else { return };
        set_load(&mut self.laden, &mut entry.load, 0);
        let mut productive = entry.productive;
        let mut back = Vec::new();
        for (n, call) in entry.calls.iter().enumerate() {
            // Nonsense in the page means that nothing is known of what it started: all of it may have run.
            let started =
                started.get(n).copied().flatten().filter(|&next| call.done <= next && next <= call.end);
            let started = started.unwrap_or(call.end);
            let item = |n: u32| call.first + u64::from(n);
            for lost in item(call.done)..item(started) {
                productive = true;
                self.lose(call.job, lost, fate(entry.condemned.as_ref()));
            }
            back.push((call.job, item(started)..item(call.end)));
        }
        for (job, items) in back.into_iter().rev() {
            self.requeue(job, items);
        }
        for call in &entry.calls {
            self.resolve(call.job, 0);
        }
        if entry.idle_listed {
            self.idle.retain(|&id| id != worker);
        }
        let planned = entry.phase == Phase::Retiring || entry.condemned.is_some();
        if !productive && !planned && !self.unproductive.allows(now) {
            let text = "workers keep dying with nothing to do".into();
            self.break_down(SpawnError::Birth { stage: "after it was ready".into(), text, exit: None });
        } else if productive {
            self.unproductive.forgive();
        }
        self.refill();
        self.dispatch();
        self.dismiss_the_idle();
        self.announce_empty();
    }

    // ---- what follows ---------------------------------------------------------------------------------------------

    fn lose(&mut self, job: JobId, item: u64, error: TaskError) {
        let again =
            matches!(error, TaskError::Lost(_) | TaskError::TimedOut(_)) && self.limits.retries > 0 && {
                let attempts = self.attempts.entry((job, item)).or_default();
                *attempts += 1;
                *attempts <= self.limits.retries
            };
        if again {
            self.requeue(job, item..item + 1);
        } else {
            self.attempts.remove(&(job, item));
            self.fail(job, item..item + 1, error);
        }
    }

    fn fail(&mut self, job: JobId, items: Range<u64>, error: TaskError) {
        let count = items.end - items.start;
        self.actions.push_back(Action::Fail { job, items, error });
        self.resolve(job, count);
    }

    /// So many more items of the job are resolved; is it finished?
    fn resolve(&mut self, job: JobId, count: u64) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        entry.unresolved -= count;
        if entry.unresolved == 0 && !entry.open {
            self.jobs.remove(job);
            if !self.attempts.is_empty() {
                self.attempts.retain(|(of, _), _| *of != job);
            }
            self.actions.push_back(Action::Finish(job));
        }
    }

    /// Items that were not started go back to the front.
    fn requeue(&mut self, job: JobId, items: Range<u64>) {
        if items.is_empty() {
            return;
        }
        let count = items.end - items.start;
        let Some(entry) = self.jobs.get_mut(job) else { return };
        if entry.cancelled {
            self.resolve(job, count);
        } else if self.broken.is_some() || self.terminated {
            let error = self.broken.clone().map_or(TaskError::Closed, TaskError::Spawn);
            self.fail(job, items, error);
        } else {
            entry.queued += count;
            self.queue.push_front(Run { job, items });
        }
    }

    fn drop_queue(&mut self, error: &TaskError) {
        for run in std::mem::take(&mut self.queue) {
            if let Some(entry) = self.jobs.get_mut(run.job) {
                entry.queued -= run.items.end - run.items.start;
                self.fail(run.job, run.items, error.clone());
            }
        }
    }

    /// Starting workers does not help: everything that waits gets the reason, and so does whoever comes later.
    fn break_down(&mut self, error: SpawnError) {
        self.broken = Some(error.clone());
        self.drop_queue(&TaskError::Spawn(error));
        let rest: Vec<WorkerId> =
            self.workers.iter().filter(|(_, w)| !w.serves()).map(|(id, _)| id).collect();
        for worker in rest {
            self.condemn(worker, Why::Terminated);
        }
    }

    fn announce_empty(&mut self) {
        if self.closing && self.workers.is_empty() {
            // Nobody is left to run what may still wait.
            if self.queue.is_empty() {
                self.actions.push_back(Action::Empty);
            } else {
                self.refill();
            }
        }
    }
}

#[cfg(test)]
mod tests;
