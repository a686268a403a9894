//! One slot from outside: its process, if there is one, and the pipes from and to it.

use super::spill::Spill;
use crate::keeper::{Running, Usage};
use crate::sys::poller::{Interest, Poller};
use crate::sys::spawn::pipe;
use procession_worker::sys::fd;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::time::SystemTime;

/// What a task has come to.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) out: Spill,
    pub(crate) err: Spill,
    /// So much was told already, by lines.
    pub(crate) passed: u64,
    /// What was told last of each was a part of a line.
    pub(crate) torn: [bool; 2],
    pub(crate) pid: Option<u32>,
    pub(crate) started: SystemTime,
    pub(crate) usage: Usage,
    pub(crate) leaked: u32,
}

impl Product {
    pub(crate) fn new(started: SystemTime) -> Self {
        let (out, err) = (Spill::default(), Spill::default());
        Self { out, err, passed: 0, torn: [false; 2], pid: None, started, usage: Usage::default(), leaked: 0 }
    }

    /// What it costs to keep it, about.
    pub(crate) fn weight(&self) -> usize {
        const ITSELF: usize = 512;
        ITSELF + usize::try_from(self.out.len() + self.err.len()).unwrap_or(usize::MAX / 2)
    }
}

/// A pipe that serves one program after the other: when nothing is left of a program, nobody writes to it any more, and
/// what it holds is all that program's. So it costs nothing per program.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) read: OwnedFd,
    write: File,
}

impl Channel {
    /// Watched under `token`.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub(crate) fn open(poller: &Poller, token: u64) -> io::Result<Self> {
        let (read, write) = pipe()?;
        fd::set_nonblocking(&read)?;
        poller.add(&read, Interest::Read, token)?;
        Ok(Self { read, write: write.into() })
    }

    /// The end for the next program, as if new: whoever had it may have made it non-blocking.
    ///
    /// # Errors
    /// EMFILE.
    pub(crate) fn end(&self) -> io::Result<File> {
        fd::set_blocking(&self.write)?;
        self.write.try_clone()
    }
}

/// The way to a program's standard input.
#[derive(Debug)]
pub(crate) struct Inlet {
    pipe: PipeWriter,
    /// Not yet written; the first `done` bytes of the first are.
    queue: VecDeque<Box<[u8]>>,
    batch: Vec<u8>,
    done: usize,
    waits: bool,
    /// After all that it is closed.
    pub(crate) last: bool,
}

/// Small pieces are written together.
const BATCH: usize = 64 << 10;

impl Inlet {
    /// # Errors
    /// ENOSPC: the user watches too many descriptors.
    pub(crate) fn new(pipe: PipeWriter, poller: &Poller, token: u64) -> io::Result<Self> {
        fd::set_nonblocking(&pipe)?;
        poller.add(&pipe, Interest::Nothing, token)?;
        Ok(Self { pipe, queue: VecDeque::new(), batch: Vec::new(), done: 0, waits: false, last: false })
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.batch.extend_from_slice(bytes);
        if self.batch.len() >= BATCH {
            self.queue.push_back(std::mem::take(&mut self.batch).into());
        }
    }

    /// Writes what the pipe takes; true if it is to be closed now, or nobody reads it any more.
    pub(crate) fn flush(&mut self, poller: &Poller, token: u64) -> bool {
        if !self.batch.is_empty() {
            self.queue.push_back(std::mem::take(&mut self.batch).into());
        }
        while let Some(first) = self.queue.front() {
            match self.pipe.write(&first[self.done..]) {
                Ok(n) if self.done + n < first.len() => self.done += n,
                Ok(_) => {
                    self.done = 0;
                    self.queue.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !std::mem::replace(&mut self.waits, true) {
                        poller.modify(&self.pipe, Interest::Write, token);
                    }
                    return false;
                }
                // It has closed its input, or is dead: which of the two is its end's to say.
                Err(_) => return true,
            }
        }
        if std::mem::take(&mut self.waits) {
            poller.modify(&self.pipe, Interest::Nothing, token);
        }
        self.last
    }
}

/// One program, and what it says.
#[derive(Debug)]
pub(crate) struct Berth {
    pub(crate) running: Option<Running>,
    /// Its number among the programs of its slot.
    pub(crate) generation: u64,
    pub(crate) out: Option<Channel>,
    pub(crate) err: Option<Channel>,
    /// Of the task at work.
    pub(crate) product: Product,
}

impl Default for Berth {
    fn default() -> Self {
        let product = Product::new(SystemTime::UNIX_EPOCH);
        Self { running: None, generation: 0, out: None, err: None, product }
    }
}

/// One slot: the program at work, and the one that is to follow it. They take turns, for what each says must not mix.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    berths: [Berth; 2],
    turn: usize,
    /// So many programs were here.
    generation: u64,
    pub(crate) inlet: Option<Inlet>,
    /// What a long-lived worker has said of its next answer.
    pub(crate) said: Vec<u8>,
    /// In `said`, up to there, is no end of a line.
    pub(crate) searched: usize,
}

impl Seat {
    /// The program at work.
    pub(crate) const fn now(&self) -> &Berth {
        &self.berths[self.turn]
    }

    pub(crate) const fn now_mut(&mut self) -> &mut Berth {
        &mut self.berths[self.turn]
    }

    /// Which of the two is at work.
    pub(crate) const fn turn(&self) -> usize {
        self.turn
    }

    /// The one at work, or the one that is to follow.
    pub(crate) const fn berth(&mut self, at: usize) -> &mut Berth {
        &mut self.berths[(self.turn + at) % 2]
    }

    /// What the one of a turn says.
    pub(crate) const fn channel(&self, turn: usize, is_err: bool) -> Option<&Channel> {
        let berth = &self.berths[turn];
        if is_err { berth.err.as_ref() } else { berth.out.as_ref() }
    }

    /// Where a program of this number is: 0 if it is at work, 1 if it is to follow.
    pub(crate) fn place_of(&self, generation: u64) -> Option<usize> {
        (0..2).find(|at| self.berths[(self.turn + at) % 2].generation == generation)
    }

    /// A number for the next program.
    pub(crate) const fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// The program at work has gone: it is the other one's turn.
    pub(crate) const fn pass_on(&mut self) {
        self.turn = 1 - self.turn;
    }

    /// All that run or are to.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &Running> {
        self.berths.iter().filter_map(|berth| berth.running.as_ref())
    }
}
