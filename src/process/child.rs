//! A started process: look at it, wait for it, end it, take its result.

use super::body::Body;
use super::call::Call;
use super::link::{Link, Received, Way};
use super::plan::{self, Piped, Settings, Streams};
use super::roster;
use crate::Exit;
use crate::error::{Codec, Half, Lost, Panic, SpawnError, TaskError, Work};
use crate::reactor::{Alarm, Interest, Source, Watch, reactor};
use crate::sys::wait;
use crate::sys::{ECHILD, SIGINT, SIGTERM};
use procession_worker::ipc::handoff::{self, Incoming};
use procession_worker::ipc::page::Stage;
use procession_worker::sys::image;
use procession_worker::wire::codec;
use procession_worker::wire::message::{self, CallHead, Hello, PanicRecord, Refusal, Up};
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

/// A child that has closed its pipe has so long to end as well.
pub(crate) const CLOSING: Duration = Duration::from_secs(1);
/// How long `Drop` waits for a killed child; only a process stuck in the kernel takes longer.
const BURIAL: Duration = Duration::from_secs(5);

const PROCESS: u64 = 0;
const OUTCOMES: u64 = 1;
const CALLS: u64 = 2;
const TRAY: u64 = 3;
const BIRTH: u64 = 4;

/// What the reactor and the handle share.
struct Cell {
    me: Weak<Self>,
    name: Arc<str>,
    /// Outlives the link, so that the handle can be asked at any time.
    ends: Arc<super::link::Ends>,
    life: Mutex<Life>,
    changed: Condvar,
    birth_limit: Duration,
}

struct Life {
    link: Link,
    watches: [Option<Watch>; 4],
    alarm: Option<Alarm>,
    /// Does somebody who waits look at the process, instead of the reactor?
    led: bool,
    born: bool,
    /// Why we killed it, if we did.
    reason: Option<Arc<str>>,
    /// Its handle was used to end it.
    ended_by_handle: bool,
    /// What came with the outcome that is next.
    came: Option<Incoming>,
    outcome: Option<Result<(Vec<u8>, Incoming), TaskError>>,
    exit: Option<Exit>,
}

impl Cell {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn start<R>(
    call: Call,
    name: Arc<str>,
    path: Vec<u64>,
    settings: Settings,
    streams: Streams,
    birth_limit: Duration,
) -> Result<Child<R>, SpawnError> {
    let reactor = reactor().map_err(SpawnError::system("starting the reactor"))?;
    let started = if settings.is_kept() {
        spawn(call, &name, path, &settings, streams, birth_limit)
    } else {
        let (answer, answered) = mpsc::sync_channel(1);
        reactor.run_errand(move || {
            let _ = answer.send(spawn(call, &name, path, &settings, streams, birth_limit));
        });
        answered.recv().unwrap_or(Err(SpawnError::System { stage: "starting the process", errno: ECHILD }))
    };
    let (cell, [stdin, stdout, stderr]) = started?;
    Ok(Child {
        cell,
        stdin: stdin.map(|file| OwnedFd::from(file).into()),
        stdout: stdout.map(|file| OwnedFd::from(file).into()),
        stderr: stderr.map(|file| OwnedFd::from(file).into()),
        detached: false,
        result: PhantomData,
    })
}

fn spawn(
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
        cell.ends.process.kill_all();
        // Killed, so this ends; and nobody watches it.
        while cell.life().link.reap().is_none() {
            wait::ready([(cell.ends.process.as_fd(), false)], None);
        }
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
    fn wait(&self, deadline: Option<Instant>) -> Option<Exit> {
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

/// A process that was started; its result is an `R`.
///
/// # Drop
/// Kills the process with its process group (SIGKILL) and waits until it is reaped; at most 5 s, in case it is stuck in
/// the kernel. [`join`](Self::join) and [`detach`](Self::detach) are the gentler ends.
#[must_use = "dropping a child kills it; join or detach it"]
pub struct Child<R> {
    cell: Arc<Cell>,
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    detached: bool,
    result: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for Child<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("exit", &self.exit())
            .finish()
    }
}

impl<R> Child<R> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.cell.name
    }

    /// Its process id. After its end the number may belong to another process; nothing here ever signals by number.
    #[must_use]
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        self.cell.ends.process.pid()
    }

    /// Has it not ended yet?
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.exit().is_none()
    }

    /// How it ended; `None` while it lives. Does not wait.
    #[must_use]
    #[doc(alias = "exitcode")]
    pub fn exit(&self) -> Option<Exit> {
        self.cell.life().exit
    }

    /// Waits until it ends. As often as you like, from any thread; the result stays for [`join`](Self::join).
    ///
    /// # Errors
    /// None today; kept for systems where waiting can fail.
    pub fn wait(&self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.cell.wait(None) {
                return Ok(exit);
            }
        }
    }

    /// Waits until it ends, or `limit` is over: `None`.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, limit: Duration) -> io::Result<Option<Exit>> {
        Ok(self.cell.wait(Instant::now().checked_add(limit)))
    }

    /// Asks it to end: SIGTERM, to the process alone. No error if it has ended.
    ///
    /// # Errors
    /// What the system says; none is known for a child of one's own.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(SIGTERM)
    }

    /// SIGINT, to the process alone. No error if it has ended.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn interrupt(&self) -> io::Result<()> {
        self.signal(SIGINT)
    }

    /// Kills it with its process group: SIGKILL, to what it has started as well; under a
    /// [keeper](crate::Process::keeper), wherever that has gone. No error if it has ended.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> io::Result<()> {
        let mut life = self.cell.life();
        if life.exit.is_none() {
            life.ended_by_handle = true;
            self.process().kill_all();
        }
        Ok(())
    }

    fn process(&self) -> &Body {
        &self.cell.ends.process
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        self.cell.life().ended_by_handle = true;
        self.process().signal(signal)
    }

    /// The write end of its standard input, if that was piped; once.
    pub fn take_stdin(&mut self) -> Option<PipeWriter> {
        self.stdin.take()
    }

    /// The read end of its standard output, if that was piped; once.
    pub fn take_stdout(&mut self) -> Option<PipeReader> {
        self.stdout.take()
    }

    /// The read end of its standard error, if that was piped; once.
    pub fn take_stderr(&mut self) -> Option<PipeReader> {
        self.stderr.take()
    }

    /// Lets it go on by itself. It is still reaped when it ends, and still dies with this process.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl<R: DeserializeOwned> Child<R> {
    /// Waits until it ends and takes its result.
    ///
    /// Standard streams that were piped and not taken are read to nowhere meanwhile, so that the child cannot stick.
    ///
    /// # Errors
    /// It panicked, died before it had a result, never came to life, or its result could not be encoded or decoded.
    pub fn join(mut self) -> Result<R, TaskError> {
        drop(self.stdin.take());
        for mut pipe in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            // It ends with the last writer. If there is no thread to be had, the pipe is closed instead.
            let _ = std::thread::Builder::new().spawn(move || io::copy(&mut pipe, &mut io::sink()));
        }
        let _ = self.wait();
        match self.cell.life().outcome.take() {
            Some(Ok((bytes, came))) => handoff::unpack(came, || codec::decode(&bytes))
                .map_err(|error| TaskError::Decode(Codec::new(Half::Result, error))),
            Some(Err(error)) => Err(error),
            None => Err(TaskError::Closed),
        }
    }
}

impl<R> AsFd for Child<R> {
    /// Readable once the process has ended: the pidfd; under a keeper another descriptor. Python's `sentinel`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cell.ends.process.as_fd()
    }
}

impl<R> Drop for Child<R> {
    fn drop(&mut self) {
        if self.detached || !self.is_alive() {
            return;
        }
        self.process().kill_all();
        let _ = self.wait_timeout(BURIAL);
    }
}
