//! The copies together: events in, actions out.

use super::backoff::Dice;
use super::policy::{OnLimit, Policy, Sequel, Until};
use super::seat::{Phase, Seat, Then};
use crate::cause::Cause;
use crate::exit::Exit;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What has happened, or was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A start was done; the process lives.
    Started {
        id: u32,
        pid: u32,
    },
    /// It could not be started.
    Failed {
        id: u32,
        cause: Cause,
    },
    /// It has said so.
    Ready {
        id: u32,
    },
    /// It has ended, with all that it had started; or its start was skipped.
    Ended {
        id: u32,
        cause: Cause,
        exit: Option<Exit>,
    },
    /// Nothing but time.
    Clock,
    /// All are to end, and then it is over.
    Stop,
    /// As `Stop`, without grace.
    Kill,
    /// Those who run may end by themselves; nobody is started any more.
    Drain,
    Scale(u32),
    /// So many more, or fewer.
    ScaleBy(i32),
    /// These are replaced, one after the other.
    Restart(Vec<u32>),
    /// These rest until they are started.
    Rest(Vec<u32>),
    Start(Vec<u32>),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Start {
        id: u32,
        attempt: u32,
    },
    Stop {
        id: u32,
    },
    Kill {
        id: u32,
    },
    /// To be told to whom it concerns.
    Tell {
        id: u32,
        what: What,
    },
    /// It is over; once.
    Done(Verdict),
}

/// What is worth telling of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Spawn {
        pid: u32,
    },
    Ready,
    Exit {
        cause: Cause,
    },
    /// The next start is in so long; the how-manieth restart in a row.
    Backoff {
        cause: Cause,
        delay: Duration,
        count: u32,
    },
    /// It has reached its limit.
    GaveUp {
        cause: Cause,
    },
    Stopping,
    Killing,
    /// It has ended badly, for good.
    Failed {
        cause: Cause,
    },
    /// It did not say in time that it is ready.
    Late,
}

/// How it all went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Somebody reached the limit.
    pub(crate) gave_up: bool,
    /// Somebody ended badly, or had to be killed.
    pub(crate) failed: bool,
    /// The first start failed: nothing ever ran.
    pub(crate) never_ran: Option<Cause>,
    /// How the last one ended.
    pub(crate) last: Option<(Cause, Option<Exit>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Mode {
    Keeping,
    Draining,
    Stopping,
    Over,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) policy: Policy,
    pub(crate) seats: BTreeMap<u32, Seat>,
    mode: Mode,
    dice: Dice,
    /// To be replaced, and who is being replaced.
    queue: VecDeque<u32>,
    replacing: Option<u32>,
    verdict: Verdict,
    ever_ran: bool,
    actions: Vec<Action>,
}

impl State {
    pub(crate) fn new(policy: Policy, seed: u64, now: Instant) -> Self {
        let seats = (0..policy.copies).map(|id| (id, Seat::new(&policy, now))).collect();
        let verdict = Verdict { gave_up: false, failed: false, never_ran: None, last: None };
        Self {
            policy,
            seats,
            mode: Mode::Keeping,
            dice: Dice::new(seed),
            queue: VecDeque::new(),
            replacing: None,
            verdict,
            ever_ran: false,
            actions: Vec::new(),
        }
    }

    /// Is it ending?
    pub(crate) fn is_stopping(&self) -> bool {
        self.mode >= Mode::Stopping
    }

    /// When to come back with `Clock` if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.mode == Mode::Over {
            return None;
        }
        // Who is old enough waits for its turn, which an event brings.
        let waits = |id: &u32, seat: &Seat| matches!(seat.phase, Phase::Up { .. }) && self.queue.contains(id);
        self.seats.iter().filter(|(id, seat)| !waits(id, seat)).filter_map(|(_, seat)| seat.deadline()).min()
    }

    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        if self.mode == Mode::Over {
            return Vec::new();
        }
        match event {
            Event::Started { id, pid } => self.started(id, pid, now),
            Event::Failed { id, cause } => self.failed(id, cause, now),
            Event::Ready { id } => self.ready(id, now),
            Event::Ended { id, cause, exit } => self.ended(id, cause, exit, now),
            Event::Clock => {}
            Event::Stop => self.stop_all(now),
            Event::Kill => self.kill_all(now),
            Event::Drain => self.drain(),
            Event::Scale(count) => self.scale(count, now),
            Event::ScaleBy(more) => self.scale(self.policy.copies.saturating_add_signed(more), now),
            Event::Restart(ids) => self.restart(&ids, now),
            Event::Rest(ids) => ids.iter().for_each(|&id| self.rest(id, Then::Rest, now)),
            Event::Start(ids) => ids.iter().for_each(|&id| self.revive(id, now)),
        }
        self.look_at_clock(now);
        self.replace_next(now);
        self.finish(now);
        std::mem::take(&mut self.actions)
    }

    fn tell(&mut self, id: u32, what: What) {
        self.actions.push(Action::Tell { id, what });
    }

    fn started(&mut self, id: u32, pid: u32, now: Instant) {
        self.ever_ran = true;
        let Some(seat) = self.seats.get_mut(&id) else { return };
        seat.pid = Some(pid);
        self.tell(id, What::Spawn { pid });
        if self.policy.ready_within.is_none() {
            self.up(id, now);
        }
    }

    fn up(&mut self, id: u32, now: Instant) {
        let due = self.policy.max_age.map(|age| now + self.dice.around(age, 0.1));
        let Some(seat) = self.seats.get_mut(&id) else { return };
        if matches!(seat.phase, Phase::Starting { .. }) {
            seat.phase = Phase::Up { since: now, due };
            self.replaced(id);
        }
    }

    fn ready(&mut self, id: u32, now: Instant) {
        let waits = |seat: &Seat| matches!(seat.phase, Phase::Starting { .. }) && seat.pid.is_some();
        if self.seats.get(&id).is_some_and(waits) {
            self.tell(id, What::Ready);
            self.up(id, now);
        }
    }

    fn failed(&mut self, id: u32, cause: Cause, now: Instant) {
        if !self.ever_ran {
            self.verdict.never_ran.get_or_insert(cause);
            if let Some(seat) = self.seats.get_mut(&id) {
                seat.phase = Phase::Done { well: false };
                seat.last = Some((cause, now));
            }
            self.stop_all(now);
            return;
        }
        self.ended(id, cause, None, now);
    }

    fn ended(&mut self, id: u32, cause: Cause, exit: Option<Exit>, now: Instant) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        if !seat.lives() {
            return;
        }
        if cause == Cause::Skipped {
            return self.set(id, Phase::Stopped);
        }
        seat.forgive(&self.policy, now);
        seat.pid = None;
        let cause = match seat.phase {
            Phase::Stopping { then: Then::Judge, .. } => Cause::StartTimeout,
            _ => cause,
        };
        seat.last = Some((cause, now));
        self.verdict.last = Some((cause, exit));
        let phase = seat.phase;
        self.tell(id, What::Exit { cause });
        match phase {
            Phase::Stopping { then: Then::Leave, .. } => {
                self.seats.remove(&id);
                self.replaced(id);
            }
            Phase::Stopping { then: Then::Rest, .. } => self.set(id, Phase::Stopped),
            Phase::Stopping { then: Then::Again, .. } if self.mode == Mode::Keeping => {
                self.set(id, Phase::Backoff { until: now });
            }
            Phase::Stopping { then: Then::Again, .. } => self.set(id, Phase::Stopped),
            _ => self.judge(id, cause, exit, now),
        }
    }

    fn judge(&mut self, id: u32, cause: Cause, exit: Option<Exit>, now: Instant) {
        let sequel = self.policy.judge(cause, exit);
        let Some(seat) = self.seats.get_mut(&id) else { return };
        match sequel {
            // Nobody starts it any more, however much it ought to be.
            Sequel::Again if self.mode != Mode::Keeping => {
                let well = exit.map_or(cause.is_ok(), |exit| self.policy.success.contains(exit));
                self.verdict.failed |= !well;
                self.over(id, well);
            }
            Sequel::Again if seat.may_restart(&self.policy, now) => {
                let delay = self.policy.backoff().delay(seat.in_a_row, &mut self.dice);
                seat.in_a_row += 1;
                let count = seat.in_a_row;
                seat.phase = Phase::Backoff { until: now + delay };
                self.tell(id, What::Backoff { cause, delay, count });
            }
            Sequel::Again => {
                self.verdict.gave_up = true;
                self.tell(id, What::GaveUp { cause });
                self.over(id, false);
                if self.policy.on_limit == OnLimit::Stop {
                    self.stop_all(now);
                }
            }
            Sequel::Over { well } => {
                // What started in vain for good has been given up, too.
                self.verdict.gave_up |= cause == Cause::StartTimeout;
                self.verdict.failed |= !well;
                if !well {
                    self.tell(id, What::Failed { cause });
                }
                self.over(id, well);
            }
        }
    }

    fn over(&mut self, id: u32, well: bool) {
        self.set(id, Phase::Done { well });
        self.replaced(id);
    }

    fn set(&mut self, id: u32, phase: Phase) {
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.phase = phase;
        }
        if matches!(phase, Phase::Stopped) {
            self.replaced(id);
        }
    }

    /// Asks it to end, or says what is to come after the end that it was asked for already.
    fn rest(&mut self, id: u32, then: Then, now: Instant) {
        let until = now + self.policy.stop_timeout;
        let Some(seat) = self.seats.get_mut(&id) else { return };
        match &mut seat.phase {
            Phase::Stopping { then: later, .. } => *later = then,
            Phase::Starting { .. } | Phase::Up { .. } => {
                seat.forgive(&self.policy, now);
                seat.phase = Phase::Stopping { until: Some(until), then };
                self.actions.push(Action::Stop { id });
                self.tell(id, What::Stopping);
            }
            Phase::Backoff { .. } | Phase::Done { .. } | Phase::Stopped => match then {
                Then::Leave => {
                    self.seats.remove(&id);
                    self.replaced(id);
                }
                Then::Again if self.mode == Mode::Keeping => self.revive(id, now),
                // How it ended stays known.
                _ if seat.is_over() => {}
                _ => self.set(id, Phase::Stopped),
            },
        }
    }

    fn revive(&mut self, id: u32, now: Instant) {
        if self.mode != Mode::Keeping {
            return;
        }
        let Some(seat) = self.seats.get_mut(&id) else { return };
        match &mut seat.phase {
            Phase::Stopping { then: then @ (Then::Rest | Then::Judge), .. } => *then = Then::Again,
            Phase::Backoff { .. } | Phase::Done { .. } | Phase::Stopped => {
                seat.amnesty();
                seat.phase = Phase::Backoff { until: now };
            }
            _ => {}
        }
    }

    fn restart(&mut self, ids: &[u32], now: Instant) {
        if self.mode != Mode::Keeping {
            return;
        }
        for &id in ids {
            let Some(seat) = self.seats.get(&id) else { continue };
            if !seat.lives() {
                self.revive(id, now);
            } else if !self.queue.contains(&id) && self.replacing != Some(id) {
                self.queue.push_back(id);
            }
        }
    }

    fn scale(&mut self, count: u32, now: Instant) {
        if self.mode != Mode::Keeping {
            return;
        }
        self.policy.copies = count;
        for id in 0..count {
            self.seats.entry(id).or_insert_with(|| Seat::new(&self.policy, now));
            if let Some(Seat { phase: Phase::Stopping { then: then @ Then::Leave, .. }, .. }) =
                self.seats.get_mut(&id)
            {
                *then = Then::Again;
            }
        }
        let surplus: Vec<u32> = self.seats.range(count..).map(|(&id, _)| id).collect();
        surplus.into_iter().for_each(|id| self.rest(id, Then::Leave, now));
    }

    fn drain(&mut self) {
        if self.mode == Mode::Keeping {
            self.mode = Mode::Draining;
            self.queue.clear();
            self.idle_rest();
        }
    }

    /// Who waits for a start will not get one.
    fn idle_rest(&mut self) {
        for seat in self.seats.values_mut().filter(|seat| matches!(seat.phase, Phase::Backoff { .. })) {
            seat.phase = Phase::Stopped;
        }
    }

    fn stop_all(&mut self, now: Instant) {
        if self.is_stopping() {
            return;
        }
        self.mode = Mode::Stopping;
        self.queue.clear();
        self.idle_rest();
        let living: Vec<u32> =
            self.seats.iter().filter(|(_, seat)| seat.lives()).map(|(&id, _)| id).collect();
        living.into_iter().for_each(|id| self.rest(id, Then::Rest, now));
    }

    fn kill_all(&mut self, now: Instant) {
        self.stop_all(now);
        for seat in self.seats.values_mut() {
            if let Phase::Stopping { until: until @ Some(_), .. } = &mut seat.phase {
                *until = Some(now);
            }
        }
    }

    fn look_at_clock(&mut self, now: Instant) {
        let due = |seat: &Seat| seat.deadline().is_some_and(|at| at <= now);
        let late: Vec<u32> = self.seats.iter().filter(|(_, seat)| due(seat)).map(|(&id, _)| id).collect();
        for id in late {
            let Some(seat) = self.seats.get_mut(&id) else { continue };
            match &mut seat.phase {
                Phase::Backoff { .. } => {
                    let until = self.policy.ready_within.map(|limit| now + limit);
                    seat.phase = Phase::Starting { since: now, until };
                    seat.attempts += 1;
                    let attempt = seat.attempts;
                    self.actions.push(Action::Start { id, attempt });
                }
                Phase::Starting { .. } => {
                    self.tell(id, What::Late);
                    self.rest(id, Then::Judge, now);
                }
                Phase::Stopping { until, .. } => {
                    *until = None;
                    self.verdict.failed |= self.mode == Mode::Stopping;
                    self.actions.push(Action::Kill { id });
                    self.tell(id, What::Killing);
                }
                Phase::Up { .. } if self.mode == Mode::Keeping => self.restart(&[id], now),
                Phase::Up { due, .. } => *due = None,
                Phase::Done { .. } | Phase::Stopped => {}
            }
        }
    }

    /// Its replacement is up, or there will be none.
    fn replaced(&mut self, id: u32) {
        self.queue.retain(|&waiting| waiting != id);
        if self.replacing == Some(id) {
            self.replacing = None;
        }
    }

    fn replace_next(&mut self, now: Instant) {
        while self.replacing.is_none()
            && self.mode == Mode::Keeping
            && let Some(id) = self.queue.pop_front()
        {
            if self
                .seats
                .get(&id)
                .is_some_and(|seat| matches!(seat.phase, Phase::Up { .. } | Phase::Starting { .. }))
            {
                self.replacing = Some(id);
                self.rest(id, Then::Again, now);
            }
        }
    }

    fn finish(&mut self, now: Instant) {
        let over = match self.policy.until {
            Until::Never => false,
            Until::Any => self.seats.values().any(Seat::is_over),
            Until::All => !self.seats.is_empty() && self.seats.values().all(Seat::is_over),
        };
        if over && self.mode == Mode::Keeping {
            self.stop_all(now);
        }
        let nobody = !self.seats.values().any(Seat::lives);
        if self.mode >= Mode::Draining && nobody {
            self.mode = Mode::Over;
            self.actions.push(Action::Done(self.verdict));
        }
    }
}
