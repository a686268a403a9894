//! The memory that the host of a queue shares with one process that uses it: a ring of bytes in each direction, the claims
//! by which both agree who owns which item, and a few flags. The picture is in the README of the queue.
#![expect(clippy::cast_possible_truncation, reason = "words are cut into their fields")]

use crate::sys::memory::{Mapping, memfd};
use crate::wire::frame::{self, MAX_HEADER};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

/// Bytes of each ring.
pub const RING: u64 = 64 * 1024;
/// How many items of one process may be in the middle of a `get` at one time.
pub const HANDS: usize = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"prolane1");
const AT_MAGIC: usize = 0;
const AT_CLAIMS: usize = 64;
const AT_FLAGS: usize = 448;
const AT_HANDS: usize = 2048;
const AT_RINGS: usize = 4096;
const SIZE: usize = AT_RINGS + 2 * RING as usize;

/// Which way bytes go. Each has its ring, and two counters, on cache lines of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the host.
    Up,
    /// From the host.
    Down,
}

impl Way {
    const fn ring(self) -> usize {
        AT_RINGS + RING as usize * self as usize
    }

    const fn committed(self) -> usize {
        192 + 128 * self as usize
    }

    const fn consumed(self) -> usize {
        256 + 128 * self as usize
    }
}

/// What both sides count and one of them gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claims {
    /// Room that the host has given for items to come; the client takes it before it puts.
    Puts,
    /// Items that lie in the ring down; the client takes them one by one.
    Gets,
}

/// A word of claims: up to `next` taken, up to `end` given. Both count on for ever, modulo 2³².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// What has been taken.
    pub next: u32,
    /// What has been given.
    pub end: u32,
}

impl Claim {
    const fn pack(self) -> u64 {
        (self.next as u64) << 32 | self.end as u64
    }

    const fn unpack(word: u64) -> Self {
        Self { next: (word >> 32) as u32, end: word as u32 }
    }

    /// Given and not taken.
    #[must_use]
    pub const fn left(self) -> u32 {
        self.end.wrapping_sub(self.next)
    }
}

/// What one side tells the other without a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// From the host: tell me what you put (or finish). 1 by a message, 2 by the bell.
    Hungry,
    /// From the host: tell me when you take an item.
    Curious,
    /// From the host: no more items are taken.
    Closed,
    /// From the host: I have nothing, and whatever comes, I shall see who wants it.
    Idle,
    /// From the client: I sleep until a message comes.
    Asleep,
    /// From the client: somebody waits for an item; 2: the only one of its process who could put. From the host: 3, it
    /// is there.
    Wants,
    /// From the client: so much room is needed for a put.
    Needs,
    /// From the client: I have told that the ring fills up.
    Told,
}

/// One lane, as either side sees it.
#[derive(Debug)]
pub struct Lane {
    map: Mapping,
    file: File,
}

impl Lane {
    /// A new lane.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn create() -> io::Result<Self> {
        let file = File::from(memfd(c"procession-lane", SIZE)?);
        let lane = Self { map: Mapping::new(&file, SIZE)?, file };
        lane.map.word(AT_MAGIC).store(MAGIC, Release);
        Ok(lane)
    }

    /// The lane behind a descriptor that claims to be one.
    ///
    /// # Errors
    /// It is none, or ENOMEM.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let lane = Self { map: Mapping::new(&file, SIZE)?, file: file.into() };
        if lane.map.word(AT_MAGIC).load(Acquire) == MAGIC {
            Ok(lane)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "not a queue's lane"))
        }
    }

    // ---- flags ----------------------------------------------------------------------------------------------------

    fn flag(&self, flag: Flag) -> &AtomicU32 {
        self.map.half(AT_FLAGS + 64 * flag as usize)
    }

    /// Sets a flag; what either side did before is seen by whoever sees the flag, and what it does then is not done before.
    pub fn set(&self, flag: Flag, value: u32) {
        self.flag(flag).store(value, SeqCst);
        fence(SeqCst);
    }

    /// What a flag says.
    #[must_use]
    pub fn get(&self, flag: Flag) -> u32 {
        fence(SeqCst);
        self.flag(flag).load(SeqCst)
    }

    /// Takes a flag down: what it said. What was done before is seen by whoever set it, or it is seen here.
    #[inline]
    #[must_use]
    pub fn take(&self, flag: Flag) -> u32 {
        fence(SeqCst);
        let flag = self.flag(flag);
        if flag.load(Relaxed) == 0 { 0 } else { flag.swap(0, SeqCst) }
    }

    // ---- claims ---------------------------------------------------------------------------------------------------

    fn claims(&self, claims: Claims) -> &AtomicU64 {
        self.map.word(AT_CLAIMS + 64 * claims as usize)
    }

    /// How a claim stands; not to be believed unchecked.
    #[must_use]
    pub fn claim(&self, claims: Claims) -> Claim {
        Claim::unpack(self.claims(claims).load(SeqCst))
    }

    /// The client takes `count`; the number of the first, or `None` if so many are not there.
    #[inline]
    #[must_use]
    pub fn claim_next(&self, claims: Claims, count: u32) -> Option<u32> {
        let word = self.claims(claims);
        let mut now = word.load(Acquire);
        loop {
            let claim = Claim::unpack(now);
            if claim.left() < count {
                return None;
            }
            let taken = Claim { next: claim.next.wrapping_add(count), ..claim };
            match word.compare_exchange_weak(now, taken.pack(), SeqCst, Acquire) {
                Ok(_) => return Some(claim.next),
                Err(newer) => now = newer,
            }
        }
    }

    /// The client gives back what it has just taken.
    pub fn unclaim(&self, claims: Claims, count: u32) {
        let word = self.claims(claims);
        let mut now = word.load(Acquire);
        loop {
            let claim = Claim::unpack(now);
            let back = Claim { next: claim.next.wrapping_sub(count), ..claim };
            match word.compare_exchange_weak(now, back.pack(), SeqCst, Acquire) {
                Ok(_) => return,
                Err(newer) => now = newer,
            }
        }
    }

    /// The host gives `count` more.
    pub fn give(&self, claims: Claims, count: u32) {
        let word = self.claims(claims);
        // The client changes the other half at any time.
        let mut now = word.load(Acquire);
        loop {
            let claim = Claim::unpack(now);
            let given = Claim { end: claim.end.wrapping_add(count), ..claim };
            match word.compare_exchange_weak(now, given.pack(), SeqCst, Acquire) {
                Ok(_) => return,
                Err(newer) => now = newer,
            }
        }
    }

    /// The host takes back at most `count` of what has not been taken: how much that is.
    pub fn take_back(&self, claims: Claims, count: u32) -> u32 {
        let word = self.claims(claims);
        let mut now = word.load(Acquire);
        loop {
            let claim = Claim::unpack(now);
            let back = claim.left().min(count);
            let kept = Claim { end: claim.end.wrapping_sub(back), ..claim };
            match word.compare_exchange_weak(now, kept.pack(), SeqCst, Acquire) {
                Ok(_) => return back,
                Err(newer) => now = newer,
            }
        }
    }

    // ---- hands ----------------------------------------------------------------------------------------------------

    /// The client notes, before it takes item `number`, in which hand.
    #[inline]
    pub fn set_hand(&self, hand: usize, number: u32) {
        self.map.half(AT_HANDS + 64 + 4 * (hand % HANDS)).store(number, Relaxed);
    }

    /// Which hands are full: a bit for each.
    #[inline]
    pub fn set_hands(&self, full: u64) {
        self.map.word(AT_HANDS).store(full, SeqCst);
    }

    /// The items in hand, as the client says.
    #[must_use]
    pub fn hands(&self) -> Vec<u32> {
        let full = self.map.word(AT_HANDS).load(SeqCst);
        let hands = (0..HANDS).filter(|hand| full >> hand & 1 != 0);
        hands.map(|hand| self.map.half(AT_HANDS + 64 + 4 * hand).load(Relaxed)).collect()
    }

    // ---- rings ----------------------------------------------------------------------------------------------------

    /// How many bytes have been put into a ring, ever.
    #[must_use]
    pub fn committed(&self, way: Way) -> u64 {
        self.map.word(way.committed()).load(Acquire)
    }

    /// The writer moves the mark.
    #[inline]
    pub fn commit(&self, way: Way, committed: u64) {
        self.map.word(way.committed()).store(committed, Release);
    }

    /// How many bytes of a ring have been taken out, ever.
    #[must_use]
    pub fn consumed(&self, way: Way) -> u64 {
        self.map.word(way.consumed()).load(Acquire)
    }

    /// The reader moves the mark.
    #[inline]
    pub fn consume(&self, way: Way, consumed: u64) {
        self.map.word(way.consumed()).store(consumed, Release);
    }

    /// Copies bytes into a ring, from its byte `at` on.
    #[inline]
    pub fn write(&self, way: Way, at: u64, bytes: &[u8]) {
        let start = (at % RING) as usize;
        let first = bytes.len().min(RING as usize - start);
        self.map.write(way.ring() + start, &bytes[..first]);
        if first < bytes.len() {
            self.map.write(way.ring(), &bytes[first..]);
        }
    }

    /// Appends bytes `from..to` of a ring, at most its length, to `out`.
    pub fn read(&self, way: Way, from: u64, to: u64, out: &mut Vec<u8>) {
        let (start, len) = ((from % RING) as usize, (to - from).min(RING) as usize);
        let first = len.min(RING as usize - start);
        self.map.read(way.ring() + start, first, out);
        if first < len {
            self.map.read(way.ring(), len - first, out);
        }
    }

    /// Puts one frame into a ring at `at`: its length.
    #[inline]
    pub fn write_frame(&self, way: Way, at: u64, kind: u8, parts: [&[u8]; 2]) -> u64 {
        let mut head = [0; MAX_HEADER];
        let head_len = frame::header(&mut head, kind, parts[0].len() + parts[1].len());
        let mut end = at;
        for part in [&head[..head_len], parts[0], parts[1]] {
            self.write(way, end, part);
            end += part.len() as u64;
        }
        end - at
    }
}

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
