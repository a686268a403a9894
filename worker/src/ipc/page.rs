//! The page that a parent shares with one worker: who runs what, and what is finished. `README.md` beside this file
//! has the layout and the argument.

use crate::sys::memory::{Lent, Mapping, Window, give_back, memfd, put_into};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

/// How many calls may be outstanding on one worker.
pub const SLOTS: usize = 64;
/// How many bytes of outcomes may be finished and not yet written to the pipe: what a pipe holds.
pub const RING: usize = 64 * 1024;
/// Finished bytes are written to the pipe when they are this many at the latest; what is larger goes around the ring.
pub const BATCH: u64 = RING as u64 / 2;
/// The most items in one call.
pub const MAX_ITEMS: u32 = (1 << 24) - 1;

const MAGIC: u64 = 0x70ce_5510_17a6_e001;
const AT_MAGIC: usize = 0;
const AT_NONCE: usize = 8;
const AT_PARENT: usize = 16;
const AT_STAGE: usize = 20;
const AT_COMMITTED: usize = 64;
const AT_SINCE: usize = 72;
const AT_WORDS: usize = 80;
const AT_HUNGRY: usize = 88;
const AT_CLAIMS: usize = 512;
const AT_TEXT: usize = 2048;
const AT_RING: usize = 4096;
const SIZE: usize = AT_RING + RING;
/// From here on the file holds arguments that are lent; a multiple of every page size in use.
const AT_LOANS: u64 = 1 << 20;
/// Arguments from this size on are lent.
pub const LOAN: usize = 1 << 20;

/// The most bytes of a panic's message that survive an abort.
pub const MAX_WORDS: usize = AT_RING - AT_TEXT;

/// How far a worker has come in its birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stage {
    /// Before our first line: exec, the loader, constructors that come first, or a `main` that never called `init`.
    Loading = 0,
    /// Our entry was reached.
    Entered = 1,
    /// The constructors that come later are running.
    Constructing = 2,
    /// Setting up signals and descriptors, and waiting for its first message.
    Preparing = 3,
    /// Said Hello.
    Born = 4,
}

impl Stage {
    const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Loading,
            1 => Self::Entered,
            2 => Self::Constructing,
            3 => Self::Preparing,
            _ => Self::Born,
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Loading => {
                "while the program was loading (exec, shared libraries, early constructors, or main before init())"
            }
            Self::Entered => "on entering the worker's start",
            Self::Constructing => "while constructors ran",
            Self::Preparing => "while the worker set itself up",
            Self::Born => "after the worker had said hello",
        })
    }
}

/// One claim word, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Which use of the slot this is.
    pub tag: u16,
    /// The next item to be started.
    pub next: u32,
    /// One past the last item that may be started.
    pub end: u32,
}

impl Claim {
    const fn pack(self) -> u64 {
        (self.tag as u64) << 48 | (self.next as u64 & 0xff_ffff) << 24 | (self.end as u64 & 0xff_ffff)
    }

    const fn unpack(word: u64) -> Self {
        Self {
            tag: (word >> 48) as u16,
            next: (word >> 24 & 0xff_ffff) as u32,
            end: (word & 0xff_ffff) as u32,
        }
    }
}

/// One worker's page, as either side sees it.
#[derive(Debug)]
pub struct Page {
    map: Mapping,
    file: File,
    nonce: u64,
}

impl Page {
    /// A new page; its [file](Self::file) is to be passed to the worker.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn create(nonce: u64) -> io::Result<Self> {
        let file = File::from(memfd(c"procession-page", SIZE)?);
        let page = Self { map: Mapping::new(&file, SIZE)?, file, nonce };
        page.map.word(AT_NONCE).store(nonce, Relaxed);
        page.map.half(AT_PARENT).store(std::process::id(), Relaxed);
        page.map.word(AT_MAGIC).store(MAGIC, Release);
        Ok(page)
    }

    /// The page behind a descriptor that claims to be one.
    ///
    /// # Errors
    /// It is no page, or not the one that the nonce was made for.
    pub fn open(file: OwnedFd, nonce: u64) -> io::Result<Self> {
        let page = Self { map: Mapping::new(&file, SIZE)?, file: file.into(), nonce };
        let known =
            page.map.word(AT_MAGIC).load(Acquire) == MAGIC && page.map.word(AT_NONCE).load(Relaxed) == nonce;
        if known { Ok(page) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "not a worker's page")) }
    }

    /// The number that both sides know and nobody else does; not from the page, which anybody may have written to.
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.nonce
    }

    /// What the page is a mapping of.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The parent puts arguments where the worker can see them, behind everything lent before (`behind`): where they are.
    ///
    /// # Errors
    /// ENOSPC, ENOMEM, EFBIG.
    pub fn lend(&self, behind: u64, bytes: &[u8]) -> io::Result<Range<u64>> {
        let start = behind.max(AT_LOANS).next_multiple_of(AT_LOANS);
        put_into(&self.file, start, bytes)?;
        Ok(start..start + bytes.len() as u64)
    }

    /// The parent gives back what was lent.
    pub fn take_loan_back(&self, part: Range<u64>) {
        give_back(&self.file, part);
    }

    /// The worker looks at what it was lent.
    ///
    /// # Errors
    /// There is nothing there, or ENOMEM.
    pub fn borrow(&self, at: u64, len: u64) -> io::Result<Lent> {
        Lent::new(&self.file, at, usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?)
    }

    /// Who made the page.
    #[must_use]
    pub fn parent(&self) -> u32 {
        self.map.half(AT_PARENT).load(Relaxed)
    }

    /// How far the worker's birth has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        Stage::from_word(self.map.half(AT_STAGE).load(Acquire))
    }

    /// Notes how far the birth has come.
    pub fn set_stage(&self, stage: Stage) {
        self.map.half(AT_STAGE).store(stage as u32, Release);
    }

    fn claim_at(slot: u8) -> usize {
        AT_CLAIMS + 8 * (usize::from(slot) % SLOTS)
    }

    /// The parent offers `count` items in a slot, before it writes the call.
    pub fn offer(&self, slot: u8, tag: u16, count: u32) {
        self.map.word(Self::claim_at(slot)).store(Claim { tag, next: 0, end: count }.pack(), Release);
    }

    /// What a slot's word says now; not to be believed unchecked.
    #[must_use]
    pub fn claim(&self, slot: u8) -> Claim {
        Claim::unpack(self.map.word(Self::claim_at(slot)).load(Acquire))
    }

    /// The worker takes the next item of a call: its number, or `None` when no more may be started.
    #[inline]
    #[must_use]
    pub fn take_next(&self, slot: u8, tag: u16) -> Option<u32> {
        let word = self.map.word(Self::claim_at(slot));
        let mut now = word.load(Acquire);
        loop {
            let claim = Claim::unpack(now);
            if claim.tag != tag || claim.next >= claim.end {
                return None;
            }
            let taken = Claim { next: claim.next + 1, ..claim };
            match word.compare_exchange_weak(now, taken.pack(), SeqCst, Acquire) {
                Ok(_) => return Some(claim.next),
                Err(newer) => now = newer,
            }
        }
    }

    /// The parent takes back what is not started, or the second half of it: the range taken, empty only if all is started.
    ///
    /// `None` if the word makes no sense for a call of `count` items offered with `tag`.
    #[must_use]
    pub fn take_back(&self, slot: u8, tag: u16, count: u32, halve: bool) -> Option<Range<u32>> {
        let word = self.map.word(Self::claim_at(slot));
        let mut now = word.load(Acquire);
        loop {
            let claim = Claim::unpack(now);
            if claim.tag != tag || claim.next > claim.end || claim.end > count {
                return None;
            }
            let left = claim.end - claim.next;
            let end = claim.next + if halve { left / 2 } else { 0 };
            match word.compare_exchange_weak(now, Claim { end, ..claim }.pack(), AcqRel, Acquire) {
                Ok(_) => return Some(end..claim.end),
                Err(newer) => now = newer,
            }
        }
    }

    /// When the running item was started.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.map.word(AT_SINCE).load(Acquire)
    }

    /// Notes when the running item was started.
    #[inline]
    pub fn set_since(&self, nanos: u64) {
        self.map.word(AT_SINCE).store(nanos, Release);
    }

    /// How much of the outcome stream is finished.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.map.word(AT_COMMITTED).load(Acquire)
    }

    /// Moves the mark behind what was put into the ring or written to the pipe.
    #[inline]
    pub fn commit(&self, committed: u64) {
        self.map.word(AT_COMMITTED).store(committed, Release);
    }

    /// Does somebody in the parent wait for the next outcome, rather than for many?
    #[must_use]
    #[inline]
    pub fn is_hungry(&self) -> bool {
        self.map.word(AT_HUNGRY).load(SeqCst) != 0
    }

    /// Asks for outcomes one by one, until the next batch has been written.
    pub fn set_hungry(&self, hungry: bool) {
        self.map.word(AT_HUNGRY).store(u64::from(hungry), SeqCst);
    }

    /// Copies bytes of the outcome stream, from its byte `at` on, into the ring.
    #[inline]
    pub fn put(&self, at: u64, bytes: &[u8]) {
        let start = (at % RING as u64) as usize;
        let first = bytes.len().min(RING - start);
        self.map.write(AT_RING + start, &bytes[..first]);
        if first < bytes.len() {
            self.map.write(AT_RING, &bytes[first..]);
        }
    }

    /// The ring from byte `at` of the outcome stream on, as far as it goes in one piece.
    #[inline]
    #[must_use]
    pub fn window(&self, at: u64, len: usize) -> Window<'_> {
        let start = (at % RING as u64) as usize;
        self.map.window(AT_RING + start, len.min(RING - start))
    }

    /// Writes bytes `from..to` of the outcome stream to a pipe, or some of them: how many.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn write_to(&self, pipe: impl AsFd, from: u64, to: u64) -> io::Result<usize> {
        let start = (from % RING as u64) as usize;
        self.map.write_to(pipe, AT_RING + start, ((to - from) as usize).min(RING - start))
    }

    /// The parent looks at what is finished while the worker lives: appends the stream's bytes from `from` on, and says how
    /// many. None if the worker has overtaken the look.
    pub fn peek(&self, from: u64, out: &mut Vec<u8>) -> usize {
        fence(SeqCst);
        let before = out.len();
        let committed = self.committed();
        if committed <= from || committed - from > BATCH {
            return 0;
        }
        self.get(from, committed, out);
        fence(SeqCst);
        // The worker fills the ring at most a batch beyond what it has committed, so half a ring behind that is safe.
        if self.committed().saturating_sub(from) > RING as u64 - BATCH {
            out.truncate(before);
        }
        out.len() - before
    }

    /// Appends bytes `from..to` of the outcome stream to `out`; at most a ring's length of them exist.
    pub fn get(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        let len = to.saturating_sub(from).min(RING as u64) as usize;
        let start = (from % RING as u64) as usize;
        let first = len.min(RING - start);
        self.map.read(AT_RING + start, first, out);
        self.map.read(AT_RING, len - first, out);
    }

    /// Leaves a panic's record where it outlives the process.
    pub fn leave_words(&self, words: &[u8]) {
        let len = words.len().min(MAX_WORDS);
        self.map.word(AT_WORDS).store(0, Release);
        self.map.write(AT_TEXT, &words[..len]);
        self.map.word(AT_WORDS).store(len as u64, Release);
    }

    /// Forgets the words again: what they told of was survived.
    pub fn forget_words(&self) {
        self.map.word(AT_WORDS).store(0, Release);
    }

    /// The panic's record, if one was left.
    #[must_use]
    pub fn words(&self) -> Option<Vec<u8>> {
        let len = usize::try_from(self.map.word(AT_WORDS).load(Acquire))
            .ok()
            .filter(|n| (1..=MAX_WORDS).contains(n))?;
        let mut out = Vec::new();
        self.map.read(AT_TEXT, len, &mut out);
        Some(out)
    }

    /// Overwrites the whole page with `byte`: what a wild pointer of a task may do.
    #[doc(hidden)]
    pub fn scribble(&self, byte: u8) {
        self.map.write(0, &vec![byte; SIZE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page() -> Page {
        Page::create(1).unwrap()
    }

    fn again(page: &Page) -> OwnedFd {
        page.file().try_clone().unwrap().into()
    }

    #[test]
    fn the_page_is_known_by_its_nonce() {
        let page = Page::create(42).unwrap();
        assert!(Page::open(again(&page), 42).is_ok());
        assert!(Page::open(again(&page), 43).is_err());
        assert!(Page::open(File::open("/dev/null").unwrap().into(), 42).is_err());
    }

    #[test]
    fn a_page_cannot_be_cut_short() {
        assert!(page().file().set_len(0).is_err());
    }

    #[test]
    fn what_is_lent_is_seen_by_the_other_side_and_its_memory_comes_back() {
        let parent = page();
        let worker = Page::open(again(&parent), 1).unwrap();
        let first = parent.lend(0, &[7; 5000]).unwrap();
        let second = parent.lend(first.end, &[8; 3]).unwrap();
        assert_eq!(worker.borrow(first.start, 5000).unwrap().bytes(), [7; 5000]);
        assert_eq!(worker.borrow(second.start, 3).unwrap().bytes(), [8; 3]);
        assert!(worker.borrow(second.start, 1 << 30).is_err() && worker.borrow(u64::MAX, 1).is_err());
        parent.take_loan_back(first.start..second.end);
        assert_eq!(worker.borrow(first.start, 1).unwrap().bytes(), [0]);
    }

    proptest! {
        #[test]
        fn every_item_is_claimed_or_taken_back_never_both(
            count in 0_u32..50, tag: u16, moves in prop::collection::vec((any::<bool>(), any::<bool>()), 0..100),
        ) {
            let page = page();
            page.offer(3, tag, count);
            let mut owner = vec![None; count as usize];
            for (worker, halve) in moves {
                if worker {
                    if let Some(item) = page.take_next(3, tag) {
                        prop_assert_eq!(owner[item as usize].replace("worker"), None);
                    }
                } else {
                    for item in page.take_back(3, tag, count, halve).unwrap() {
                        prop_assert_eq!(owner[item as usize].replace("parent"), None);
                    }
                }
            }
            while let Some(item) = page.take_next(3, tag) {
                prop_assert_eq!(owner[item as usize].replace("worker"), None);
            }
            prop_assert!(owner.iter().all(Option::is_some));
        }

        #[test]
        fn what_is_put_into_the_ring_is_got_out(start in 0_u64..1 << 40, bytes in prop::collection::vec(any::<u8>(), 0..RING)) {
            let page = page();
            page.put(start, &bytes);
            let mut out = Vec::new();
            page.get(start, start + bytes.len() as u64, &mut out);
            prop_assert_eq!(out, bytes);
        }

        #[test]
        fn nonsense_in_the_page_is_seen_or_harmless(byte: u8, count in 0_u32..1000, halve: bool) {
            let page = page();
            page.scribble(byte);
            if let Some(range) = page.take_back(0, 7, count, halve) {
                prop_assert!(range.end <= count);
            }
            let _ = (page.words(), page.stage(), page.claim(200));
            let mut out = Vec::new();
            page.get(page.committed(), u64::MAX, &mut out);
            prop_assert!(out.len() <= RING);
        }
    }

    #[test]
    fn two_processes_worth_of_threads_never_share_an_item() {
        let page = page();
        for round in 0..200_u16 {
            let count = 500;
            page.offer(0, round, count);
            let (mine, theirs) = std::thread::scope(|scope| {
                let worker =
                    scope.spawn(|| std::iter::from_fn(|| page.take_next(0, round)).collect::<Vec<_>>());
                let mut back = Vec::new();
                for _ in 0..20 {
                    back.extend(page.take_back(0, round, count, true).unwrap());
                }
                (worker.join().unwrap(), back)
            });
            let mut all: Vec<u32> = mine.into_iter().chain(theirs).collect();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }
}
