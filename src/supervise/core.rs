//! The thread that keeps the copies: it hears words, asks the rules, and does what they say. It sleeps while nothing happens.

use super::builder::{Place, Settings, Show};
use super::outlet::{Listener, Outlet};
use super::status::{Happening, HappeningKind, Outcome, PlaceStatus, measure};
use crate::cause::Cause;
use crate::error::SpawnError;
use crate::keeper::{Ended, Keeper, Running};
use crate::process::Stdio;
use crate::reactor::{Interest, Source, Watch, reactor};
use crate::supervisor::{Action, Event, State};
use crate::sys::notify::Notify;
use crate::sys::{SIGCONT, SIGSTOP, signals};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Hears what happens; `None` asks whether it still wants to. False when it does not.
pub(crate) type Observer = Box<dyn FnMut(Option<&Happening>) -> bool + Send>;

/// What the thread hears.
pub(super) enum Word {
    Event(Event),
    Ended {
        id: u32,
        run: u64,
        ended: Ended,
    },
    Ready {
        id: u32,
        run: u64,
    },
    Said {
        id: u32,
        run: u64,
        text: String,
    },
    Signal(Vec<u32>, i32),
    /// Everything stands still, this process included, until it is continued.
    Suspend,
    Status(Sender<Vec<PlaceStatus>>),
    Observe(Observer),
    Listen(Listener),
    Reopen,
    Warn(String),
    Unheard {
        err: bool,
        kind: std::io::ErrorKind,
        why: String,
    },
    Flushed,
    /// A copy has printed more than it may.
    Over {
        id: u32,
        run: u64,
    },
    /// All that a copy has printed before its end has been looked at.
    Drained {
        id: u32,
        run: u64,
        over: bool,
    },
    /// No more waiting for anything.
    Abandon,
}

/// So long is waited for what a dead copy has printed, to know whether that was too much.
const DRAINING: Duration = Duration::from_secs(2);

/// One copy's process.
struct Alive {
    run: u64,
    running: Running,
    ear: Option<Arc<Ear>>,
    watch: Option<Watch>,
    text: Option<String>,
    /// It has been told that it is too large.
    large: bool,
    /// It has ended, but whether it has printed too much is not known yet.
    /// It has, and until then its output is waited for.
    ended: Option<(Ended, Instant)>,
}

/// Hears what a copy says to its `NOTIFY_SOCKET`.
struct Ear {
    id: u32,
    run: u64,
    notify: Notify,
    words: Sender<Word>,
}

impl Source for Ear {
    fn on_ready(&self, _token: u64) {
        while let Some(text) = self.notify.next() {
            let _ = self.words.send(Word::Said { id: self.id, run: self.run, text });
        }
    }

    fn on_deadline(&self, _token: u64) {}
}

/// How often sizes are looked at, when there is a limit to them: no event tells.
const SAMPLE: Duration = Duration::from_secs(1);

pub(super) struct Core {
    settings: Settings,
    state: State,
    keeper: Option<Keeper>,
    alive: HashMap<u32, Alive>,
    runs: u64,
    outlet: Option<Outlet>,
    words: Sender<Word>,
    observers: Vec<Observer>,
    /// So long everything stood still.
    lost: Duration,
    sample_at: Option<Instant>,
    reason: Option<String>,
}

/// What a batch of actions came to.
type Over = Option<crate::supervisor::Verdict>;

impl Core {
    pub(super) fn new(
        settings: Settings,
        state: State,
        keeper: Keeper,
        outlet: Option<Outlet>,
        words: Sender<Word>,
    ) -> Self {
        let sample_at = settings.max_rss.map(|_| Instant::now() + SAMPLE);
        Self {
            settings,
            state,
            keeper: Some(keeper),
            alive: HashMap::new(),
            runs: 0,
            outlet,
            words,
            observers: Vec::new(),
            lost: Duration::ZERO,
            sample_at,
            reason: None,
        }
    }

    pub(super) fn observe(&mut self, observer: Observer) {
        self.observers.push(observer);
    }

    fn now(&self) -> Instant {
        let now = Instant::now();
        now.checked_sub(self.lost).unwrap_or(now)
    }

    pub(super) fn run(mut self, heard: &Receiver<Word>) -> Outcome {
        let mut over = self.on(Event::Clock);
        let mut flushing = false;
        let verdict = loop {
            if over.is_some() && !flushing {
                flushing = true;
                match &self.outlet {
                    Some(outlet) => outlet.flush(),
                    None => break over,
                }
            }
            let word = match self.deadline() {
                Some(at) => heard.recv_timeout(at.saturating_duration_since(self.now())),
                None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match word {
                Ok(Word::Abandon) => break over,
                // Who wants to kill when nobody lives any more wants to wait no longer.
                Ok(Word::Flushed | Word::Event(Event::Kill)) if flushing => break over,
                Ok(word) => over = over.or(self.hear(word)),
                Err(RecvTimeoutError::Timeout) => over = over.or(self.tick()),
                Err(RecvTimeoutError::Disconnected) => break over,
            }
        };
        let abandoned =
            crate::supervisor::Verdict { gave_up: false, failed: true, never_ran: None, last: None };
        let verdict = verdict.unwrap_or(abandoned);
        let reason = self.reason.take();
        // All at once rather than one after the other.
        drop(self.keeper.take());
        Outcome { verdict, reason }
    }

    fn deadline(&self) -> Option<Instant> {
        let undrained = self.alive.values().filter_map(|alive| Some(alive.ended?.1));
        self.state.deadline().into_iter().chain(self.sample_at).chain(undrained).min()
    }

    fn tick(&mut self) -> Over {
        if self.sample_at.is_some_and(|at| at <= self.now()) {
            self.sample_at = Some(self.now() + SAMPLE);
            self.weigh();
        }
        let over = self.settle(self.now());
        over.or(self.on(Event::Clock))
    }

    /// Whose output has been waited for until now has ended all the same: it may be that nobody reads it.
    fn settle(&mut self, now: Instant) -> Over {
        let undrained =
            |(id, alive): (&u32, &Alive)| alive.ended.filter(|(_, until)| *until <= now).map(|_| *id);
        let late: Vec<u32> = self.alive.iter().filter_map(undrained).collect();
        late.into_iter().fold(None, |over: Over, id| over.or(self.drained(id, false)))
    }

    /// Replaces who has grown too large.
    fn weigh(&mut self) {
        let Some(most) = self.settings.max_rss else { return };
        let sizes: Vec<_> = self
            .alive
            .iter()
            .filter_map(|(&id, one)| Some((id, one.run, measure(one.running.pid())?.0)))
            .collect();
        for (id, run, rss) in sizes {
            // A tenth up or down, the same for as long as it lives, so that not all are too large at once.
            let part = 90 + run.wrapping_mul(7) % 21;
            let too_large = u128::from(rss) * 100 > u128::from(most) * u128::from(part);
            if too_large
                && self.alive.get_mut(&id).is_some_and(|one| !std::mem::replace(&mut one.large, true))
            {
                self.tell(id, HappeningKind::TooLarge { rss });
                let _ = self.words.send(Word::Event(Event::Restart(vec![id])));
            }
        }
    }

    fn is_of(&self, id: u32, run: u64) -> bool {
        self.alive.get(&id).is_some_and(|alive| alive.run == run)
    }

    fn hear(&mut self, word: Word) -> Over {
        match word {
            Word::Event(Event::Kill) => {
                let over = self.on(Event::Kill);
                return over.or(self.settle(self.now() + DRAINING));
            }
            Word::Event(event) => return self.on(event),
            Word::Ended { id, run, ended } if self.is_of(id, run) => return self.ended(id, ended),
            Word::Ready { id, run } if self.is_of(id, run) => return self.on(Event::Ready { id }),
            Word::Said { id, run, text } if self.is_of(id, run) => return self.said(id, &text),
            Word::Over { id, run } if self.is_of(id, run) => {
                self.with(id, Running::kill);
                self.tell(id, HappeningKind::Verbose);
            }
            Word::Drained { id, run, over } if self.is_of(id, run) => return self.drained(id, over),
            Word::Over { .. } | Word::Drained { .. } => {}
            Word::Ended { .. } | Word::Ready { .. } | Word::Said { .. } => {}
            Word::Signal(ids, signal) => {
                for alive in ids.iter().filter_map(|id| self.alive.get(id)) {
                    let _ = alive.running.signal_all(signal);
                }
            }
            Word::Suspend => self.suspend(),
            Word::Status(answer) => drop(answer.send(self.status())),
            Word::Observe(observer) => {
                self.observers.retain_mut(|observer| observer(None));
                self.observers.push(observer);
            }
            Word::Listen(listener) => {
                if let Some(outlet) = &self.outlet {
                    outlet.listen(listener);
                }
            }
            Word::Reopen => {
                if let Some(outlet) = &self.outlet {
                    outlet.reopen();
                }
            }
            Word::Warn(text) => self.tell(0, HappeningKind::Warning(text)),
            Word::Unheard { err, kind, why } => {
                let stream = if err { "stderr" } else { "stdout" };
                // Who does not want to hear complaints may want the rest.
                let then = if err { "what the copies complain is lost" } else { "stopping" };
                self.tell(0, HappeningKind::Warning(format!("cannot write to {stream}: {why}; {then}")));
                if !err {
                    let _ = self.settings.unheard.set(kind);
                    return self.on(Event::Stop);
                }
            }
            Word::Flushed | Word::Abandon => {}
        }
        None
    }

    fn on(&mut self, event: Event) -> Over {
        let mut over = None;
        let mut actions = VecDeque::from(self.state.on(event, self.now()));
        while let Some(action) = actions.pop_front() {
            let event = match action {
                Action::Start { id, attempt } => Some(self.start(id, attempt)),
                Action::Stop { id } => {
                    let signal = self.settings.stop_signal;
                    self.with(id, |running| {
                        if self.settings.main_first {
                            running.stop_main(signal)
                        } else {
                            running.begin_stop(signal)
                        }
                    });
                    None
                }
                Action::Kill { id } => {
                    self.with(id, Running::kill);
                    None
                }
                Action::Tell { id, what } => {
                    self.tell(id, what.into());
                    None
                }
                Action::Done(verdict) => {
                    over = Some(verdict);
                    None
                }
            };
            if let Some(event) = event {
                let now = self.now();
                actions.extend(self.state.on(event, now));
            }
        }
        over
    }

    /// Does something to a copy that lives; a keeper that takes no asks is found out by its silence elsewhere.
    fn with(&self, id: u32, act: impl FnOnce(&Running) -> std::io::Result<()>) {
        if let Some(alive) = self.alive.get(&id)
            && act(&alive.running).is_err()
        {
            let _ = alive.running.signal(SIGCONT);
        }
    }

    fn start(&mut self, id: u32, attempt: u32) -> Event {
        if self.state.is_stopping() {
            return Event::Ended { id, cause: Cause::Skipped, exit: None };
        }
        match self.try_start(id, attempt) {
            Ok(pid) => Event::Started { id, pid },
            Err(error) => {
                let text = error.to_string();
                self.tell(id, HappeningKind::Warning(text.clone()));
                self.reason.get_or_insert(text);
                Event::Failed { id, cause: error.cause() }
            }
        }
    }

    fn try_start(&mut self, id: u32, attempt: u32) -> Result<u32, SpawnError> {
        self.runs += 1;
        let run = self.runs;
        let place = Place { name: &self.settings.name, id, copies: self.state.policy.copies, attempt };
        let mut program = (self.settings.make)(&place)
            .name(format!("{}:{id}", self.settings.name))
            .env("PROCESSION_NAME", &self.settings.name)
            .env("PROCESSION_ID", id.to_string())
            .env("PROCESSION_COPIES", place.copies.to_string())
            .env("PROCESSION_ATTEMPT", attempt.to_string());
        if self.outlet.is_some() {
            program = program.stdout(Stdio::Piped).stderr(Stdio::Piped);
        } else if self.settings.show == Show::Nothing {
            program = program.stdout(Stdio::Null).stderr(Stdio::Null);
        }
        let mut ear = None;
        if self.settings.notify {
            let notify = Notify::new().map_err(SpawnError::system("making the notify socket"))?;
            program = program.env("NOTIFY_SOCKET", notify.address());
            ear = Some(Arc::new(Ear { id, run, notify, words: self.words.clone() }));
        }
        let mut watch = None;
        if let Some(ear) = &ear {
            let listening = SpawnError::system("listening at the notify socket");
            let source = Arc::clone(ear) as Arc<dyn Source>;
            watch = Some(
                reactor()
                    .and_then(|reactor| reactor.add(&ear.notify, Interest::Read, source, 0))
                    .map_err(listening)?,
            );
        }
        let started = self.keeper().and_then(|keeper| keeper.start(program));
        let mut running = match started {
            Ok(running) => running,
            Err(error) => {
                deafen(ear.as_ref(), watch);
                return Err(error);
            }
        };
        if let Some(outlet) = &self.outlet {
            let (out, err) = (running.take_stdout(), running.take_stderr());
            out.into_iter().for_each(|pipe| outlet.add(id, run, false, pipe));
            err.into_iter().for_each(|pipe| outlet.add(id, run, true, pipe));
        }
        let words = self.words.clone();
        running.on_end(move |ended| drop(words.send(Word::Ended { id, run, ended })));
        let pid = running.pid();
        self.alive.insert(id, Alive { run, running, ear, watch, text: None, large: false, ended: None });
        Ok(pid)
    }

    /// A new one if the last has died; whatever it kept died with it.
    fn keeper(&mut self) -> Result<&Keeper, SpawnError> {
        if !self.keeper.as_ref().is_some_and(Keeper::is_alive) {
            self.keeper = None;
            self.keeper = Some(Keeper::builder().subreaper(self.settings.subreaper).build()?);
        }
        self.keeper.as_ref().ok_or(SpawnError::KeeperGone("there is no keeper".into()))
    }

    fn ended(&mut self, id: u32, ended: Ended) -> Over {
        let run = self.alive.get(&id)?.run;
        if let Some(outlet) = &self.outlet {
            outlet.finish(id, run);
            if self.settings.output_limit.is_some() {
                let until = self.now() + DRAINING;
                self.alive.get_mut(&id)?.ended = Some((ended, until));
                return None;
            }
        }
        self.gone(id, ended, None)
    }

    fn drained(&mut self, id: u32, over: bool) -> Over {
        let (ended, _) = self.alive.get_mut(&id)?.ended.take()?;
        self.gone(id, ended, over.then_some(Cause::OutputLimit))
    }

    fn gone(&mut self, id: u32, ended: Ended, instead: Option<Cause>) -> Over {
        let alive = self.alive.remove(&id)?;
        deafen(alive.ear.as_ref(), alive.watch);
        if ended.leaked() > 0 {
            self.tell(id, HappeningKind::Leak { count: ended.leaked() });
        }
        self.on(Event::Ended { id, cause: instead.unwrap_or(ended.cause()), exit: ended.exit() })
    }

    fn said(&mut self, id: u32, text: &str) -> Over {
        let mut over = None;
        for line in text.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => over = over.or(self.on(Event::Ready { id })),
                Some(("STATUS", text)) => {
                    self.alive
                        .get_mut(&id)
                        .into_iter()
                        .for_each(|alive| alive.text = Some(text.chars().take(200).collect()));
                }
                Some(("STOPPING", "1")) => {
                    self.alive
                        .get_mut(&id)
                        .into_iter()
                        .for_each(|alive| alive.text = Some("stopping".into()));
                }
                _ => {}
            }
        }
        over
    }

    fn tell(&mut self, id: u32, kind: HappeningKind) {
        let happening = Happening { name: self.settings.name.clone(), id, kind };
        self.observers.retain_mut(|observer| observer(Some(&happening)));
    }

    fn suspend(&mut self) {
        let start = Instant::now();
        for alive in self.alive.values() {
            let _ = alive.running.signal_all(SIGSTOP);
        }
        signals::stop_self();
        for alive in self.alive.values() {
            let _ = alive.running.signal_all(SIGCONT);
        }
        self.lost += start.elapsed();
    }

    fn status(&self) -> Vec<PlaceStatus> {
        let now = self.now();
        let row = |(&id, seat): (&u32, &crate::supervisor::Seat)| {
            let size = seat.pid.and_then(measure);
            PlaceStatus {
                name: self.settings.name.clone(),
                id,
                pid: seat.pid,
                state: seat.state(&self.state.policy),
                up: seat.up_for(now),
                restarts: seat.restarts(),
                due: seat.due_in(now),
                last: seat.last.map(|(cause, at)| (cause, now.saturating_duration_since(at))),
                text: self.alive.get(&id).and_then(|alive| alive.text.clone()),
                rss: size.map(|(rss, _)| rss),
                cpu: size.map(|(_, cpu)| cpu),
            }
        };
        self.state.seats.iter().map(row).collect()
    }
}

fn deafen(ear: Option<&Arc<Ear>>, watch: Option<Watch>) {
    if let (Some(ear), Some(watch), Ok(reactor)) = (ear, watch, reactor()) {
        reactor.remove(watch, &ear.notify);
    }
}
