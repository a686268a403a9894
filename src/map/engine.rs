//! The thin shell around the state: starts programs by the keeper, moves bytes, tells the time.

mod hearing;

use super::hopper::{Hopper, Item};
use super::inbox::{Event, Inbox};
use super::outbox::Outbox;
use super::seat::{Channel, Inlet, Product, Seat};
use super::state::{Action, Finished, State, Time, Why};
use super::template::Template;
use super::{Mode, Piece, Plan, Print, Report, Status, Worker};
use crate::cause::{Cause, Loss};
use crate::error::SpawnError;
use crate::keeper::{Ended, Keeper, Lead, Running};
use crate::process::Stdio;
use crate::program::{Program, Stage};
use crate::sys::poller::Interest;
use crate::sys::{E2BIG, EAGAIN, ECANCELED, EINVAL, SIGCONT, SIGSTOP};
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The keeper's token; a slot's are eight times its number and one of these.
const KEEPER: u64 = 0;
const IN: u64 = 1;
/// By whose turn it is.
const OUT: [u64; 2] = [2, 4];
const ERR: [u64; 2] = [3, 5];
/// So much is read at once.
const CHUNK: usize = 64 << 10;
/// So many actions before the keeper is heard again.
const AT_ONCE: usize = 64;
/// So many reports without output may wait for others, where nobody minds.
const IDLE_REPORTS: usize = 64;

const fn token(slot: usize, kind: u64) -> u64 {
    8 * (slot as u64 + 1) + kind
}

pub(super) struct Engine {
    pub(super) plan: Arc<Plan>,
    pub(super) template: Template,
    pub(super) inbox: Arc<Inbox>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) hopper: Arc<Hopper>,
    pub(super) state: State<Product>,
    // Before the keeper and what it runs: whoever waits for their end must hear it.
    lead: Lead,
    keeper: Keeper,
    pub(super) seats: Vec<Seat>,
    start: Instant,
    /// How long it has stood still, and since when it does.
    paused: Duration,
    pause: Option<Instant>,
    chunk: Vec<u8>,
    /// When workers that have nothing to do are made to end.
    closing: Option<Time>,
    pub(super) fatal: Option<super::MapError>,
    reports: Vec<Report>,
    pieces: Vec<Piece>,
    /// Tokens of pipes that are not listened to, since what came of them has not left the house.
    muted: Vec<u64>,
}

impl Engine {
    pub(super) fn new(
        plan: Arc<Plan>,
        inbox: Arc<Inbox>,
        outbox: Arc<Outbox>,
        hopper: Arc<Hopper>,
    ) -> Result<Self, super::MapError> {
        let keeper = Keeper::builder().subreaper(plan.subreaper).build()?;
        let lead = keeper.lead().expect("nobody else has this keeper");
        inbox.poller.add(&lead, Interest::Read, KEEPER)?;
        inbox.settle();
        let template = plan.template();
        Ok(Self {
            template,
            state: State::new(plan.rules.clone()),
            inbox,
            outbox,
            hopper,
            lead,
            keeper,
            seats: Vec::new(),
            start: Instant::now(),
            paused: Duration::ZERO,
            pause: None,
            chunk: Vec::with_capacity(CHUNK),
            closing: None,
            fatal: None,
            reports: Vec::new(),
            pieces: Vec::new(),
            muted: Vec::new(),
            plan,
        })
    }

    pub(super) fn now(&self) -> Time {
        let now = self.pause.unwrap_or_else(Instant::now);
        now.saturating_duration_since(self.start).saturating_sub(self.paused)
    }

    pub(super) fn run(&mut self) {
        let mut ready = Vec::new();
        loop {
            self.hear_all();
            self.feed();
            self.act();
            if self.state.is_over() && self.close() {
                self.publish(true);
                return;
            }
            self.publish(self.state.is_over());
            let alarm = self.closing.into_iter().chain(self.state.alarm()).min();
            let deadline = alarm.filter(|_| self.pause.is_none()).map(|at| self.start + self.paused + at);
            self.inbox.poller.wait(deadline, &mut ready);
            // First what the keeper says: who is heard otherwise may have the turn only now.
            if ready.contains(&KEEPER) {
                self.lead.listen();
                self.hear_all();
            }
            for token in ready.drain(..) {
                self.ready(token);
            }
        }
    }

    /// False if there was nothing.
    fn hear_all(&mut self) -> bool {
        let events = self.inbox.take();
        let any = !events.is_empty();
        for event in events {
            self.hear(event);
        }
        any
    }

    fn hear(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Tasks | Event::Written => {}
            Event::Room => self.unmute(),
            Event::Ended(slot, generation, how) => self.ended(slot, generation, how),
            Event::Broken => self.state.stop(Why::Fatal, now),
            Event::Stop(signal) => self.state.stop(Why::Signal(signal), now),
            Event::Kill(signal) => {
                self.state.kill(Why::Signal(signal), now);
                // First who is to follow is called back.
                self.carry_out();
                self.kill_all();
            }
            Event::Drain(signal) => self.state.drain(Why::Signal(signal)),
            Event::Resize(more) => self.state.resize(more),
            Event::Pause(done) => {
                self.pause.get_or_insert_with(Instant::now);
                // Who is to follow has begun just now, or does not.
                self.state.recall_all();
                self.carry_out();
                self.signal_all(SIGSTOP);
                let _ = done.try_send(());
            }
            Event::Resume => {
                if let Some(since) = self.pause.take() {
                    self.paused += since.elapsed();
                    self.signal_all(SIGCONT);
                }
            }
            Event::Status(to) => {
                let _ = to.try_send(self.status());
            }
        }
    }

    fn status(&self) -> Status {
        let now = self.now();
        let counts = self.state.counts();
        let worker = |(slot, task, since): (usize, &super::state::Task, Time)| Worker {
            slot: slot + 1,
            pid: self.seats.get(slot).and_then(|seat| seat.now().running.as_ref()?.pid_if_started()),
            seq: task.seq + 1,
            task: task.bytes.to_vec(),
            attempt: task.attempts + 1,
            since: now.saturating_sub(since),
        };
        let mut workers: Vec<_> = self.state.workers().map(worker).collect();
        workers.sort_by_key(|worker| std::cmp::Reverse(worker.since));
        Status {
            ok: counts.ok,
            failed: counts.failed,
            retried: counts.retried,
            waiting: self.state.waiting() as u64,
            taken: self.state.taken(),
            total: self.state.input_ended().then(|| self.state.taken()),
            slots: self.state.slots(),
            elapsed: now,
            workers,
        }
    }

    fn feed(&mut self) {
        if self.state.is_ending() {
            return self.hopper.close();
        }
        // Those that are passed over still no hunger, and nobody tells of the ones behind them.
        let mut more = true;
        while more && !self.state.input_ended() {
            let (hunger, mut count) = (self.state.hunger(), 0);
            let state = &mut self.state;
            let end = self.hopper.take(hunger, |item: Item| {
                count += 1;
                match item {
                    Some(task) => state.add(task),
                    None => state.skip(),
                }
            });
            more = count > 0 && count == hunger;
            match end {
                None => {}
                Some(Ok(())) => state.end_of_input(),
                Some(Err(error)) => {
                    state.end_of_input();
                    let now = self.now();
                    self.fail(super::MapError::Input(error), now);
                }
            }
        }
    }

    /// Steps, and does what is to be done, until there is nothing more.
    fn act(&mut self) {
        loop {
            let now = self.now();
            self.state.written(self.inbox.written(false));
            self.state.step(now);
            let idle = !self.carry_out();
            if !self.hear_all() && idle {
                break;
            }
        }
        for slot in 0..self.seats.len() {
            self.flush(slot);
        }
        self.state.written(self.inbox.written(true));
    }

    /// Does what the state has decided; false if that is nothing.
    fn carry_out(&mut self) -> bool {
        let mut count = 0;
        while let Some(action) = self.state.action() {
            match action {
                Action::Begin(slot) => self.begin(slot),
                Action::Stop(slot) => self.stop(slot),
                Action::Kill(slot) => self.kill(slot),
                Action::Recall(slot) => self.recall(slot),
                Action::Report(finished, weight) => self.report(finished, weight),
            }
            count += 1;
            if count % AT_ONCE == 0 {
                self.lead.listen();
            }
        }
        count > 0
    }

    fn publish(&mut self, all: bool) {
        let has_output =
            || self.reports.iter().any(|report| !report.out.is_empty() || !report.err.is_empty());
        let due = all || self.plan.eager || self.reports.len() >= IDLE_REPORTS || !self.pieces.is_empty();
        if due || has_output() {
            self.outbox.push(&mut self.pieces, &mut self.reports);
        }
    }

    /// The end of all: the first reason counts.
    pub(super) fn fail(&mut self, error: super::MapError, now: Time) {
        self.fatal.get_or_insert(error);
        self.state.stop(Why::Fatal, now);
    }

    fn begin(&mut self, slot: usize) {
        if self.seats.len() <= slot {
            self.seats.resize_with(slot + 1, Seat::default);
        }
        let Some((task, is_first)) = self.state.hand(slot) else { return };
        let (number, attempt) = (task.seq + 1, task.attempts + 1);
        let said = match self.plan.mode {
            Mode::Args => Vec::new(),
            Mode::Stdin => [&task.bytes, self.plan.terminator.as_slice()].concat(),
            Mode::Lines => [&task.bytes, b"\n".as_slice()].concat(),
            Mode::Json => super::json::request(number, &task.bytes, attempt),
        };
        let alone = !self.plan.mode.is_long_lived();
        let at = usize::from(alone && !is_first);
        let berth = self.seats[slot].berth(at);
        if is_first || alone {
            berth.product = Product::new(SystemTime::now());
        } else if berth.running.is_none() {
            // What it was to be handed to could not be begun.
            return;
        }
        if berth.running.is_none() {
            let words = self.template.fill(&task.bytes, number, slot + 1);
            let generation = self.seats[slot].next_generation();
            self.seats[slot].berth(at).generation = generation;
            if let Err(error) = self.start(slot, at, &words, number, attempt) {
                return self.inbox.push(Event::Ended(slot, generation, Err(error)));
            }
        }
        if self.plan.mode != Mode::Args {
            self.hand_over(slot, &said);
        }
    }

    fn start(
        &mut self,
        slot: usize,
        at: usize,
        words: &[OsString],
        number: u64,
        attempt: u32,
    ) -> Result<(), SpawnError> {
        let mut program = self
            .plan
            .around
            .apply(Program::new(&words[0]))
            .args(&words[1..])
            .env("PROCESSION_SLOT", (slot + 1).to_string())
            .env("PARALLEL_JOBSLOT", (slot + 1).to_string());
        if !self.plan.mode.is_long_lived() {
            program = program
                .env("PROCESSION_SEQ", number.to_string())
                .env("PARALLEL_SEQ", number.to_string())
                .env("PROCESSION_ATTEMPT", attempt.to_string());
        }
        for limit in &self.plan.limits {
            program = program.limit(*limit);
        }
        if self.plan.mode != Mode::Args {
            program = program.stdin(Stdio::Piped);
        }
        let seat = &mut self.seats[slot];
        let turn = (seat.turn() + at) % 2;
        let berth = seat.berth(at);
        let piping = |error| {
            SpawnError::system("making pipes for a program; use fewer jobs or raise `ulimit -n`")(error)
        };
        let poller = &self.inbox.poller;
        let end = |channel: &mut Option<Channel>, kind| -> io::Result<Stdio> {
            if channel.is_none() {
                *channel = Some(Channel::open(poller, token(slot, kind))?);
            }
            Ok(channel.as_ref().expect("it was just made").end()?.into())
        };
        let answers = self.plan.mode.is_long_lived();
        match self.plan.print {
            Print::Group | Print::Lines => {
                program = program.stdout(end(&mut berth.out, OUT[turn]).map_err(piping)?);
                program = program.stderr(end(&mut berth.err, ERR[turn]).map_err(piping)?);
            }
            Print::Raw | Print::None if answers => {
                program = program.stdout(end(&mut berth.out, OUT[turn]).map_err(piping)?);
                if self.plan.print == Print::None {
                    program = program.stderr(Stdio::Null);
                }
            }
            Print::None => program = program.stdout(Stdio::Null).stderr(Stdio::Null),
            Print::Raw => {}
        }
        let (inbox, generation) = (Arc::clone(&self.inbox), berth.generation);
        let after = if at == 0 { None } else { seat.now().running.as_ref() };
        let then = move |how| inbox.push(Event::Ended(slot, generation, how));
        let mut running = self.keeper.begin(program, after, then)?;
        if let Some(pipe) = running.take_stdin() {
            let inlet = Inlet::new(pipe, poller, token(slot, IN));
            seat.inlet = Some(inlet.map_err(SpawnError::system("watching a program's input"))?);
        }
        seat.berth(at).running = Some(running);
        Ok(())
    }

    /// Gives a task to the process that waits for it.
    fn hand_over(&mut self, slot: usize, bytes: &[u8]) {
        let Some(inlet) = &mut self.seats[slot].inlet else { return };
        inlet.push(bytes);
        inlet.last = self.plan.mode == Mode::Stdin;
    }

    fn flush(&mut self, slot: usize) {
        let seat = &mut self.seats[slot];
        if let Some(inlet) = &mut seat.inlet
            && inlet.flush(&self.inbox.poller, token(slot, IN))
        {
            seat.inlet = None;
        }
    }

    fn stop(&self, slot: usize) {
        if let Some(running) = self.seats.get(slot).and_then(|seat| seat.now().running.as_ref()) {
            let _ = running.begin_stop(self.plan.stop_signal);
        }
    }

    fn kill(&self, slot: usize) {
        if let Some(running) = self.seats.get(slot).and_then(|seat| seat.now().running.as_ref()) {
            let _ = running.kill();
        }
    }

    fn recall(&mut self, slot: usize) {
        if let Some(running) = self.seats.get_mut(slot).and_then(|seat| seat.berth(1).running.as_ref()) {
            running.recall();
        }
    }

    fn kill_all(&self) {
        (0..self.seats.len()).for_each(|slot| self.kill(slot));
    }

    fn signal_all(&self, signal: i32) {
        for running in self.seats.iter().flat_map(Seat::programs) {
            let _ = running.signal_all(signal);
        }
    }

    fn ready(&mut self, token: u64) {
        if token == KEEPER {
            return;
        }
        let Some(slot) = usize::try_from(token / 8 - 1).ok().filter(|slot| *slot < self.seats.len()) else {
            return;
        };
        let (kind, turn) = (token % 8, self.seats[slot].turn());
        match kind {
            IN => self.flush(slot),
            // What follows speaks already; that it is its turn, the keeper says in the same breath.
            _ if kind == OUT[turn] || kind == ERR[turn] => self.listen(slot, token, kind == ERR[turn]),
            _ => {}
        }
    }

    fn ended(&mut self, slot: usize, generation: u64, how: Result<Ended, SpawnError>) {
        let Some(at) = self.seats.get(slot).and_then(|seat| seat.place_of(generation)) else { return };
        if at > 0 {
            // Whatever ails it, it may be another's turn to say so: it was not begun.
            self.seats[slot].berth(at).running.take().into_iter().for_each(Running::detach);
            let now = self.now();
            return self.state.recalled(slot, at, now);
        }
        // All that it has said lies in the pipes.
        if how.is_ok() {
            self.read(slot, false, true);
            self.read(slot, true, true);
            if self.plan.print == Print::Lines {
                self.whole_lines(slot, false, true);
                self.whole_lines(slot, true, true);
            }
        }
        let now = self.now();
        let seat = &mut self.seats[slot];
        let rest = std::mem::take(&mut seat.said);
        (seat.inlet, seat.searched) = (None, 0);
        let follows = self.state.is_followed(slot);
        let berth = seat.now_mut();
        let running = berth.running.take();
        let mut product = std::mem::replace(&mut berth.product, Product::new(SystemTime::now()));
        product.pid = running.as_ref().and_then(Running::pid_if_started);
        // Its end is known: there is nothing to wait for, and on this thread nobody may.
        running.into_iter().for_each(Running::detach);
        let answers = self.plan.mode.is_long_lived();
        if how.as_ref().is_ok_and(|ended| ended.exit().is_none()) {
            // Somebody may still write to its pipes.
            (berth.out, berth.err) = (None, None);
        }
        if follows {
            seat.pass_on();
            if self.pause.is_some() {
                seat.programs().for_each(|running| drop(running.signal_all(SIGSTOP)));
            }
        }
        match how {
            Ok(ended) => {
                (product.usage, product.leaked) = (ended.usage(), ended.leaked());
                let cause = match ended.cause() {
                    // It has left a question without an answer.
                    Cause::Ok if answers => Cause::Lost(Loss::Protocol),
                    cause => cause,
                };
                let mut kept = Ok(());
                if self.plan.mode == Mode::Lines && !rest.is_empty() {
                    // Its last words: no answer, but not lost.
                    kept = product.out.push(&rest);
                }
                let weight = product.weight();
                self.state.ended(slot, cause, product, weight, now);
                if let Err(error) = kept {
                    self.fail(super::MapError::Output(error), now);
                }
                if cause == Cause::Lost(Loss::Keeper) {
                    let text = "the keeper was killed, and all programs with it; run it again, with --resume if there is a job log";
                    self.fail(SpawnError::KeeperGone(text.into()).into(), now);
                }
            }
            Err(SpawnError::Program { errno: ECANCELED, .. }) => self.state.recalled(slot, 0, now),
            Err(SpawnError::Program { errno: EAGAIN, stage, .. }) => {
                self.state.refused(slot, Cause::Spawn { stage, errno: EAGAIN }, product, now);
            }
            Err(error) => {
                let cause = error.cause();
                let weight = product.weight();
                self.state.ended(slot, cause, product, weight, now);
                let only_this = match cause {
                    Cause::Spawn { stage: Stage::Exec, errno } => errno == E2BIG || !self.template.is_fixed(),
                    Cause::Spawn { stage: Stage::Asking, errno } => errno == EINVAL,
                    _ => false,
                };
                if !only_this {
                    self.fail(error.into(), now);
                }
            }
        }
    }

    fn report(&mut self, finished: Finished<Product>, weight: usize) {
        let Finished { task, cause, product, slot, took, cut } = finished;
        let product = product.unwrap_or_else(|| Product::new(SystemTime::now()));
        self.reports.push(Report {
            seq: task.seq + 1,
            task: task.bytes,
            cause,
            attempts: task.attempts,
            slot: slot + 1,
            pid: product.pid,
            started: product.started,
            wall: took,
            usage: product.usage,
            leaked: product.leaked,
            out: super::Output(product.out),
            err: super::Output(product.err),
            cut,
            weight,
        });
    }

    /// Lets the workers go that wait for more; true once they have gone.
    fn close(&mut self) -> bool {
        let now = self.now();
        let ending = self.state.is_ending();
        for slot in 0..self.seats.len() {
            if self.seats[slot].now().running.is_some()
                && let Some(inlet) = &mut self.seats[slot].inlet
            {
                inlet.last = true;
                self.flush(slot);
            }
        }
        if self.seats.iter().all(|seat| seat.programs().next().is_none()) {
            return true;
        }
        match self.closing {
            None if ending => {
                (0..self.seats.len()).for_each(|slot| self.stop(slot));
                self.closing = Some(now + self.plan.rules.grace);
            }
            None => self.closing = Some(now + self.plan.rules.grace),
            Some(at) if at <= now => {
                self.kill_all();
                self.closing = Some(now + Duration::from_secs(3600));
            }
            Some(_) => {}
        }
        false
    }
}
