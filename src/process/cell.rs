//! What the reactor and the handle of a process share: it moves its call down, hears what it says, and sees it end.

use super::call::Call;
use super::link::{Link, Received, Way};
use super::plan::{self, Piped, Settings, Streams};
use super::roster;
use crate::Exit;
use crate::error::{Codec, Half, Lost, Panic, SpawnError, TaskError, Work};
use crate::reactor::{Alarm, Interest, Source, Watch, reactor};
use crate::sys::wait;
use procession_worker::ipc::handoff::Incoming;
use procession_worker::ipc::page::Stage;
use procession_worker::sys::image;
use procession_worker::wire::codec;
use procession_worker::wire::message::{self, CallHead, Hello, PanicRecord, Refusal, Up};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A child that has closed its pipe has so long to end as well.
pub(crate) const CLOSING: Duration = Duration::from_secs(1);

const PROCESS: u64 = 0;
const OUTCOMES: u64 = 1;
const CALLS: u64 = 2;
const TRAY: u64 = 3;
const BIRTH: u64 = 4;

/// What the reactor and the handle share.
pub(super) struct Cell {
    me: Weak<Self>,
    pub(super) name: Arc<str>,
    /// Outlives the link, so that the handle can be asked at any time.
    pub(super) ends: Arc<super::link::Ends>,
    life: Mutex<Life>,
    changed: Condvar,
    birth_limit: Duration,
}

pub(super) struct Life {
    link: Link,
    watches: [Option<Watch>; 4],
    alarm: Option<Alarm>,
    /// Does somebody who waits look at the process, instead of the reactor?
    led: bool,
    born: bool,
    /// Why we killed it, if we did.
    reason: Option<Arc<str>>,
    /// Its handle was used to end it.
    pub(super) ended_by_handle: bool,
    /// What came with the outcome that is next.
    came: Option<Incoming>,
    pub(super) outcome: Option<Result<(Vec<u8>, Incoming), TaskError>>,
    pub(super) exit: Option<Exit>,
}

impl Cell {
    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn spawn(
    call: Call,
    name: &Arc<str>,
    path: Vec<u64>,
    settings: &Settings,
    streams: Streams,
    birth_limit: Duration,
) -> Result<(Arc<Cell>, Piped), SpawnError> {
    let (mut link, piped) = plan::start(settings, streams, name, path, true)?;
    let head = CallHead {
        offset: call.token.offset,
        fingerprint: call.token.fingerprint,
        count: 1,
        tag: 1,
        slot: 0,
        flags: 0,
    };
    link.page.offer(head.slot, head.tag, head.count);
    link.call(head, call.parcel);
    link.flush();
    let pid = link.pid();
    roster::enter(pid, name);
    let cell = Arc::new_cyclic(|me| Cell {
        me: Weak::clone(me),
        name: Arc::clone(name),
        ends: Arc::clone(&link.ends),
        life: Mutex::new(Life {
            link,
            watches: [None; 4],
            alarm: None,
            led: false,
            born: false,
            reason: None,
            ended_by_handle: false,
            came: None,
            outcome: None,
            exit: None,
        }),
        changed: Condvar::new(),
        birth_limit,
    });
    cell.watch().map_err(|error| {
        cell.ends.process.bury();
        roster::leave(pid);
        SpawnError::system("watching the process")(error)
    })?;
    Ok((cell, piped))
}

impl Cell {
    fn watch(&self) -> io::Result<()> {
        let reactor = reactor()?;
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let mut life = self.life();
        let add = |life: &mut Life, which: u64, fd: BorrowedFd<'_>, interest| {
            reactor
                .add(fd, interest, Arc::clone(&me) as Arc<dyn Source>, which)
                .map(|watch| life.watches[which as usize] = Some(watch))
        };
        let done = add(&mut life, PROCESS, self.ends.process.as_fd(), Interest::Read)
            .and_then(|()| add(&mut life, OUTCOMES, self.ends.outcomes.as_fd(), Interest::Read))
            .and_then(|()| self.watch_ways(&mut life));
        if let Err(error) = done {
            self.unwatch(&mut life, &[PROCESS, OUTCOMES, CALLS, TRAY]);
            return Err(error);
        }
        life.alarm = Some(reactor.set_alarm_after(self.birth_limit, self.weak(), BIRTH));
        Ok(())
    }

    /// Has the reactor write on as soon as what is full takes more.
    fn watch_ways(&self, life: &mut Life) -> io::Result<()> {
        let full = life.link.waits_for();
        for (way, which) in [(Way::Pipe, CALLS), (Way::Tray, TRAY)] {
            if full != Some(way) {
                self.unwatch(life, &[which]);
            } else if let (None, Some(me)) = (life.watches[which as usize], self.me.upgrade()) {
                let watch =
                    reactor()?.add(self.ends.way(way), Interest::Write, me as Arc<dyn Source>, which)?;
                life.watches[which as usize] = Some(watch);
            }
        }
        Ok(())
    }

    fn weak(&self) -> Weak<dyn Source> {
        Weak::clone(&self.me) as Weak<dyn Source>
    }

    fn unwatch(&self, life: &mut Life, which: &[u64]) {
        let Ok(reactor) = reactor() else { return };
        for &which in which {
            let fd = match which {
                PROCESS => self.ends.process.as_fd(),
                OUTCOMES => self.ends.outcomes.as_fd(),
                TRAY => self.ends.tray.as_fd(),
                _ => self.ends.calls.as_fd(),
            };
            if let Some(watch) = life.watches[which as usize].take() {
                reactor.remove(watch, fd);
            }
        }
    }

    fn quiet_alarm(life: &mut Life) {
        if let (Some(alarm), Ok(reactor)) = (life.alarm.take(), reactor()) {
            reactor.cancel_alarm(alarm);
        }
    }

    /// Waits until the process has ended, or the deadline. The first one to wait looks at the process itself, which saves
    /// two changes of thread; the others are told.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Option<Exit> {
        let mut life = self.life();
        while life.exit.is_none() {
            if !life.led {
                life.led = true;
                self.let_reactor_watch(&life, Interest::Nothing);
                drop(life);
                let in_time = self.look(deadline);
                life = self.life();
                life.led = false;
                self.let_reactor_watch(&life, Interest::Read);
                self.changed.notify_all();
                if !in_time {
                    break;
                }
                continue;
            }
            let in_time;
            (life, in_time) = wait::sleep(&self.changed, life, deadline);
            if !in_time {
                break;
            }
        }
        life.exit
    }

    fn let_reactor_watch(&self, life: &Life, interest: Interest) {
        let Ok(reactor) = reactor() else { return };
        for (which, fd) in [(PROCESS, self.ends.process.as_fd()), (OUTCOMES, self.ends.outcomes.as_fd())] {
            if let Some(watch) = life.watches[which as usize] {
                reactor.modify(watch, fd, interest);
            }
        }
    }

    /// Sees to the process until something has come of it; false if that was the deadline.
    fn look(&self, deadline: Option<Instant>) -> bool {
        loop {
            let open = self.life().watches[OUTCOMES as usize].is_some();
            let process = (self.ends.process.as_fd(), false);
            let [died, spoke] = if open {
                wait::ready([process, (self.ends.outcomes.as_fd(), false)], deadline)
            } else {
                let [died] = wait::ready([process], deadline);
                [died, false]
            };
            if died {
                self.died();
                return true;
            }
            if spoke {
                self.listen();
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return false;
            }
        }
    }

    /// Reads what the process has written.
    fn listen(&self) {
        let mut life = self.life();
        match life.link.receive() {
            Received::Bytes => Self::understand(&mut life),
            Received::Nothing => {}
            Received::Closed => {
                self.unwatch(&mut life, &[OUTCOMES]);
                // What it still had to do in time, it cannot tell of any more.
                Self::quiet_alarm(&mut life);
                if life.exit.is_none()
                    && life.outcome.is_none()
                    && let Ok(reactor) = reactor()
                {
                    life.alarm = Some(reactor.set_alarm(Instant::now() + CLOSING, self.weak(), OUTCOMES));
                }
            }
        }
    }

    /// Understands what has arrived.
    fn understand(life: &mut Life) {
        loop {
            let sensible = life.link.makes_sense();
            let here = life.link.inbox.pending().len() as u64;
            let waits = |whole: u64| whole <= here && life.link.is_unfinished(0, whole);
            if sensible && life.link.inbox.announced().is_some_and(waits) {
                return;
            }
            let nonce = life.link.page.nonce();
            let step = match life.link.inbox.next() {
                _ if !sensible => Heard::Nonsense("it sent bytes that make no sense".into()),
                Ok(None) => return,
                Ok(Some(frame)) if !message::is_sealed(frame.payload, nonce) => {
                    Heard::Nonsense("it sent bytes that make no sense: a result is not of one piece".into())
                }
                Ok(Some(frame)) => hear(frame.kind, message::unsealed(frame.payload)),
                Err(error) => Heard::Nonsense(Link::nonsense(&error)),
            };
            match step {
                Heard::Hello => {
                    life.born = true;
                    Self::quiet_alarm(life);
                }
                Heard::Handles(count) => match life.link.receive_handles(count) {
                    Ok(came) => life.came = Some(came),
                    Err(reason) => {
                        Self::nonsense(life, reason);
                        return;
                    }
                },
                Heard::Outcome(outcome) => {
                    let came = life.came.take().unwrap_or_default();
                    life.outcome.get_or_insert(outcome.map(|value| (value, came)));
                }
                Heard::Nothing => {}
                Heard::Nonsense(reason) => {
                    Self::nonsense(life, reason);
                    return;
                }
            }
        }
    }

    fn nonsense(life: &mut Life, reason: Arc<str>) {
        life.reason.get_or_insert(reason);
        life.link.ends.process.kill_all();
        life.link.distrust();
    }

    fn died(&self) {
        let mut life = self.life();
        if life.exit.is_some() {
            return;
        }
        life.link.receive_the_rest();
        Self::understand(&mut life);
        life.link.receive_the_ring();
        Self::understand(&mut life);
        // Before it is reaped, while its group's number is certain: what it has started ends with it.
        life.link.ends.process.kill_all();
        let Some(exit) = life.link.reap() else { return };
        if life.outcome.is_none() {
            life.outcome = Some(Err(self.verdict(&life, exit)));
        }
        life.exit = Some(exit);
        Self::quiet_alarm(&mut life);
        self.unwatch(&mut life, &[PROCESS, OUTCOMES, CALLS, TRAY]);
        roster::leave(self.ends.process.pid());
        drop(life);
        self.changed.notify_all();
    }

    /// Why there is no outcome.
    fn verdict(&self, life: &Life, exit: Exit) -> TaskError {
        if let Some(record) = life.link.last_words() {
            return TaskError::Panicked(Panic::new(record));
        }
        if !life.born && !life.ended_by_handle && life.link.page.stage() < Stage::Born {
            let text = life.reason.clone().unwrap_or_else(|| format!("it {}", exit.did()).into());
            return SpawnError::Birth {
                stage: life.link.page.stage().to_string().into(),
                text,
                exit: Some(exit),
            }
            .into();
        }
        TaskError::Lost(Lost {
            exit,
            pid: self.ends.process.pid(),
            worker: Arc::clone(&self.name),
            reason: life.reason.clone(),
            index: None,
            work: Work::Task,
        })
    }
}

enum Heard {
    Hello,
    Handles(usize),
    Outcome(Result<Vec<u8>, TaskError>),
    Nothing,
    Nonsense(Arc<str>),
}

fn hear(kind: u8, payload: &[u8]) -> Heard {
    let text = || String::from_utf8_lossy(payload).into_owned();
    match Up::from_kind(kind) {
        Some(Up::Value) => Heard::Outcome(Ok(payload.to_vec())),
        Some(Up::Panicked) => match codec::decode::<PanicRecord>(payload) {
            Ok(record) => Heard::Outcome(Err(TaskError::Panicked(Panic::new(record)))),
            Err(error) => Heard::Nonsense(format!("it sent a panic that cannot be read: {error}").into()),
        },
        Some(Up::Undecodable) => Heard::Outcome(Err(TaskError::Decode(Codec::new(Half::Arguments, text())))),
        Some(Up::Unencodable) => Heard::Outcome(Err(TaskError::Encode(Codec::new(Half::Result, text())))),
        Some(Up::Handles) => match message::count(payload) {
            Some(count) => Heard::Handles(count),
            None => Heard::Nonsense("it sent a frame that makes no sense".into()),
        },
        Some(Up::End) => Heard::Nothing,
        Some(Up::Hello) => match codec::decode::<Hello>(payload) {
            Ok(hello) if hello.image == image::id() => Heard::Hello,
            _ => Heard::Nonsense("it is not the same build as its parent".into()),
        },
        Some(Up::Refused) => Heard::Outcome(Err(refused(payload).into())),
        None => Heard::Nonsense(format!("it sent a frame of unknown kind {kind}").into()),
    }
}

/// A worker's refusal to live, as an error.
pub(crate) fn refused(payload: &[u8]) -> SpawnError {
    let refusal = codec::decode::<Refusal>(payload).unwrap_or_else(|error| Refusal {
        stage: "refusing".into(),
        errno: None,
        text: error.to_string(),
    });
    let stage = format!("while {}", refusal.stage).into();
    SpawnError::Birth { stage, text: refusal.text.into(), exit: None }
}

impl Source for Cell {
    fn on_ready(&self, token: u64) {
        match token {
            PROCESS => self.died(),
            CALLS | TRAY => {
                let mut life = self.life();
                life.link.flush();
                if self.watch_ways(&mut life).is_err() {
                    // Nobody would ever write the rest.
                    self.ends.process.kill_all();
                }
            }
            _ => self.listen(),
        }
    }

    fn on_deadline(&self, token: u64) {
        let mut life = self.life();
        life.alarm = None;
        let reason = match token {
            BIRTH if life.link.page.stage() < Stage::Born => {
                format!("it was not ready within {:?} and was killed", self.birth_limit)
            }
            OUTCOMES if life.outcome.is_none() => "it closed its pipe and lived on".to_owned(),
            _ => return,
        };
        life.reason = Some(reason.into());
        self.ends.process.kill_all();
    }
}
