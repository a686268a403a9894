//! The use of a queue from another process than its host's: a lane for what is quick, a socket for what must be said.

mod get;
mod put;
mod talk;

use super::Capacity;
use super::host::NotPut;
use super::item::{Ask, Note, Word, kind};
use procession_worker::ipc::lane::{Flag, Lane, Way};
use procession_worker::sys::socket;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use talk::is_gone;

pub(super) struct Client {
    lane: Lane,
    socket: OwnedFd,
    capacity: Capacity,
    local: Mutex<Local>,
    changed: Condvar,
    ids: AtomicU32,
    /// Items got here, less tasks reported done here.
    undone: AtomicU64,
}

#[derive(Default)]
struct Local {
    /// How far the rings have been written and read.
    up: u64,
    down: u64,
    /// Bits of hands in use.
    hands: u64,
    /// Threads that wait for an item.
    getters: usize,
    /// What each thread needs that waits for room.
    needs: Vec<u32>,
    /// Threads that sleep beside the one that reads.
    sleepers: usize,
    /// One of those who wait reads the socket for all.
    led: bool,
    answers: HashMap<u32, u64>,
    /// Answers that nobody waits for any more.
    unwanted: HashSet<u32>,
    /// Is one at it to send a large item? One at a time: the host finds its descriptors in the order of the frames.
    sends: bool,
    /// Large items under way, and the places where it is decided what becomes of them.
    places: BTreeMap<u32, usize>,
    fds: BTreeMap<u32, Came>,
    bell: Option<File>,
    /// How often the host has said that nothing more will come.
    overs: u64,
    gone: bool,
}

/// Descriptors of one large item, and how many there was no room for.
#[derive(Default)]
struct Came {
    fds: Vec<OwnedFd>,
    lost: usize,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Comes by a ticket.
    pub(super) fn enter(ticket: &OwnedFd, capacity: Capacity) -> io::Result<Self> {
        let lane = Lane::create()?;
        let (ours, theirs) = socket::pair()?;
        let note = Note::new(Word::Enter, 0, 0).to_bytes();
        socket::send(ticket, &note, &[theirs.as_raw_fd(), lane.as_fd().as_raw_fd()], true)?;
        Ok(Self {
            lane,
            socket: ours,
            capacity,
            local: Mutex::default(),
            changed: Condvar::new(),
            ids: AtomicU32::new(1),
            undone: AtomicU64::new(0),
        })
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u32 {
        // 0 is for those who wait.
        self.ids.fetch_add(1, Ordering::Relaxed).max(1)
    }

    // ---- what is asked ----------------------------------------------------------------------------------------------

    /// All but one handle in this process are gone: whoever waits by it is the only one here who could put.
    pub(super) fn look_again(&self) {
        let local = self.local();
        if local.getters > 0 {
            self.lane.set(Flag::Wants, 2);
            self.knock();
        }
    }

    pub(super) fn ask(&self, ask: Ask, deadline: Option<Instant>) -> Option<u64> {
        self.answer(Word::Ask, ask as u64, deadline)
    }

    /// A door of the host's for whoever has the other end.
    pub(super) fn ticket(&self) -> io::Result<OwnedFd> {
        let (host, ours) = socket::pair()?;
        match self.say(Note::new(Word::Door, 0, 0), &[host.as_raw_fd()], None) {
            Ok(_) => Ok(ours),
            Err(error) if is_gone(&error) => {
                Err(io::Error::new(io::ErrorKind::NotConnected, "the queue's process is gone"))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a frame about an item.
    pub(super) fn report(&self, kind: u8, number: u32) -> Result<(), NotPut> {
        let (mut local, room) = self.wait_for_ring(self.local(), 32, None);
        room?;
        local.up += self.lane.write_frame(Way::Up, local.up, kind, [&number.to_le_bytes(), &[]]);
        self.committed(&mut local);
        if kind == kind::LEASED {
            // The lease's end will report it.
            let _ = self.undone.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
        Ok(())
    }

    pub(super) fn task_done(&self) -> bool {
        let counted =
            self.undone.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |undone| undone.checked_sub(1));
        if counted.is_ok() {
            return self.report(kind::TASK_DONE, 0).is_ok();
        }
        self.ask(Ask::TaskDone, None) == Some(1)
    }

    /// Waits until all tasks are done.
    pub(super) fn join(&self, deadline: Option<Instant>) -> bool {
        let id = self.next_id();
        if !self.say(Note::new(Word::Ask, id, Ask::Join as u64), &[], deadline).unwrap_or(false) {
            return false;
        }
        let answer = self.await_answer(self.local(), id, deadline).1;
        if answer.is_none() {
            let _ = self.say(Note::new(Word::Withdraw, id, 0), &[], deadline);
        }
        answer.is_some()
    }

    pub(super) const fn capacity(&self) -> Capacity {
        self.capacity
    }
}
