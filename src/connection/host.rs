//! Letting clients in, many at a time: one that is silent, slow or senseless keeps nobody else out.

use super::listener::Peer;
use super::name::Claim;
use crate::sys::EMFILE;
use crate::sys::wait;
use interprocess::local_socket::traits::Listener as _;
use interprocess::os::unix::uds_local_socket::Listener as Door;
use procession_worker::sys::{door, socket};
use procession_worker::wire::connection::End;
use procession_worker::wire::handshake::{self, Host as Talk, Key, Process, Step};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many may be at the door at a time; for one more the oldest is sent away: an honest one needs no time at all.
const CROWD: usize = 128;

/// Whom to let in.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) key: Option<Key>,
    pub(super) any_user: bool,
    pub(super) patience: Duration,
}

#[derive(Debug)]
pub(super) struct Host {
    rules: Rules,
    /// The PID namespace of this process.
    space: u64,
    hall: Mutex<Hall>,
    changed: Condvar,
    /// Before the door: the name is given up while nobody else can have it.
    pub(super) claim: Claim,
    door: Door,
}

#[derive(Debug, Default)]
struct Hall {
    guests: VecDeque<Guest>,
    /// Does somebody see to the door?
    led: bool,
    turned_away: Tally,
}

/// Who was not let in.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) last: Option<Arc<str>>,
}

impl Tally {
    fn add(&mut self, peer: Peer, why: impl fmt::Display) {
        self.count += 1;
        self.last = Some(format!("pid {} of user {}: {why}", peer.pid, peer.uid).into());
    }
}

/// Somebody who has knocked and is not in yet.
#[derive(Debug)]
struct Guest {
    stream: OwnedFd,
    talk: Talk,
    peer: Peer,
    until: Instant,
}

impl AsFd for Guest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

enum Heard {
    In(End),
    Waits,
    Out(String),
}

impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }
}

impl Host {
    pub(super) fn new(door: Door, claim: Claim, rules: Rules) -> Self {
        let space = door::pid_space();
        Self { rules, space, hall: Mutex::default(), changed: Condvar::new(), door, claim }
    }

    fn hall(&self) -> MutexGuard<'_, Hall> {
        self.hall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tally(&self) -> Tally {
        self.hall().turned_away.clone()
    }

    /// Lets the next one in; `None` at the deadline. The first of those who wait sees to the door for all.
    pub(super) fn accept(&self, deadline: Option<Instant>) -> io::Result<Option<(End, Peer)>> {
        let mut hall = self.hall();
        while hall.led {
            let in_time;
            (hall, in_time) = wait::sleep(&self.changed, hall, deadline);
            if !in_time {
                return Ok(None);
            }
        }
        hall.led = true;
        let mut guests = std::mem::take(&mut hall.guests);
        drop(hall);
        let found = self.serve(&mut guests, deadline);
        let mut hall = self.hall();
        hall.guests = guests;
        hall.led = false;
        drop(hall);
        self.changed.notify_one();
        found
    }

    fn turn_away(&self, peer: Peer, why: impl fmt::Display) {
        self.hall().turned_away.add(peer, why);
    }

    fn serve(
        &self,
        guests: &mut VecDeque<Guest>,
        deadline: Option<Instant>,
    ) -> io::Result<Option<(End, Peer)>> {
        loop {
            let now = Instant::now();
            // They have come in this order, and have all had the same time.
            while guests.front().is_some_and(|guest| guest.until <= now) {
                let late = guests.pop_front().expect("just seen");
                self.turn_away(late.peer, format_args!("not done within {:?}", self.rules.patience));
            }
            let first_late = guests.front().map(|guest| guest.until);
            let wake = deadline.into_iter().chain(first_late).min();
            let mut watched: Vec<&dyn AsFd> = vec![&self.door];
            watched.extend(guests.iter().map(|guest| guest as &dyn AsFd));
            let ready = wait::any_ready(&watched, wake)?;
            // From the last to the first, so that the numbers of the others stay.
            for &at in ready.iter().rev().filter(|&&at| at > 0) {
                let guest = &mut guests[at - 1];
                match hear(guest) {
                    Ok(Heard::Waits) => {}
                    Ok(Heard::In(end)) => {
                        let peer = guest.peer;
                        guests.remove(at - 1);
                        return Ok(Some((end, peer)));
                    }
                    Ok(Heard::Out(why)) => {
                        self.turn_away(guest.peer, why);
                        guests.remove(at - 1);
                    }
                    Err(error) => {
                        guests.remove(at - 1);
                        return Err(error);
                    }
                }
            }
            if ready.first() == Some(&0) {
                self.let_in(guests)?;
            } else if ready.is_empty() && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(None);
            }
        }
    }

    /// Opens the door to all who have knocked.
    fn let_in(&self, guests: &mut VecDeque<Guest>) -> io::Result<()> {
        for _ in 0..CROWD {
            let stream = match self.door.accept() {
                Ok(stream) => OwnedFd::from(stream),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    // They must not use up our descriptors.
                    _ if error.raw_os_error() == Some(EMFILE) && !guests.is_empty() => {
                        self.make_place(guests);
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            let peer = Peer::of(door::credentials(&stream)?);
            if !self.rules.any_user && peer.uid != door::own_uid() {
                self.turn_away(peer, "another user");
                continue;
            }
            if guests.len() == CROWD {
                self.make_place(guests);
            }
            let own = Process { space: self.space, pid: std::process::id() };
            let talk = Talk::new(self.rules.key.clone(), handshake::nonce()?, own, peer.pid);
            let now = Instant::now();
            let until = now.checked_add(self.rules.patience).unwrap_or(now + FOR_EVER);
            guests.push_back(Guest { stream, talk, peer, until });
        }
        Ok(())
    }

    fn make_place(&self, guests: &mut VecDeque<Guest>) {
        if let Some(oldest) = guests.pop_front() {
            self.turn_away(oldest.peer, "too many at the door");
        }
    }
}

const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// Hears what a guest has said, and answers. An error is ours, not the guest's.
fn hear(guest: &mut Guest) -> io::Result<Heard> {
    let mut said = Vec::with_capacity(handshake::LONGEST);
    match socket::read(&guest.stream, &mut said, handshake::LONGEST, false) {
        Ok(0) => return Ok(Heard::Out("it hung up".into())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::Waits),
        Err(error) => return Ok(Heard::Out(error.to_string())),
    }
    // What is said here fits into the empty buffer of a new socket; a peer that has filled it reads nothing.
    let answer = |bytes: &[u8], fds: &[i32]| socket::send(&guest.stream, bytes, fds, false);
    match guest.talk.hear(&said) {
        Step::Hear => Ok(Heard::Waits),
        Step::Say(bytes) => match answer(&bytes, &[]) {
            Ok(()) => Ok(Heard::Waits),
            Err(error) => Ok(Heard::Out(error.to_string())),
        },
        Step::Refuse(refusal, bytes) => {
            if !bytes.is_empty() {
                let _ = answer(&bytes, &[]);
            }
            Ok(Heard::Out(refusal.to_string()))
        }
        Step::Open(bytes) => {
            let (ours, theirs) = socket::pair()?;
            match answer(&bytes, &[theirs.as_raw_fd()]) {
                Ok(()) => Ok(Heard::In(End::new(ours))),
                Err(error) => Ok(Heard::Out(error.to_string())),
            }
        }
    }
}
