//! The steps by which processes agree without a lock, each explored in every order that the memory model allows: what the queue's lane
//! and the beds of locks rest on. The steps are those of `worker/src/ipc/lane.rs` and `src/sync/table.rs`, one for one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use loom::sync::Arc;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::thread;

/// As `Lane::set`: what comes after it is not done before.
fn set(flag: &AtomicU32, value: u32) {
    flag.store(value, SeqCst);
    fence(SeqCst);
}

/// As `Lane::take`: what came before it is done.
fn take(flag: &AtomicU32) -> u32 {
    fence(SeqCst);
    if flag.load(Relaxed) == 0 { 0 } else { flag.swap(0, SeqCst) }
}

#[test]
fn who_puts_sees_who_waits_or_is_seen() {
    loom::model(|| {
        let shared = Arc::new((AtomicU64::new(0), AtomicU32::new(0)));
        let theirs = Arc::clone(&shared);
        // The producer: commit, and then look whether anybody is hungry.
        let producer = thread::spawn(move || {
            theirs.0.store(1, Release);
            take(&theirs.1) != 0
        });
        // The host: says that it is hungry, and then looks once more before it sleeps.
        set(&shared.1, 1);
        let seen = shared.0.load(Acquire) == 1;
        let rung = producer.join().unwrap();
        assert!(seen || rung, "it sleeps beside an item");
    });
}

#[test]
fn who_wants_knocks_or_is_seen_by_the_host_that_was_idle() {
    loom::model(|| {
        // The lane's flags: Wants, Idle (which is up at first).
        let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(1)));
        let theirs = Arc::clone(&shared);
        // The user: wants, and knocks unless the host says that it will look.
        let user = thread::spawn(move || {
            set(&theirs.0, 1);
            theirs.1.load(SeqCst) == 0
        });
        // The host has an item now: takes its word back, and looks who wants it.
        set(&shared.1, 0);
        let seen = shared.0.load(SeqCst) == 1;
        let knocked = user.join().unwrap();
        assert!(seen || knocked, "the user sleeps, and the host has an item");
    });
}

#[test]
fn who_needs_room_is_woken_or_finds_it() {
    loom::model(|| {
        // Room given; the flag Asleep.
        let shared = Arc::new((AtomicU64::new(0), AtomicU32::new(0)));
        let theirs = Arc::clone(&shared);
        let user = thread::spawn(move || {
            set(&theirs.1, 1);
            theirs.0.load(Acquire) == 1
        });
        shared.0.store(1, Release);
        let woken = take(&shared.1) != 0;
        let found = user.join().unwrap();
        assert!(woken || found, "the user sleeps, and there is room");
    });
}

/// A word of claims, as the lane packs it.
const fn pack(next: u64, end: u64) -> u64 {
    next << 32 | end
}

fn change(word: &AtomicU64, step: impl Fn(u64, u64) -> Option<(u64, u64)>) -> bool {
    let mut now = word.load(Acquire);
    loop {
        let Some((next, end)) = step(now >> 32, now & 0xffff_ffff) else { return false };
        match word.compare_exchange(now, pack(next, end), SeqCst, Acquire) {
            Ok(_) => return true,
            Err(newer) => now = newer,
        }
    }
}

#[test]
fn an_item_is_taken_or_taken_back_and_never_both() {
    loom::model(|| {
        let word = Arc::new(AtomicU64::new(pack(0, 2)));
        let theirs = Arc::clone(&word);
        let user = thread::spawn(move || {
            (0..2).filter(|_| change(&theirs, |next, end| (next < end).then_some((next + 1, end)))).count()
                as u64
        });
        let back = (0..2)
            .filter(|_| change(&word, |next, end| (next < end).then_some((next, end - 1))))
            .count() as u64;
        let taken = user.join().unwrap();
        assert_eq!(taken + back, 2, "each item once");
        let last = word.load(SeqCst);
        assert_eq!((last >> 32, last & 0xffff_ffff), (taken, taken));
    });
}

#[test]
fn a_large_item_is_taken_or_withdrawn_and_never_both() {
    loom::model(|| {
        // The ring's mark; the item's place, as somebody before it left it.
        let shared = Arc::new((AtomicU64::new(0), AtomicU32::new(9)));
        let theirs = Arc::clone(&shared);
        let putter = thread::spawn(move || {
            theirs.1.store(0, SeqCst);
            theirs.0.store(1, Release);
            theirs.1.compare_exchange(0, 2, SeqCst, SeqCst).is_ok()
        });
        let seen = shared.0.load(Acquire) == 1;
        let taken = seen && shared.1.compare_exchange(0, 1, SeqCst, SeqCst).is_ok();
        let withdrawn = putter.join().unwrap();
        assert!(!(taken && withdrawn) && (!seen || taken || withdrawn));
    });
}

#[test]
fn who_waits_beside_an_idle_host_is_seen_when_another_puts() {
    loom::model(|| {
        // Hungry, Idle; what is committed; Wants.
        let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(0), AtomicU64::new(0), AtomicU32::new(0)));
        let (put, want) = (Arc::clone(&shared), Arc::clone(&shared));
        let putter = thread::spawn(move || {
            put.2.store(1, Release);
            take(&put.0) != 0
        });
        let getter = thread::spawn(move || {
            set(&want.3, 1);
            want.1.load(SeqCst) == 0
        });
        // The host: hungry first, then a last look, and only then idle.
        set(&shared.0, 1);
        let seen = shared.2.load(Acquire) == 1;
        if !seen {
            set(&shared.1, 1);
        }
        let (told, knocked) = (putter.join().unwrap(), getter.join().unwrap());
        // Whichever it is, it looks at everything again.
        assert!(
            seen || told || knocked,
            "an item, one who waits for it, and nobody who brings them together"
        );
    });
}

/// States of a sleeper's slot.
const WAITING: u32 = 1;
const CHOSEN: u32 = 2;
const FREE: u32 = 0;

#[test]
fn a_sleeper_whose_time_has_come_is_chosen_or_gone_and_never_both() {
    loom::model(|| {
        let slot = Arc::new(AtomicU32::new(WAITING));
        let theirs = Arc::clone(&slot);
        // In the gate: chooses whoever waits.
        let chooser =
            thread::spawn(move || theirs.compare_exchange(WAITING, CHOSEN, AcqRel, Acquire).is_ok());
        // Without the gate: gives up.
        let gave_up = slot.compare_exchange(WAITING, FREE, AcqRel, Acquire).is_ok();
        assert!(chooser.join().unwrap() != gave_up);
    });
}

#[test]
fn a_bed_that_is_rung_wakes_its_sleeper_or_the_next_look() {
    loom::model(|| {
        let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let theirs = Arc::clone(&shared);
        let ringer = thread::spawn(move || {
            theirs.1.store(CHOSEN, Release);
            theirs.0.store(1, Release);
        });
        // Rung before it lay down: it does not sleep, and sees why.
        if shared.0.swap(0, AcqRel) != 0 {
            assert_eq!(shared.1.load(Acquire), CHOSEN);
        }
        ringer.join().unwrap();
    });
}
