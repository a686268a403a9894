//! The near side of the socket: one thread that opens the door, and one for each guest. All sleep unless somebody comes.

use super::protocol::{Reply, Request, Row, event, line};
use crate::connection::{Claim, claim};
use crate::supervise::{Happening, Listener, Remote};
use crate::supervisor::Event;
use crate::sys::wait;
use interprocess::local_socket::traits::Listener as _;
use interprocess::os::unix::uds_local_socket::Listener as Door;
use procession_worker::sys::{door, socket};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// So many at a time.
const GUESTS: usize = 64;
/// Who has not asked by then goes.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest request.
const LONGEST: usize = 64 * 1024;
/// So much of what each copy printed is kept for `logs`.
const TAIL: usize = 64 * 1024;

/// A door that is ours and not open yet.
pub(crate) struct Server {
    door: Option<Door>,
    claim: Option<Claim>,
    tails: Option<Tails>,
    /// Why there is no door.
    trouble: Option<String>,
}

/// The end of what each copy printed.
type Tails = Arc<Mutex<BTreeMap<u32, VecDeque<u8>>>>;

struct Guest {
    stream: Arc<OwnedFd>,
    has_asked: bool,
}

struct Hall {
    remote: Remote,
    guests: Mutex<(u64, BTreeMap<u64, Guest>)>,
    tails: Option<Tails>,
}

impl Server {
    /// Takes the place: at `socket`, or where sockets of that name lie. If the name was not given but taken from the program, and
    /// somebody else has it, another is found; and without any place it can do, too.
    ///
    /// # Errors
    /// In words, with the remedy.
    pub(crate) fn claim(name: &str, socket: Option<&Path>, given: bool) -> Result<Self, String> {
        let claimed = match socket {
            Some(path) => {
                claim(path, 0o600).map_err(|error| format!("cannot listen at {}: {error}", path.display()))
            }
            None => Self::open_named(name, given),
        };
        match claimed {
            Ok((door, claim)) => {
                Ok(Self { door: Some(door), claim: Some(claim), tails: None, trouble: None })
            }
            Err(text) if given => Err(text),
            Err(text) => Ok(Self { door: None, claim: None, tails: None, trouble: Some(text) }),
        }
    }

    /// Keeps the last of what copies print, for `logs`.
    pub(crate) fn keep_tails(&mut self) -> Listener {
        let tails = Arc::clone(self.tails.insert(Tails::default()));
        Box::new(move |printed| {
            let Some((id, text)) = printed else { return true };
            let mut tails = tails.lock().unwrap_or_else(PoisonError::into_inner);
            let tail = tails.entry(id).or_default();
            let fits = &text[text.len().saturating_sub(TAIL)..];
            let surplus = (tail.len() + fits.len()).saturating_sub(TAIL);
            tail.drain(..surplus.min(tail.len()));
            tail.extend(fits);
            true
        })
    }

    /// Opens the door to all.
    ///
    /// # Errors
    /// No thread is to be had.
    pub(crate) fn open(&mut self, remote: Remote) -> io::Result<()> {
        if let Some(text) = self.trouble.take() {
            remote.warn(format!("{text}; nobody can talk to this run"));
        }
        let Some(door) = self.door.take() else { return Ok(()) };
        let hall = Arc::new(Hall { remote, guests: Mutex::default(), tails: self.tails.clone() });
        let thread = std::thread::Builder::new().name("procession-door".into()).stack_size(256 * 1024);
        wait::with_signals_blocked(|| thread.spawn(move || hall.open_to_all(&door))).map(drop)
    }

    fn open_named(name: &str, given: bool) -> Result<(Door, Claim), String> {
        let dir =
            super::dir().map_err(|error| format!("no place for a socket: {error}; give one by --socket"))?;
        let path = |name: &str| -> PathBuf { dir.join(format!("{name}.sock")) };
        match claim(&path(name), 0o600) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && !given => {
                claim(&path(&format!("{name}-{}", std::process::id())), 0o600)
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(format!("{name} runs already; give this one another --name, or stop that one: procession stop {name}"));
            }
            opened => opened,
        }
        .map_err(|error| format!("cannot listen at {}: {error}", path(name).display()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Here, while its door is still held by its thread: nobody else can have taken the place.
        drop(self.claim.take());
    }
}

impl Hall {
    fn guests(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Guest>)> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_to_all(self: &Arc<Self>, door: &Door) {
        // When no descriptors are left, this one makes place to send a guest away; else the door would never be quiet again.
        let mut spare = File::open("/dev/null").ok();
        while wait::any_ready(&[door], None).is_ok() {
            match door.accept() {
                Ok(stream) => self.let_in(Arc::new(OwnedFd::from(stream))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    drop(spare.take());
                    drop(door.accept());
                    spare = File::open("/dev/null").ok();
                }
            }
        }
    }

    fn let_in(self: &Arc<Self>, stream: Arc<OwnedFd>) {
        let is_ours = |who: door::Credentials| who.uid == door::own_uid() || who.uid == 0;
        if !door::credentials(&stream).is_ok_and(is_ours) {
            return;
        }
        let mut guests = self.guests();
        if guests.1.len() >= GUESTS {
            let silent = guests.1.iter().find(|(_, guest)| !guest.has_asked).map(|(&key, _)| key);
            let Some(silent) = silent else { return };
            // Its thread sees the end of it, and goes.
            guests.1.remove(&silent).into_iter().for_each(|guest| socket::end(&guest.stream));
        }
        guests.0 += 1;
        let key = guests.0;
        guests.1.insert(key, Guest { stream: Arc::clone(&stream), has_asked: false });
        drop(guests);
        let hall = Arc::clone(self);
        let thread = std::thread::Builder::new().name("procession-guest".into()).stack_size(256 * 1024);
        let serving = wait::with_signals_blocked(|| {
            thread.spawn(move || {
                hall.serve(key, &stream);
                hall.guests().1.remove(&key);
            })
        });
        if serving.is_err() {
            self.guests().1.remove(&key);
        }
    }

    fn serve(&self, key: u64, stream: &Arc<OwnedFd>) {
        let Some(said) = hear(stream) else { return };
        self.guests().1.get_mut(&key).into_iter().for_each(|guest| guest.has_asked = true);
        let answer = match serde_json::from_slice(&said) {
            Ok(request) => self.answer(request, stream),
            Err(error) => Err(format!("not understood: {error}")),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(bytes)) => drop(say(stream, &bytes)),
            Err(text) => drop(say(stream, &line(&Reply::Error(text)))),
        }
    }

    /// `None`: everything is said.
    fn answer(&self, request: Request, stream: &Arc<OwnedFd>) -> Result<Option<Vec<u8>>, String> {
        let done = line(&Reply::Done(true));
        match request {
            Request::Status => {
                let rows = self.remote.status().into_iter().map(|row| line(&Reply::Row(Row::from(row))));
                return Ok(Some(rows.chain([done]).flatten().collect()));
            }
            Request::Stop { ids } if ids.is_empty() => {
                // Said first: afterwards there may be nobody to say it.
                let said = say(stream, &done);
                self.remote.event(Event::Stop);
                return if said { Ok(None) } else { Err("the answer found no way".into()) };
            }
            Request::Stop { ids } => self.remote.event(Event::Rest(self.known(ids)?)),
            Request::Restart { ids } => self.remote.event(Event::Restart(self.known(ids)?)),
            Request::Start { ids } => self.remote.event(Event::Start(self.known(ids)?)),
            Request::Scale { copies } if copies > 10_000 => {
                return Err(format!(
                    "{copies} copies are more than 10000: start another run beside this one"
                ));
            }
            Request::Scale { copies } => self.remote.event(Event::Scale(copies)),
            Request::Signal { signal, .. } if !(1..=64).contains(&signal) => {
                return Err(format!("there is no signal {signal}; kill -l lists them"));
            }
            Request::Signal { ids, signal } => self.remote.signal(self.known(ids)?, signal),
            Request::Events => {
                self.follow_events(stream);
                return Ok(None);
            }
            Request::Logs { ids, lines, follow } => {
                self.logs(&self.known(ids)?, lines, follow, stream)?;
                return Ok(None);
            }
        }
        Ok(Some(done))
    }

    /// All if none are named; all of them must be there.
    fn known(&self, ids: Vec<u32>) -> Result<Vec<u32>, String> {
        let all: Vec<u32> = self.remote.status().into_iter().map(|row| row.id).collect();
        match ids.iter().find(|id| !all.contains(id)) {
            Some(id) => {
                let name = self.remote.name();
                Err(format!("{name} has no copy {id}; procession status {name} lists them"))
            }
            None if ids.is_empty() => Ok(all),
            None => Ok(ids),
        }
    }

    fn follow_events(&self, stream: &Arc<OwnedFd>) {
        if !say(stream, &line(&Reply::Done(true))) {
            return;
        }
        let guest = Arc::downgrade(stream);
        self.remote.observe(Box::new(move |happening: Option<&Happening>| {
            let Some(stream) = guest.upgrade() else { return false };
            happening.is_none_or(|happening| say_at_once(&stream, &event(happening)))
        }));
        wait_for_end(stream);
    }

    fn logs(&self, ids: &[u32], lines: usize, follow: bool, stream: &Arc<OwnedFd>) -> Result<(), String> {
        let name = self.remote.name().to_owned();
        let Some(tails) = &self.tails else {
            return Err(format!(
                "{name} prints where procession does not see it; run it with --output lines or --log-dir DIR"
            ));
        };
        let tag = |id: u32| if ids.len() > 1 { format!("{name}:{id} | ") } else { String::new() };
        let tags: BTreeMap<u32, String> = ids.iter().map(|&id| (id, tag(id))).collect();
        let done = line(&Reply::Done(true));
        if !follow {
            say(stream, &[done, last_lines(tails, &tags, lines)].concat());
            return Ok(());
        }
        let follower = Arc::new(Mutex::new(Follower::default()));
        let (send, kept) = channel();
        let (guest, tails) = (Arc::downgrade(stream), Arc::clone(tails));
        let theirs = Arc::clone(&follower);
        self.remote.listen(Box::new(move |printed| match printed {
            // Asked for in the thread that all lines pass: none can be in neither, and none in both.
            None => send.send(last_lines(&tails, &tags, lines)).is_ok(),
            Some((id, text)) => follow_one(&guest, &theirs, &tags, id, text),
        }));
        // It is over before it has begun when there is no more to come.
        let Ok(kept) = kept.recv() else { return Ok(()) };
        let mut text = [done, kept].concat();
        loop {
            if !say(stream, &text) {
                return Ok(());
            }
            let mut follower = follower.lock().unwrap_or_else(PoisonError::into_inner);
            text = std::mem::take(&mut follower.waiting);
            follower.is_up_to_date = text.is_empty();
            if text.is_empty() {
                break;
            }
        }
        wait_for_end(stream);
        Ok(())
    }
}

/// One who follows what copies print.
#[derive(Default)]
struct Follower {
    /// It has what was kept, and takes the rest as it comes.
    is_up_to_date: bool,
    waiting: Vec<u8>,
}

/// So much may wait until it has what was kept.
const WAITING: usize = 1 << 20;

fn last_lines(tails: &Tails, tags: &BTreeMap<u32, String>, lines: usize) -> Vec<u8> {
    let kept = tails.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = Vec::new();
    for (id, tail) in kept.iter() {
        let Some(tag) = tags.get(id) else { continue };
        let bytes: Vec<u8> = tail.iter().copied().collect();
        let all: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
        for one in &all[all.len().saturating_sub(lines)..] {
            text.extend_from_slice(tag.as_bytes());
            text.extend_from_slice(one);
        }
    }
    text
}

fn follow_one(
    guest: &Weak<OwnedFd>,
    follower: &Mutex<Follower>,
    tags: &BTreeMap<u32, String>,
    id: u32,
    text: &[u8],
) -> bool {
    let Some(stream) = guest.upgrade() else { return false };
    let Some(tag) = tags.get(&id) else { return true };
    let lines = text.split_inclusive(|&b| b == b'\n');
    let tagged: Vec<u8> = lines.flat_map(|line| [tag.as_bytes(), line].concat()).collect();
    let mut follower = follower.lock().unwrap_or_else(PoisonError::into_inner);
    if follower.is_up_to_date {
        return say_at_once(&stream, &tagged);
    }
    follower.waiting.extend_from_slice(&tagged);
    let fits = follower.waiting.len() <= WAITING;
    if !fits {
        socket::end(&stream);
    }
    fits
}

/// A request, if one comes in time.
fn hear(stream: &OwnedFd) -> Option<Vec<u8>> {
    let (mut said, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while said.last() != Some(&b'\n') {
        if said.len() > LONGEST || !socket::wait(stream, false, Some(deadline)).ok()? {
            return None;
        }
        match socket::read(stream, &mut said, LONGEST, false) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    Some(said)
}

/// Says all of it, to one who takes it within a while.
fn say(stream: &OwnedFd, mut bytes: &[u8]) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        match socket::write(stream, bytes, false) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !socket::wait(stream, true, Some(deadline)).unwrap_or(false) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// Says it if there is room for all of it; else the guest is too slow, and goes.
fn say_at_once(stream: &OwnedFd, bytes: &[u8]) -> bool {
    let said = socket::write(stream, bytes, false).is_ok_and(|written| written == bytes.len());
    if !said {
        socket::end(stream);
    }
    said
}

/// Until the guest goes: it has nothing more to say.
fn wait_for_end(stream: &Arc<OwnedFd>) {
    let mut said = Vec::new();
    while socket::wait(stream.as_fd(), false, None).is_ok() {
        said.clear();
        match socket::read(stream, &mut said, 4096, false) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}
