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

/// How many large items of one process may be on their way at one time.
pub const PLACES: usize = 64;
/// More than any frame's header.
const HEAD: usize = 16;

const MAGIC: u64 = u64::from_le_bytes(*b"prolane1");
const AT_MAGIC: usize = 0;
const AT_CLAIMS: usize = 64;
const AT_FLAGS: usize = 448;
const AT_HANDS: usize = 2048;
const AT_PLACES: usize = 3072;
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

    // ---- places ---------------------------------------------------------------------------------------------------

    fn place(&self, place: usize) -> &AtomicU32 {
        self.map.half(AT_PLACES + 4 * (place % PLACES))
    }

    /// The client sends a large item, of which nothing is decided yet.
    pub fn open_place(&self, place: usize) {
        self.place(place).store(0, SeqCst);
    }

    /// What becomes of it is decided once, by whoever is first: the host takes it in, or its sender takes it back. What was
    /// decided, by either.
    pub fn decide(&self, place: usize, fate: u32) -> u32 {
        self.place(place).compare_exchange(0, fate, SeqCst, SeqCst).map_or_else(|other| other, |_| fate)
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
        let (start, len) = ((from % RING) as usize, to.saturating_sub(from).min(RING) as usize);
        let first = len.min(RING as usize - start);
        self.map.read(way.ring() + start, first, out);
        if first < len {
            self.map.read(way.ring(), len - first, out);
        }
    }

    /// The frame that begins at byte `from` of a ring: its kind, its payload, and where the next one begins. `None` if no whole
    /// one lies there, whatever the writer says.
    #[must_use]
    pub fn frame(&self, way: Way, from: u64) -> Option<(u8, Vec<u8>, u64)> {
        let there = self.committed(way).checked_sub(from).filter(|there| *there <= RING)?;
        let mut head = Vec::with_capacity(HEAD);
        self.read(way, from, from + there.min(HEAD as u64), &mut head);
        let (kind, head_len, length) = frame::parse_header(&head)?;
        let whole = length.checked_add(head_len as u64).filter(|whole| *whole <= there)?;
        let mut payload = Vec::with_capacity(length as usize);
        self.read(way, from + head_len as u64, from + whole, &mut payload);
        Some((kind, payload, from + whole))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicBool;

    /// A claim that stands anywhere.
    fn at(lane: &Lane, next: u32) {
        lane.claims(Claims::Gets).store(Claim { next, end: next }.pack(), SeqCst);
    }

    proptest! {
        /// What is written at any place, and read in any pieces, is the same.
        #[test]
        fn bytes_go_round(start in 0..4 * RING, pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20_000), 1..4)) {
            let lane = Lane::create().unwrap();
            for way in [Way::Up, Way::Down] {
                let mut at = start;
                for piece in &pieces {
                    if at + piece.len() as u64 - start > RING {
                        break;
                    }
                    lane.write(way, at, piece);
                    at += piece.len() as u64;
                    lane.commit(way, at);
                }
                let mut out = Vec::new();
                lane.read(way, start, lane.committed(way), &mut out);
                let whole: Vec<u8> = pieces.concat();
                prop_assert!(out == whole[..out.len()] && out.len() as u64 == at - start);
                lane.consume(way, at);
                prop_assert_eq!(lane.consumed(way), at);
            }
        }

        /// A frame is found where it was put, across the ring's end as well.
        #[test]
        fn frames_go_round(start in any::<u64>().prop_map(|at| at / 4), one in prop::collection::vec(any::<u8>(), 0..300), two in prop::collection::vec(any::<u8>(), 0..20_000), kind in 0..8_u8) {
            let lane = Lane::create().unwrap();
            let len = lane.write_frame(Way::Up, start, kind, [&one, &two]);
            let mut out = Vec::new();
            lane.read(Way::Up, start, start + len, &mut out);
            let (frame, whole) = frame::split(&out, RING).unwrap().unwrap();
            prop_assert_eq!((frame.kind, whole as u64), (kind, len));
            prop_assert!(frame.payload == [&one[..], &two].concat());
            lane.commit(Way::Up, start + len);
            prop_assert_eq!(lane.frame(Way::Up, start), Some((kind, [one, two].concat(), start + len)));
            lane.commit(Way::Up, start + len - 1);
            prop_assert_eq!(lane.frame(Way::Up, start), None, "not whole");
        }

        /// Whatever a peer has written, everywhere: what is read is a frame inside the ring, or none.
        #[test]
        fn a_lane_of_lies_is_read_in_bounds(
            words in prop::collection::vec((0..AT_RINGS as u64 / 8, any::<u64>()), 0..40),
            (at, bytes) in (0..2 * RING, prop::collection::vec(any::<u8>(), 0..100)),
            (from, near) in (any::<u64>(), -10..100_000_i64),
        ) {
            let lane = Lane::create().unwrap();
            for (word, value) in words {
                lane.map.word(8 * word as usize).store(value, Relaxed);
            }
            let at = at.min(2 * RING - bytes.len() as u64);
            lane.map.write(AT_RINGS + at as usize, &bytes);
            for way in [Way::Up, Way::Down] {
                lane.commit(way, from.wrapping_add_signed(near));
                for from in [from, at, lane.consumed(way)] {
                    if let Some((kind, payload, next)) = lane.frame(way, from) {
                        prop_assert!(kind < 8 && (payload.len() as u64) < next - from && next - from <= RING);
                    }
                    let mut out = Vec::new();
                    lane.read(way, from, lane.committed(way), &mut out);
                    prop_assert!(out.len() as u64 <= RING);
                    let mut rest = &out[..];
                    while let Ok(Some((_, whole))) = frame::split(rest, RING) {
                        rest = &rest[whole..];
                    }
                }
            }
            for claims in [Claims::Puts, Claims::Gets] {
                let claim = lane.claim(claims);
                prop_assert_eq!(lane.take_back(claims, u32::MAX), claim.left());
                lane.give(claims, 5);
                prop_assert_eq!(lane.claim(claims), Claim { end: claim.next.wrapping_add(5), ..claim });
            }
            prop_assert!(lane.hands().len() <= HANDS);
        }

        /// Whatever is given, taken and taken back adds up, and the counters may pass 2³² in the middle of it.
        #[test]
        fn claims_add_up(start in prop_oneof![any::<u32>(), (0..200_u32).prop_map(|n| n.wrapping_sub(100))], steps in prop::collection::vec((0..4_u8, 0..50_u32), 1..100)) {
            let lane = Lane::create().unwrap();
            at(&lane, start);
            let (mut left, mut next) = (0_u32, start);
            for (what, count) in steps {
                match what {
                    0 => {
                        lane.give(Claims::Gets, count);
                        left += count;
                    }
                    1 => {
                        let back = lane.take_back(Claims::Gets, count);
                        prop_assert_eq!(back, left.min(count));
                        left -= back;
                    }
                    2 => {
                        let first = lane.claim_next(Claims::Gets, count);
                        prop_assert_eq!(first, (left >= count).then_some(next));
                        if first.is_some() {
                            left -= count;
                            next = next.wrapping_add(count);
                        }
                    }
                    _ => if lane.claim_next(Claims::Gets, count).is_some() {
                        lane.unclaim(Claims::Gets, count);
                    },
                }
                let claim = lane.claim(Claims::Gets);
                prop_assert_eq!((claim.next, claim.left()), (next, left));
                prop_assert_eq!(lane.claim(Claims::Puts).left(), 0, "the other word");
            }
        }

        /// What is in hand is told, and nothing else.
        #[test]
        fn hands_are_told(numbers in prop::collection::vec(any::<u32>(), HANDS), full in any::<u64>()) {
            let lane = Lane::create().unwrap();
            for (hand, number) in numbers.iter().enumerate() {
                lane.set_hand(hand, *number);
            }
            lane.set_hands(full);
            let due: Vec<u32> = (0..HANDS).filter(|hand| full >> hand & 1 != 0).map(|hand| numbers[hand]).collect();
            prop_assert_eq!(lane.hands(), due);
        }
    }

    /// One side gives and takes back, the other takes: each number is got by one of them, once, while the counters pass
    /// 2³².
    #[test]
    fn each_is_got_by_one_side_and_once() {
        const COUNT: u32 = 200_000;
        let lane = Lane::create().unwrap();
        let first = 0_u32.wrapping_sub(COUNT / 2);
        at(&lane, first);
        let over = AtomicBool::new(false);
        let (taken, kept) = std::thread::scope(|scope| {
            let taker = scope.spawn(|| {
                let mut taken = Vec::new();
                loop {
                    let last = over.load(SeqCst);
                    match lane.claim_next(Claims::Gets, 1) {
                        Some(number) => taken.push(number),
                        None if last => return taken,
                        None => std::hint::spin_loop(),
                    }
                }
            });
            // What is taken back is given again later, under the same number.
            let (mut given, mut turn) = (0, 0);
            while given < COUNT {
                turn += 1;
                let more = (turn % 7).min(COUNT - given);
                lane.give(Claims::Gets, more);
                given += more;
                if turn % 3 == 0 {
                    given -= lane.take_back(Claims::Gets, turn % 5);
                }
            }
            let kept = lane.take_back(Claims::Gets, 3);
            over.store(true, SeqCst);
            (taker.join().unwrap(), kept)
        });
        assert_eq!(taken.len() as u32 + kept, COUNT);
        assert!(taken.iter().enumerate().all(|(at, number)| *number == first.wrapping_add(at as u32)));
    }

    #[test]
    fn a_place_is_decided_once() {
        let lane = Lane::create().unwrap();
        for place in 0..PLACES {
            assert_eq!((lane.decide(place, 5), lane.decide(place, 6)), (5, 5));
            lane.open_place(place);
            assert_eq!(lane.decide(place, 7), 7);
        }
        assert!(lane.hands().is_empty() && lane.committed(Way::Up) == 0);
    }

    #[test]
    fn a_flag_is_taken_once() {
        let lane = Lane::create().unwrap();
        for flag in [
            Flag::Hungry,
            Flag::Curious,
            Flag::Closed,
            Flag::Idle,
            Flag::Asleep,
            Flag::Wants,
            Flag::Needs,
            Flag::Told,
        ] {
            assert_eq!(lane.take(flag), 0);
            lane.set(flag, 2);
            assert_eq!((lane.get(flag), lane.take(flag), lane.take(flag)), (2, 2, 0));
        }
    }

    /// Each side says that it has done something, and looks whether the other waits: one of them sees the other.
    #[test]
    fn nobody_sleeps_on_a_flag_unseen() {
        let lane = Lane::create().unwrap();
        let barrier = std::sync::Barrier::new(2);
        for round in 1..=1000 {
            let (told, found) = std::thread::scope(|scope| {
                let waits = scope.spawn(|| {
                    barrier.wait();
                    lane.set(Flag::Hungry, 1);
                    lane.committed(Way::Up) == round
                });
                barrier.wait();
                lane.commit(Way::Up, round);
                let told = lane.take(Flag::Hungry) != 0;
                (told, waits.join().unwrap())
            });
            assert!(told || found, "{round}");
            let _ = lane.take(Flag::Hungry);
        }
    }

    #[test]
    fn what_is_no_lane_is_told() {
        assert!(Lane::open(memfd(c"none", 10).unwrap()).is_err());
        assert!(Lane::open(memfd(c"none", SIZE).unwrap()).is_err());
        assert!(Lane::open(File::open("/dev/null").unwrap().into()).is_err());
        let lane = Lane::create().unwrap();
        let again = Lane::open(lane.as_fd().try_clone_to_owned().unwrap()).unwrap();
        lane.set(Flag::Told, 7);
        assert_eq!(again.get(Flag::Told), 7);
    }
}
