//! The loop: hear, start, reap, tell; the only I/O of a keeper.

use super::ledger::{Ledger, Stray};
use super::protocol::{ASK, Ask, Reply, STRINGS, Stage, Start, Strings};
use super::sweep;
use crate::sys::exec::{Image, Launcher};
use crate::sys::tree::{self, OwnChildren};
use crate::sys::{E2BIG, EEXIST, EINVAL, EMFILE, SIGCONT, socket, vigil};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// So many asks in a row before the dead are looked after.
const AT_ONCE: usize = 8;
/// An owner that has not heard so much is not asked for more.
const UNSAID: usize = 1024;
/// Marks differ in so many bits within one keeper.
const MARKS: u64 = 1 << 32;

/// A program that is still to begin: the ask for it, and what came along.
#[derive(Debug)]
pub(super) struct Held {
    start: Start,
    strings: Option<Vec<u8>>,
    fds: Vec<OwnedFd>,
    fds_lost: bool,
}

/// The owner is gone, or makes no sense: the end of everything here.
struct Over;

pub(super) struct Keeper {
    pub(super) socket: OwnedFd,
    /// The owner's process.
    pub(super) owner: OwnedFd,
    pub(super) launcher: Launcher,
    pub(super) children: OwnChildren,
    /// The first mark; `None` where real-time work is limited in earnest.
    pub(super) marks: Option<u64>,
    pub(super) ledger: Ledger<OwnedFd, Held>,
    pub(super) newest: u64,
    pub(super) list: Vec<u32>,
    /// Programs that are to be killed now; those that are asked for together die together.
    pub(super) doomed: Vec<u64>,
}

impl Keeper {
    pub(super) fn run(mut self) {
        let mut message = vec![0; ASK];
        let _over = self.live(&mut message);
        self.finish();
    }

    fn live(&mut self, message: &mut [u8]) -> Over {
        self.ledger.say(Reply::Ready);
        loop {
            self.bury();
            let behind = match self.tell() {
                Ok(behind) => behind,
                Err(over) => return over,
            };
            let listens = self.ledger.unsaid() < UNSAID;
            let woken = vigil::sleep(&self.socket, listens, behind, &self.owner);
            if woken.owner_died {
                return Over;
            }
            if woken.socket && listens {
                for _ in 0..AT_ONCE {
                    match self.hear(message) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(over) => return over,
                    }
                }
                self.execute();
            }
        }
    }

    /// Carries out the next ask; false if there is none.
    fn hear(&mut self, message: &mut [u8]) -> Result<bool, Over> {
        let mut fds = Vec::new();
        let came = match socket::receive(&self.socket, message, &mut fds, false) {
            Ok(came) if came.len > 0 => came,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Ok(_) | Err(_) => return Err(Over),
        };
        match Ask::read(&message[..came.len]).ok_or(Over)? {
            Ask::Start(start, strings) => {
                self.newest = self.newest.max(start.id);
                if self.ledger.knows(start.id) {
                    self.ledger.failed(start.id, Stage::Asking, EEXIST);
                } else if self.ledger.knows(start.after) {
                    let (id, after, strings) = (start.id, start.after, strings.map(<[u8]>::to_vec));
                    self.ledger.follow(id, after, Held { start, strings, fds, fds_lost: came.fds_lost });
                } else {
                    self.begin(&start, strings, &mut fds, came.fds_lost);
                }
            }
            Ask::Recall(id) => drop(self.ledger.recall(id)),
            Ask::Signal(id, number) => sweep::signal(&self.members(id), number),
            Ask::Stop(id, number) => {
                let members = self.members(id);
                self.ledger.stop(id);
                sweep::signal(&members, number);
                sweep::signal(&members, SIGCONT);
            }
            Ask::Kill(id) => {
                self.ledger.kill(id);
                self.doomed.push(id);
            }
        }
        Ok(true)
    }

    /// Kills those who are to be killed, all by one walk.
    fn execute(&mut self) {
        let doomed = std::mem::take(&mut self.doomed);
        if !doomed.is_empty() {
            sweep::fell(|| {
                let strays = self.strays();
                doomed.iter().flat_map(|id| self.ledger.members(*id, &strays)).collect()
            });
        }
    }

    fn begin(&mut self, start: &Start, strings: Option<&[u8]>, fds: &mut Vec<OwnedFd>, fds_lost: bool) {
        match self.start(start, strings, fds, fds_lost) {
            Ok((pid, process)) => self.ledger.started(start.id, pid, process),
            Err((stage, errno)) => self.ledger.failed(start.id, stage, errno),
        }
    }

    fn start(
        &mut self,
        start: &Start,
        strings: Option<&[u8]>,
        fds: &mut Vec<OwnedFd>,
        fds_lost: bool,
    ) -> Result<(u32, OwnedFd), (Stage, i32)> {
        let apart;
        let strings = match strings {
            Some(strings) => strings,
            None => {
                let file = fds.pop().ok_or((Stage::Streams, if fds_lost { EMFILE } else { EINVAL }))?;
                apart = read_whole(&file.into())?;
                &apart
            }
        };
        if fds.len() != start.descriptors() {
            return Err((Stage::Streams, if fds_lost { EMFILE } else { EINVAL }));
        }
        let strings = Strings::check(start, strings).ok_or((Stage::Asking, EINVAL))?;
        let mut given = fds.iter();
        let streams = start.streams.map(|given_one| if given_one { given.next() } else { None });
        let passed: Vec<(&OwnedFd, RawFd)> = given.zip(start.passed.iter().copied()).collect();
        self.launcher.start(Image {
            dir: strings.dir(),
            paths: strings.paths(),
            args: strings.args(),
            env: strings.env(),
            streams,
            passed: &passed,
            limits: start.limits,
            tag: self.marks.map(|first| first + start.id % MARKS),
        })
    }

    /// Reaps who has died, sees to what they have left, and starts who is to follow them.
    fn bury(&mut self) {
        while let Some((pid, status, usage)) = vigil::death(false) {
            self.ledger.died(pid, status, usage);
        }
        if self.ledger.is_unsettled() {
            let strays = self.strays();
            if self.ledger.settle(&strays) {
                sweep::fell(|| {
                    let strays = self.strays();
                    self.ledger.doomed(&strays)
                });
            }
        }
        while let Some(mut held) = self.ledger.next_follower() {
            self.begin(&held.start, held.strings.as_deref(), &mut held.fds, held.fds_lost);
        }
    }

    /// Our children that are no programs.
    fn strays(&mut self) -> Vec<Stray> {
        self.children.read(&mut self.list);
        if self.list.len() == self.ledger.running() {
            return Vec::new();
        }
        let strays = self.list.iter().filter(|pid| !self.ledger.leads(**pid));
        strays.map(|&pid| Stray { pid, of: self.origin(pid) }).collect()
    }

    /// By its mark, whose program an orphan comes of.
    fn origin(&self, pid: u32) -> Option<u64> {
        let mark = tree::tag(pid)?.checked_sub(self.marks?).filter(|mark| *mark < MARKS)?;
        // The newest number that ends so: no program is so old that a later one has got its mark.
        self.newest.checked_sub(self.newest.wrapping_sub(mark) % MARKS)
    }

    fn members(&mut self, id: u64) -> Vec<u32> {
        let strays = self.strays();
        self.ledger.members(id, &strays)
    }

    /// Says what there is to say, as far as the owner listens; true if there is more.
    fn tell(&mut self) -> Result<bool, Over> {
        while self.ledger.unsaid() > 0 {
            let (mut bytes, mut fds) = (Vec::new(), Vec::new());
            let count = self.ledger.next_message(&mut bytes, &mut fds);
            let numbers: Vec<RawFd> = fds.into_iter().map(AsRawFd::as_raw_fd).collect();
            let mut sent = socket::send(&self.socket, &bytes, &numbers, false);
            if sent.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
                && !numbers.is_empty()
            {
                // Too many descriptors are on their way. The owner learns of the programs without.
                sent = socket::send(&self.socket, &bytes, &[], false);
            }
            match sent {
                Ok(()) => self.ledger.said(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(_) => return Err(Over),
            }
        }
        Ok(false)
    }

    /// Kills everything below, until nothing is left.
    fn finish(mut self) {
        loop {
            sweep::fell(|| {
                self.children.read(&mut self.list);
                self.list.clone()
            });
            // Each death may bring us orphans, so all are looked at again.
            if vigil::death(true).is_none() {
                return;
            }
            while vigil::death(false).is_some() {}
        }
    }
}

fn read_whole(file: &File) -> Result<Vec<u8>, (Stage, i32)> {
    let failed = |error: io::Error| (Stage::Asking, error.raw_os_error().unwrap_or(EINVAL));
    let len = usize::try_from(file.metadata().map_err(failed)?.len()).unwrap_or(usize::MAX);
    if len > STRINGS {
        return Err((Stage::Asking, E2BIG));
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}
