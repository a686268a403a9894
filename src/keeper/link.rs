//! The owner's end of a keeper: asks go out, replies come in, and its death is noticed.

use super::cell::{Cell, Life, Phase, Usage};
use crate::error::SpawnError;
use crate::program::Prepared;
use crate::reactor::{Interest, Source, Watch, reactor};
use crate::sys::pidfd::PidFd;
use crate::sys::{EIO, SIGKILL, wait};
use procession_worker::keeper::STEPS;
use procession_worker::keeper::protocol::{Ask, REPLIES, Replies, Reply};
use procession_worker::sys::{socket, tree};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Marks differ in so many bits within one keeper.
pub(super) const MARKS: u64 = 1 << 32;

pub(super) struct Link {
    me: Weak<Self>,
    pub(super) socket: OwnedFd,
    pub(super) process: PidFd,
    /// Where the keeper works.
    pub(super) home: Option<PathBuf>,
    marks: Option<u64>,
    /// How long it may take to answer.
    pub(super) patience: Duration,
    book: Mutex<Book>,
    changed: Condvar,
    /// Held from reading a message until it is understood, so that none overtakes another.
    listening: Mutex<()>,
}

#[derive(Default)]
pub(super) struct Book {
    cells: HashMap<u64, Arc<Cell>>,
    last_id: u64,
    watch: Option<Watch>,
    /// Does somebody who waits read the socket, instead of the reactor?
    led: bool,
    ready: bool,
    /// So many programs have ended.
    ends: u64,
    /// Its end is our own wish.
    closing: bool,
    end: Option<End>,
}

/// The keeper's end.
struct End {
    why: SpawnError,
    /// Whatever it had started is gone, too.
    swept: bool,
}

impl Link {
    pub(super) fn new(
        socket: OwnedFd,
        process: PidFd,
        home: Option<PathBuf>,
        marks: Option<u64>,
        patience: Duration,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            socket,
            process,
            home,
            marks,
            patience,
            book: Mutex::default(),
            changed: Condvar::new(),
            listening: Mutex::default(),
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the reactor look at the socket, and waits until the keeper is ready.
    pub(super) fn open(&self) -> Result<(), SpawnError> {
        let watching = SpawnError::system("watching the keeper");
        let reactor = match (reactor(), self.me.upgrade()) {
            (Ok(reactor), Some(me)) => reactor.add(&self.socket, Interest::Read, me, 0),
            (Err(error), _) => Err(error),
            (Ok(_), None) => return Ok(()),
        };
        self.book().watch = Some(reactor.map_err(watching)?);
        let deadline = Instant::now().checked_add(self.patience);
        let mut book = self.book();
        let mut in_time = true;
        while !book.ready && book.end.is_none() && in_time {
            (book, in_time) = wait::sleep(&self.changed, book, deadline);
        }
        match &book.end {
            Some(end) => Err(end.why.clone()),
            None if book.ready => Ok(()),
            None => Err(SpawnError::KeeperSilent(self.patience)),
        }
    }

    /// How many programs have not ended.
    pub(super) fn running(&self) -> usize {
        self.book().cells.values().filter(|cell| matches!(cell.life().phase, Phase::Running)).count()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.book().end.is_none()
    }

    /// Asks for a program. The answer is the cell's.
    pub(super) fn begin(
        &self,
        prepared: &mut Prepared,
        after: Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<Arc<Cell>, SpawnError> {
        let Some(me) = self.me.upgrade() else { return Err(self.gone("it is being dropped")) };
        let mut book = self.book();
        if let Some(end) = &book.end {
            return Err(end.why.clone());
        }
        book.last_id += 1;
        let id = book.last_id;
        let cell = Arc::new(Cell::new(id, Arc::clone(&prepared.name), prepared.limits, me));
        book.cells.insert(id, Arc::clone(&cell));
        drop(book);
        let (bytes, fds) = prepared.message(id, after);
        if let Err(error) = self.send(&bytes, &fds, deadline) {
            self.book().cells.remove(&id);
            return Err(match error.kind() {
                io::ErrorKind::TimedOut => SpawnError::KeeperSilent(self.patience),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                    let why = self.gone("it has died");
                    // Whoever asks whether it lives is not to be told so until its socket is read.
                    self.lost(why.clone());
                    why
                }
                _ => SpawnError::system("asking the keeper")(error),
            });
        }
        Ok(cell)
    }

    /// Asks for a program, and waits for the answer.
    pub(super) fn start(&self, prepared: &mut Prepared) -> Result<Arc<Cell>, SpawnError> {
        let deadline = Instant::now().checked_add(self.patience);
        let cell = self.begin(prepared, None, deadline)?;
        self.wait(&cell, deadline, |life| !matches!(life.phase, Phase::Asked));
        let mut life = cell.life();
        match &life.phase {
            Phase::Asked => {
                life.phase = Phase::Unwanted;
                Err(SpawnError::KeeperSilent(self.patience))
            }
            Phase::Failed(error) => Err(error.clone()),
            _ => {
                drop(life);
                Ok(cell)
            }
        }
    }

    /// Waits until one of the programs has ended, or so long.
    pub(super) fn wait_for_an_end(&self, limit: Duration) {
        let deadline = Instant::now().checked_add(limit);
        let book = self.book();
        let before = book.ends;
        let (mut book, mut in_time) = (book, true);
        while book.ends == before && book.end.is_none() && in_time {
            (book, in_time) = wait::sleep(&self.changed, book, deadline);
        }
    }

    fn gone(&self, how: &str) -> SpawnError {
        let why = self.book().end.as_ref().map(|end| end.why.clone());
        why.unwrap_or_else(|| {
            let text = format!("the keeper (pid {}) has gone: {how}; make a new one", self.process.pid());
            SpawnError::KeeperGone(text.into())
        })
    }

    /// Sends a message, at the deadline not at all.
    fn send(&self, bytes: &[u8], fds: &[RawFd], deadline: Option<Instant>) -> io::Result<()> {
        loop {
            match socket::send(&self.socket, bytes, fds, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let [free] = wait::ready([(self.socket.as_fd(), true)], deadline);
                    if !free && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                sent => return sent,
            }
        }
    }

    /// Asks for something that has no answer. The keeper's death is no error: it has taken the program along.
    pub(super) fn ask(&self, ask: &Ask<'_>, patience: Duration) -> io::Result<()> {
        let mut bytes = Vec::new();
        ask.write(&mut bytes);
        match self.send(&bytes, &[], Instant::now().checked_add(patience)) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            sent => sent,
        }
    }

    /// Waits until a program has come so far, or the deadline: false. The first one to wait reads the socket itself, which
    /// saves two changes of thread; the others are told.
    pub(super) fn wait(&self, cell: &Cell, deadline: Option<Instant>, done: impl Fn(&Life) -> bool) -> bool {
        loop {
            if done(&cell.life()) {
                return true;
            }
            if self.take_lead() {
                let in_time = self.lead(cell, deadline, &done);
                self.end_lead();
                if !in_time {
                    return done(&cell.life());
                }
                continue;
            }
            let life = cell.life();
            if done(&life) {
                return true;
            }
            let (life, in_time) = wait::sleep(&cell.changed, life, deadline);
            if !in_time {
                return done(&life);
            }
        }
    }

    pub(super) fn take_lead(&self) -> bool {
        let mut book = self.book();
        if book.led || book.end.is_some() {
            return false;
        }
        book.led = true;
        if let (Some(watch), Ok(reactor)) = (book.watch, reactor()) {
            reactor.modify(watch, &self.socket, Interest::Nothing);
        }
        true
    }

    pub(super) fn end_lead(&self) {
        let mut book = self.book();
        book.led = false;
        if let (Some(watch), Ok(reactor)) = (book.watch, reactor()) {
            reactor.modify(watch, &self.socket, Interest::Read);
        }
    }

    /// Reads the socket; false at the deadline.
    fn lead(&self, cell: &Cell, deadline: Option<Instant>, done: &impl Fn(&Life) -> bool) -> bool {
        loop {
            self.listen();
            if done(&cell.life()) || !self.is_alive() {
                return true;
            }
            let [_ready] = wait::ready([(self.socket.as_fd(), false)], deadline);
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.listen();
                return done(&cell.life());
            }
        }
    }

    /// Reads what the keeper has said.
    pub(super) fn listen(&self) {
        self.listen_as(false);
    }

    fn listen_as(&self, reactor: bool) {
        let one_at_a_time = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        // What was taken from under a caller who reads for himself, he would sleep beside. Whoever takes the lead after this
        // look reads once before he sleeps.
        if reactor && self.book().led {
            return;
        }
        let (mut message, mut fds) = ([0; REPLIES], Vec::new());
        let why = loop {
            match socket::receive(&self.socket, &mut message, &mut fds, false) {
                Ok(came) if came.len > 0 => {
                    let mut came_along = fds.drain(..);
                    for reply in Replies::new(&message[..came.len]) {
                        match reply {
                            Some(reply) => self.hear(reply, &mut came_along),
                            None => self.process.signal(SIGKILL).unwrap_or_default(),
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) => break self.gone("it was killed"),
                Err(error) => break self.gone(&error.to_string()),
            }
        };
        drop(one_at_a_time);
        self.lost(why);
    }

    fn hear(&self, reply: Reply, fds: &mut impl Iterator<Item = OwnedFd>) {
        let cell = |id| self.book().cells.get(&id).cloned();
        match reply {
            Reply::Ready => {
                self.book().ready = true;
                self.changed.notify_all();
            }
            Reply::Refused(step, errno) => {
                let step = STEPS.get(usize::from(step)).unwrap_or(&"starting");
                let error = io::Error::from_raw_os_error(errno);
                let why =
                    SpawnError::KeeperGone(format!("the keeper cannot live here: {step}: {error}").into());
                self.book().end.get_or_insert(End { why, swept: false });
            }
            Reply::Started { id, pid } => {
                let process = fds.next().map(|fd| PidFd::adopt(fd, pid));
                if !cell(id).is_some_and(|cell| cell.started(process)) {
                    // It listens: it has just spoken.
                    let _ = self.ask(&Ask::Kill(id), Duration::from_secs(1));
                }
            }
            Reply::Failed { id, stage, errno } => {
                let failed = self.book().cells.remove(&id);
                failed.into_iter().for_each(|cell| cell.failed(stage, errno));
            }
            Reply::Exited { id, status, usage, left } => {
                self.book().ends += 1;
                self.changed.notify_all();
                let exited = if left == 0 { self.book().cells.remove(&id) } else { cell(id) };
                exited.into_iter().for_each(|cell| cell.exited(status, Usage::from(usage), left));
            }
            Reply::Gone { id } => {
                let gone = self.book().cells.remove(&id);
                gone.into_iter().for_each(|cell| cell.gone());
            }
        }
    }

    /// The keeper is dead, or as good as. Whoever finds out first has the rest seen to.
    fn lost(&self, why: SpawnError) {
        let mut book = self.book();
        let Some(watch) = book.watch.take() else { return };
        if let Ok(reactor) = reactor() {
            reactor.remove(watch, &self.socket);
        }
        book.end.get_or_insert(End { why, swept: false });
        drop(book);
        let Some(me) = self.me.upgrade() else { return self.sweep() };
        let sweeper = std::thread::Builder::new().name("procession-sweep".into()).stack_size(256 * 1024);
        let spawned = wait::with_signals_blocked(|| sweeper.spawn(move || me.sweep()));
        if spawned.is_err() {
            self.sweep();
        }
    }

    /// Makes sure that nothing is left of a keeper that is lost, and then says so to all who wait.
    fn sweep(&self) {
        // Dead already, unless it was its own wish to leave us.
        let _ = self.process.signal(SIGKILL);
        while matches!(self.process.reap(), Ok(None)) {
            wait::ready([(self.process.as_fd(), false)], None);
        }
        if let Some(first) = self.marks {
            kill_marked(first);
        }
        let mut book = self.book();
        let by_us = book.closing;
        let why = match &mut book.end {
            Some(end) => {
                end.swept = true;
                end.why.clone()
            }
            None => SpawnError::System { stage: "losing the keeper", errno: EIO },
        };
        let cells = std::mem::take(&mut book.cells);
        drop(book);
        for cell in cells.into_values() {
            cell.lost(by_us, &why);
        }
        self.changed.notify_all();
    }

    /// Lets the keeper go, with all that it has started; waits until that is done, or so long.
    pub(super) fn close(&self, limit: Duration) {
        let deadline = Instant::now().checked_add(limit);
        self.book().closing = true;
        socket::end(&self.socket);
        let half = Instant::now().checked_add(limit / 2);
        let [mut ended] = wait::ready([(self.process.as_fd(), false)], half);
        while !ended && half.is_some_and(|half| Instant::now() < half) {
            [ended] = wait::ready([(self.process.as_fd(), false)], half);
        }
        if !ended {
            // Stopped, or stuck: its programs die with it, and what they have started is found by its marks.
            let _ = self.process.signal(SIGKILL);
            wait::ready([(self.process.as_fd(), false)], deadline);
        }
        self.listen();
        let mut book = self.book();
        let mut in_time = true;
        while !book.end.as_ref().is_some_and(|end| end.swept) && in_time {
            (book, in_time) = wait::sleep(&self.changed, book, deadline);
        }
    }
}

impl Source for Link {
    fn on_ready(&self, _token: u64) {
        self.listen_as(true);
    }

    fn on_deadline(&self, _token: u64) {}
}

/// Kills all that bear a mark of this keeper, wherever they have gone, until a look around finds nobody.
fn kill_marked(first: u64) {
    /// Only a process that is stuck in the kernel takes longer.
    const AT_MOST: Duration = Duration::from_secs(5);
    let deadline = Instant::now() + AT_MOST;
    let is_ours = |pid: &u32| tree::tag(*pid).is_some_and(|tag| (first..first + MARKS).contains(&tag));
    loop {
        let found: Vec<OwnedFd> = tree::everybody()
            .into_iter()
            .filter(is_ours)
            .filter_map(|pid| {
                let process = tree::open(pid).ok()?;
                // Asked again: between the two, the number may have become another's.
                is_ours(&pid).then_some(process)
            })
            .collect();
        let alive: Vec<&OwnedFd> = found.iter().filter(|process| !tree::has_ended(process)).collect();
        for process in &alive {
            let _ = tree::signal(process, SIGKILL);
        }
        for process in &alive {
            let _ = tree::wait_end(process, wait::millis_until(deadline).cast_signed());
        }
        // If they have become ours: this process is the subreaper above them.
        found.iter().for_each(tree::bury);
        if alive.is_empty() || deadline <= Instant::now() {
            return;
        }
    }
}
