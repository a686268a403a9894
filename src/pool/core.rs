//! The thin shell round the pure state: it carries out actions, and turns what pipes, pages and pidfds say into events.
//! Any thread may do so, the reactor's or a caller's: whoever holds the lock.

use super::job::{Input, Job};
use super::seat::{CALLS, OUTCOMES, Seat, TRAY};
use super::sink::{Sink, Tell};
use super::state::{Action, JobId, Limits, State, Why, WorkerId};
use crate::Exit;
use crate::error::{Lost, Panic, SpawnError, TaskError, TimedOut, Work};
use crate::process::call::Call;
use crate::process::link::{Link, Received};
use crate::process::plan::{self, Settings, Streams};
use crate::process::roster;
use crate::reactor::{Source, reactor};
use crate::sys::{EIO, wait};
use procession_worker::current::next_path;
use procession_worker::ipc::page::Stage;
use procession_worker::task::Token;
use procession_worker::wire::message::CallHead;
use slotmap::SecondaryMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// When the system has no more processes or descriptors, it is asked again after so long.
const SPAWN_AGAIN: Duration = Duration::from_millis(100);

/// What every worker of a pool is started with.
pub(crate) struct Template {
    pub(crate) name: String,
    pub(crate) settings: Settings,
    pub(crate) initializer: Option<Call>,
    pub(crate) task_timeout: Option<Duration>,
    pub(crate) birth_limit: Duration,
}

/// A pool's shared core.
pub(crate) struct Core {
    me: Weak<Self>,
    template: Template,
    heart: Mutex<Heart>,
    changed: Condvar,
    numbers: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Heart {
    pub(crate) state: State,
    pub(super) seats: SecondaryMap<WorkerId, Seat>,
    pub(super) jobs: SecondaryMap<JobId, Job>,
    /// Spawns that were ordered and have not come back.
    spawning: usize,
    spawn_error: Option<SpawnError>,
    spawn_later: bool,
    /// Workers with something to write.
    dirty: Vec<WorkerId>,
    /// What runs or drops user code, and therefore waits until the lock is free.
    pub(super) tells: Vec<Tell>,
    finished: Vec<Job>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("name", &self.template.name).finish_non_exhaustive()
    }
}

impl Core {
    /// Starts all workers, and waits until each of them exists as a process.
    ///
    /// # Errors
    /// The first one that could not be started; the others are gone again then.
    pub(crate) fn start(template: Template, limits: Limits) -> Result<Arc<Self>, SpawnError> {
        reactor().map_err(SpawnError::system("starting the reactor"))?;
        let core = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            template,
            heart: Mutex::new(Heart {
                state: State::new(limits),
                seats: SecondaryMap::new(),
                jobs: SecondaryMap::new(),
                spawning: 0,
                spawn_error: None,
                spawn_later: false,
                dirty: Vec::new(),
                tells: Vec::new(),
                finished: Vec::new(),
            }),
            changed: Condvar::new(),
            numbers: AtomicU64::new(0),
        });
        let mut heart = core.heart();
        heart.state.refill();
        core.act(&mut heart);
        while heart.spawning > 0 && heart.spawn_error.is_none() {
            heart = core.changed.wait(heart).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = heart.spawn_error.take() {
            drop(heart);
            core.terminate();
            core.wait_empty(None);
            return Err(error);
        }
        drop(heart);
        Ok(core)
    }

    pub(crate) fn heart(&self) -> MutexGuard<'_, Heart> {
        self.heart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn me(&self) -> Arc<Self> {
        self.me.upgrade().expect("a method is called through an Arc")
    }

    // ---- for callers ----------------------------------------------------------------------------------------------

    /// Opens a job whose items come by [`feed`](Self::feed).
    pub(crate) fn open(&self, token: Token, sink: &Arc<Sink>) -> Result<JobId, TaskError> {
        let mut heart = self.heart();
        let job = heart.state.open(false)?;
        heart.jobs.insert(job, Job::new(token, Arc::clone(sink)));
        Ok(job)
    }

    /// Hands over more items; how many bytes of the job's input are held now.
    pub(crate) fn feed(&self, job: JobId, input: Input) -> usize {
        let mut heart = self.heart();
        let Some(entry) = heart.jobs.get_mut(job) else { return 0 };
        let items = entry.add(input);
        heart.state.submit(job, items);
        self.act(&mut heart);
        let held = heart.jobs.get(job).map_or(0, Job::held);
        self.finish(heart);
        held
    }

    /// Why nothing will ever run again, if that is so.
    pub(crate) fn over(&self) -> Option<TaskError> {
        self.heart().state.over()
    }

    /// How many bytes of a job's input are held.
    pub(crate) fn held(&self, job: JobId) -> usize {
        self.heart().jobs.get(job).map_or(0, Job::held)
    }

    /// No more items will come.
    pub(crate) fn seal(&self, job: JobId) {
        let mut heart = self.heart();
        heart.state.seal(job);
        self.finish(heart);
    }

    /// One task. With `wait`, does not return before it is resolved.
    pub(crate) fn single(
        &self,
        token: Token,
        input: Input,
        sink: &Arc<Sink>,
        wait: bool,
    ) -> Result<JobId, TaskError> {
        let mut heart = self.heart();
        let job = heart.state.open(true)?;
        let mut entry = Job::new(token, Arc::clone(sink));
        let items = entry.add(input);
        heart.jobs.insert(job, entry);
        heart.state.submit(job, items);
        let lead = if wait { self.take_lead(&mut heart, job) } else { None };
        heart.state.seal(job);
        self.finish(heart);
        if let Some((worker, ends)) = lead {
            self.lead(worker, &ends, job, sink);
        }
        if wait {
            drop(sink.wait_done(None));
        }
        Ok(job)
    }

    /// Gives a job up.
    pub(crate) fn cancel(&self, job: JobId) {
        let mut heart = self.heart();
        heart.state.cancel(job);
        self.finish(heart);
    }

    /// How many items of a job may usefully be on their way.
    pub(crate) fn window(&self, job: JobId) -> u64 {
        self.heart().state.window(job)
    }

    /// Somebody waits for the next outcome of this job: do not collect them into batches.
    pub(crate) fn hurry(&self, job: JobId) {
        let mut heart = self.heart();
        let Heart { state, seats, jobs, .. } = &mut *heart;
        if let Some(entry) = jobs.get_mut(job) {
            entry.hurried = true;
        }
        let runners: Vec<WorkerId> = state.runners(job).collect();
        for &worker in &runners {
            if let Some(seat) = seats.get_mut(worker) {
                seat.link.page.set_hungry(true);
            }
        }
        for worker in runners {
            // What it has finished may lie in the ring since before it was asked.
            let Some(seat) = heart.seats.get_mut(worker) else { continue };
            if seat.is_led() {
                // Its pipe is another's to read; what is there will be read at once.
                if seat.has_spoken() {
                    continue;
                }
            } else {
                while seat.link.receive() == Received::Bytes {}
                // First, so that what the ring has is joined to nothing but the worker's own.
                heart.understand(worker);
            }
            let Some(seat) = heart.seats.get_mut(worker) else { continue };
            seat.link.look_ahead();
            heart.understand(worker);
        }
        self.finish(heart);
    }

    pub(crate) fn close(&self) {
        let mut heart = self.heart();
        heart.state.close();
        self.finish(heart);
    }

    pub(crate) fn terminate(&self) {
        let mut heart = self.heart();
        heart.state.terminate();
        self.finish(heart);
    }

    /// Waits until a closed pool's last worker is gone; false at the deadline.
    pub(crate) fn wait_empty(&self, deadline: Option<Instant>) -> bool {
        let mut heart = self.heart();
        loop {
            if heart.state.is_closing() && !heart.state.has_workers() && heart.spawning == 0 {
                return true;
            }
            let in_time;
            (heart, in_time) = wait::sleep(&self.changed, heart, deadline);
            if !in_time {
                return false;
            }
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.heart().seats.values().map(|seat| seat.link.pid()).collect()
    }

    /// Carries out what has been decided, and then, with the lock free, tells whom it concerns.
    pub(super) fn finish(&self, mut heart: MutexGuard<'_, Heart>) {
        self.act(&mut heart);
        let (tells, finished) = (std::mem::take(&mut heart.tells), std::mem::take(&mut heart.finished));
        drop(heart);
        drop(finished);
        for tell in tells {
            // A waker that panics is its owner's affair.
            let _ = catch_unwind(AssertUnwindSafe(|| tell.tell()));
        }
    }

    // ---- actions --------------------------------------------------------------------------------------------------

    /// Carries out what the state has decided, until nothing is left to do.
    pub(super) fn act(&self, heart: &mut Heart) {
        while let Some(action) = heart.state.next_action() {
            match action {
                Action::Spawn(worker) => {
                    heart.spawning += 1;
                    if !(self.template.settings.is_kept() && self.spawn_aside(worker)) {
                        let core = self.me();
                        match reactor() {
                            Ok(reactor) => reactor.run_errand(move || core.spawn(worker)),
                            Err(_) => heart.spawning -= 1,
                        }
                    }
                }
                Action::Send { worker, slot, tag, job, items } => {
                    self.send(heart, worker, (slot, tag), job, &items);
                }
                Action::TakeBack { worker, slot, tag, count, halve } => {
                    if let Some(seat) = heart.seats.get(worker) {
                        let range = seat.link.page.take_back(slot, tag, count, halve);
                        heart.state.taken_back(worker, slot, range);
                    }
                }
                Action::Freeze(worker) => self.freeze(heart, worker, false),
                Action::Kill(worker) => {
                    if let Some(seat) = heart.seats.get(worker) {
                        seat.link.ends.process.kill_all();
                    }
                }
                Action::Retire(worker) => {
                    if let Some(seat) = heart.seats.get_mut(worker) {
                        seat.retire();
                        heart.dirty.push(worker);
                    }
                }
                Action::Fail { job, items, error } => {
                    if let Some(job) = heart.jobs.get_mut(job) {
                        job.resolved(&items);
                        heart.tells.push(job.sink.fail(items, error));
                    }
                }
                Action::Finish(job) => heart.finished.extend(heart.jobs.remove(job)),
                Action::SpawnLater => {
                    if !std::mem::replace(&mut heart.spawn_later, true)
                        && let Ok(reactor) = reactor()
                    {
                        reactor.set_alarm(
                            Instant::now() + SPAWN_AGAIN,
                            Weak::clone(&self.me) as Weak<dyn Source>,
                            0,
                        );
                    }
                }
                Action::Empty => self.changed.notify_all(),
            }
        }
        while let Some(worker) = heart.dirty.pop() {
            if let Some(seat) = heart.seats.get_mut(worker) {
                seat.flush();
            }
        }
    }

    fn send(
        &self,
        heart: &mut Heart,
        worker: WorkerId,
        (slot, tag): (u8, u16),
        job: JobId,
        items: &Range<u64>,
    ) {
        let (Some(seat), Some(job)) = (heart.seats.get_mut(worker), heart.jobs.get(job)) else { return };
        let Some(parcel) = job.lend(items) else { return };
        let count = u32::try_from(items.end - items.start).unwrap_or(0);
        let flags = if self.template.task_timeout.is_some() { CallHead::TIMED } else { 0 };
        seat.link.page.offer(slot, tag, count);
        if job.hurried {
            seat.link.page.set_hungry(true);
        }
        seat.call(
            CallHead {
                offset: job.token.offset,
                fingerprint: job.token.fingerprint,
                count,
                tag,
                slot,
                flags,
            },
            parcel,
        );
        if let Some(limit) = self.template.task_timeout {
            if heart.state.is_alone(worker) {
                seat.next_call();
            }
            seat.watch_deadline(limit);
        }
        heart.dirty.push(worker);
    }

    /// Takes back everything that a worker has not started; then it is certain what it runs, and the state decides.
    fn freeze(&self, heart: &mut Heart, worker: WorkerId, look_at_clock: bool) {
        let Some(seat) = heart.seats.get(worker) else { return };
        let calls = heart.state.calls(worker);
        let taken: Vec<_> = calls
            .into_iter()
            .map(|(slot, tag, count)| (slot, seat.link.page.take_back(slot, tag, count, false)))
            .collect();
        let overdue =
            look_at_clock && self.template.task_timeout.is_some_and(|limit| seat.overrun(limit).is_none());
        heart.state.frozen(worker, &taken, overdue);
    }

    // ---- birth ----------------------------------------------------------------------------------------------------

    /// On a thread of its own, since a keeper is asked and may be slow. False if there is none to be had.
    fn spawn_aside(&self, worker: WorkerId) -> bool {
        let (core, thread) = (self.me(), std::thread::Builder::new().name("procession-birth".into()));
        wait::with_signals_blocked(|| thread.spawn(move || core.spawn(worker))).is_ok()
    }

    /// On the reactor's thread, or aside if there is a keeper; outside the lock.
    fn spawn(&self, worker: WorkerId) {
        let unwanted = self.heart().state.condemned(worker).is_some();
        let started = if unwanted {
            Err(SpawnError::Birth {
                stage: "before it was started".into(),
                text: "it was not needed any more".into(),
                exit: None,
            })
        } else {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
            let name: Arc<str> = format!("{}-worker-{number}", self.template.name).into();
            // Whatever happens here, the count of spawns under way must come down again.
            let start =
                || plan::start(&self.template.settings, Streams::default(), &name, next_path(), false);
            catch_unwind(AssertUnwindSafe(|| match start() {
                // It was killed meanwhile, and there is another.
                Err(SpawnError::KeeperGone(_)) => start(),
                started => started,
            }))
            .unwrap_or(Err(SpawnError::System { stage: "starting the process", errno: EIO }))
        };
        let mut heart = self.heart();
        heart.spawning -= 1;
        match started.and_then(|(link, _)| self.seat(&mut heart, worker, link)) {
            Ok(()) => {
                if heart.state.condemned(worker).is_some()
                    && let Some(seat) = heart.seats.get(worker)
                {
                    seat.link.ends.process.kill_all();
                }
            }
            Err(error @ SpawnError::Birth { .. }) => heart.state.born_dead(worker, error),
            Err(error) => {
                heart.spawn_error = Some(error.clone());
                heart.state.spawn_failed(worker, error);
            }
        }
        self.finish(heart);
        self.changed.notify_all();
    }

    fn seat(&self, heart: &mut Heart, worker: WorkerId, mut link: Link) -> Result<(), SpawnError> {
        if let Some(Call { token, parcel }) = &self.template.initializer {
            // Before the worker is ready no other call is outstanding, so slot and tag are free.
            link.page.offer(0, 0, 1);
            let head = CallHead {
                offset: token.offset,
                fingerprint: token.fingerprint,
                count: 1,
                tag: 0,
                slot: 0,
                flags: 0,
            };
            link.call(head, parcel.clone());
        }
        let ear = Arc::new(Ear { core: Weak::clone(&self.me), worker });
        let (pid, name, ends) = (link.pid(), Arc::clone(&link.name), Arc::clone(&link.ends));
        let mut seat = Seat::new(link, ear, self.template.initializer.is_some());
        if let Err(error) = seat.watch(self.template.birth_limit) {
            ends.process.bury();
            return Err(SpawnError::system("watching the process")(error));
        }
        roster::enter(pid, &name);
        seat.flush();
        heart.seats.insert(worker, seat);
        Ok(())
    }

    // ---- what a worker says ---------------------------------------------------------------------------------------

    fn on_ready(&self, worker: WorkerId, which: u64) {
        let mut heart = self.heart();
        let Some(seat) = heart.seats.get_mut(worker) else { return };
        match which {
            OUTCOMES if seat.is_led() => {}
            OUTCOMES => self.listen(&mut heart, worker),
            CALLS | TRAY => seat.flush(),
            _ => self.bury(&mut heart, worker),
        }
        self.finish(heart);
    }

    /// Reads what a worker has written.
    pub(super) fn listen(&self, heart: &mut Heart, worker: WorkerId) {
        let Some(seat) = heart.seats.get_mut(worker) else { return };
        match seat.link.receive() {
            Received::Bytes => heart.understand(worker),
            Received::Nothing => {}
            Received::Closed => seat.closed(),
        }
    }

    /// A worker has died: what it had finished counts, what it ran is lost, what it had not started runs elsewhere.
    pub(super) fn bury(&self, heart: &mut Heart, worker: WorkerId) {
        // Whatever it still has to say, it gets nothing more to do.
        heart.state.dying(worker);
        let Some(seat) = heart.seats.get_mut(worker) else { return };
        seat.link.receive_the_rest();
        heart.understand(worker);
        let Some(seat) = heart.seats.get_mut(worker) else { return };
        let ring_makes_sense = seat.link.receive_the_ring();
        heart.understand(worker);
        let Heart { state, seats, .. } = heart;
        let Some(mut seat) = seats.remove(worker) else { return };
        let started: Vec<Option<u32>> = state
            .calls(worker)
            .into_iter()
            .map(|(slot, tag, _)| {
                let claim = seat.link.page.claim(slot);
                (ring_makes_sense && claim.tag == tag).then_some(claim.next)
            })
            .collect();
        // Before it is reaped, while its group's number is certain.
        seat.link.ends.process.kill_all();
        let exit = seat.link.reap().unwrap_or(Exit::UNKNOWN);
        seat.unwatch();
        roster::leave(seat.link.pid());
        if state.is_starting(worker) {
            state.born_dead(worker, self.stillbirth(&seat, exit, state.condemned(worker)));
        } else {
            state.died(worker, &started, Instant::now(), |why| self.fate(&seat.link, exit, why));
        }
        self.changed.notify_all();
    }

    fn stillbirth(&self, seat: &Seat, exit: Exit, why: Option<&Why>) -> SpawnError {
        if let Some(error) = seat.stillborn() {
            return error;
        }
        if seat.has_initializer() && seat.link.page.stage() >= Stage::Born {
            let (limit, pid) = (self.template.birth_limit, seat.link.pid());
            return SpawnError::Initializer(Box::new(match why {
                Some(Why::Deadline) => TaskError::TimedOut(TimedOut { limit, pid, index: None }),
                _ => self.fate(&seat.link, exit, why),
            }));
        }
        let text = match why {
            Some(Why::Nonsense(text)) => Arc::clone(text),
            Some(Why::Deadline) => {
                format!("it was not ready within {:?} and was killed", self.template.birth_limit).into()
            }
            _ => format!("it {}", exit.did()).into(),
        };
        SpawnError::Birth { stage: seat.link.page.stage().to_string().into(), text, exit: Some(exit) }
    }

    /// What the death of its worker means for an item that was running.
    fn fate(&self, link: &Link, exit: Exit, why: Option<&Why>) -> TaskError {
        let reason = match why {
            Some(Why::Deadline) => {
                let limit = self.template.task_timeout.unwrap_or_default();
                return TaskError::TimedOut(TimedOut { limit, pid: link.pid(), index: None });
            }
            Some(Why::Cancelled) => return TaskError::Cancelled,
            Some(Why::Terminated) => return TaskError::Closed,
            Some(Why::Nonsense(reason)) => Some(Arc::clone(reason)),
            None => match link.last_words() {
                Some(record) => return TaskError::Panicked(Panic::new(record)),
                None => None,
            },
        };
        TaskError::Lost(Lost {
            exit,
            pid: link.pid(),
            worker: Arc::clone(&link.name),
            reason,
            index: None,
            work: Work::Task,
        })
    }

    // ---- deadlines ------------------------------------------------------------------------------------------------

    fn on_deadline(&self, worker: WorkerId, which: u64) {
        let mut heart = self.heart();
        let Some(seat) = heart.seats.get_mut(worker) else { return };
        match (which, self.template.task_timeout) {
            (super::seat::TASK, Some(limit)) => {
                seat.deadline_sounded();
                if seat.is_led() {
                    if seat.has_spoken() {
                        // Its caller is about to read that.
                        return seat.watch_deadline(Duration::from_millis(1));
                    }
                } else {
                    self.listen(&mut heart, worker);
                }
                let busy = heart.state.is_busy(worker);
                let Some(seat) = heart.seats.get_mut(worker).filter(|_| busy) else {
                    return self.finish(heart);
                };
                match seat.overrun(limit) {
                    Some(left) => seat.watch_deadline(left),
                    None => {
                        self.freeze(&mut heart, worker, true);
                        if let Some(seat) = heart.seats.get_mut(worker) {
                            seat.watch_deadline(limit);
                        }
                    }
                }
            }
            (super::seat::BIRTH, _) => heart.state.condemn(worker, Why::Deadline),
            (super::seat::FAREWELL, _) => heart.state.condemn(worker, Why::Terminated),
            (OUTCOMES, _) => {
                heart.state.condemn(worker, Why::Nonsense("it closed its pipe and lived on".into()));
            }
            _ => {}
        }
        self.finish(heart);
    }
}

/// Hears for one worker.
#[derive(Debug)]
struct Ear {
    core: Weak<Core>,
    worker: WorkerId,
}

impl Source for Ear {
    fn on_ready(&self, which: u64) {
        if let Some(core) = self.core.upgrade() {
            core.on_ready(self.worker, which);
        }
    }

    fn on_deadline(&self, which: u64) {
        if let Some(core) = self.core.upgrade() {
            core.on_deadline(self.worker, which);
        }
    }
}

impl Source for Core {
    fn on_ready(&self, _: u64) {}

    /// The system may have more to give by now.
    fn on_deadline(&self, _: u64) {
        let mut heart = self.heart();
        heart.spawn_later = false;
        heart.state.retry_spawn();
        self.finish(heart);
    }
}
