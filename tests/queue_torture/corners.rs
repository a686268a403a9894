//! Places where two things meet that seldom do.

use crate::support::{poll, robust};
use crate::{MINUTE, SHORT, SOON, slay};
use procession::{GetError, Process, PutError, Queue};
use serde::{Deserialize, Deserializer, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn put_heavy_in_a_hurry(queue: Queue<Vec<u8>>) {
    for n in 0..50 {
        queue.try_put(vec![n; 20_000]).unwrap();
        queue.put_timeout(vec![n; 20_000], Duration::ZERO).unwrap();
    }
}

#[test]
fn who_puts_a_large_item_in_a_hurry_does_not_wait_for_himself() {
    robust(MINUTE, || {
        let queue = Queue::new();
        Process::new(put_heavy_in_a_hurry, (queue.clone(),)).start().unwrap().join().unwrap();
        assert_eq!(queue.len(), 100);
    });
}

/// Takes its time to be decoded, until many are at it.
struct Slow;

static DECODING: AtomicUsize = AtomicUsize::new(0);

impl Serialize for Slow {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(0)
    }
}

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u8::deserialize(deserializer)?;
        DECODING.fetch_add(1, Ordering::SeqCst);
        while DECODING.load(Ordering::SeqCst) < 64 {
            thread::yield_now();
        }
        thread::sleep(SHORT);
        Ok(Self)
    }
}

fn get_by_many(queue: Queue<Slow>) {
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| queue.get().map(drop).unwrap());
        }
    });
}

#[test]
fn more_threads_than_hands_may_get() {
    robust(MINUTE, || {
        let queue = Queue::new();
        for _ in 0..100 {
            queue.put(Slow).unwrap();
        }
        Process::new(get_by_many, (queue.clone(),)).start().unwrap().join().unwrap();
        assert!(queue.is_empty());
    });
}

/// Panics while it is decoded.
struct Bomb;

impl Serialize for Bomb {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(0)
    }
}

impl<'de> Deserialize<'de> for Bomb {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("on purpose")
    }
}

fn be_bombed(queue: Queue<Bomb>, done: Queue<u8>, stay: Queue<u8>) {
    std::panic::set_hook(Box::new(|_| {}));
    for _ in 0..100 {
        let got = std::panic::catch_unwind(|| queue.get().map(drop));
        assert!(got.is_err());
    }
    done.put(1).unwrap();
    let _ = stay.get();
}

#[test]
fn a_panic_while_an_item_is_decoded_costs_that_item_alone() {
    robust(MINUTE, || {
        let (queue, done, stay) = (Queue::new(), Queue::new(), Queue::new());
        for _ in 0..100 {
            queue.put(Bomb).unwrap();
        }
        let child = Process::new(be_bombed, (queue.clone(), done.clone(), stay.clone())).start().unwrap();
        assert_eq!(done.get_timeout(SOON).unwrap(), 1);
        queue.close();
        assert!(matches!(queue.get_timeout(SOON), Err(GetError::Closed)), "somebody still has one in hand");
        stay.close();
        child.join().unwrap();
    });
}

fn put_large_beside_small(queue: Queue<Vec<u8>>) {
    thread::scope(|scope| {
        scope.spawn(|| (0..300).for_each(|_| queue.put(vec![1; 64 * 90]).unwrap()));
        scope.spawn(|| (0..3000).for_each(|_| queue.put(vec![2; 10]).unwrap()));
    });
}

#[test]
fn a_small_items_producer_does_not_make_a_large_items_forgotten() {
    robust(MINUTE, || {
        let queue = Queue::builder().max_bytes(64 * 100).build();
        let child = Process::new(put_large_beside_small, (queue.clone(),)).start().unwrap();
        for n in 0..3300 {
            assert!(queue.get_timeout(SOON).is_ok(), "{n}");
        }
        child.join().unwrap();
    });
}

fn lease_and_finish(queue: Queue<u64>) -> u64 {
    let mut count = 0;
    while let Ok(lease) = queue.lease() {
        lease.done().unwrap();
        count += 1;
    }
    count
}

#[test]
fn a_look_at_any_moment_finds_leases_in_order() {
    robust(MINUTE, || {
        let queue = Queue::new();
        let child = Process::new(lease_and_finish, (queue.clone(),)).start().unwrap();
        for n in 0..30_000 {
            queue.put(n).unwrap();
        }
        while !queue.is_empty() {}
        queue.close();
        assert_eq!(child.join().unwrap(), 30_000);
        assert!(queue.join_timeout(SOON));
    });
}

fn get_report_and_stay(queue: Queue<u8>, told: Queue<u8>) {
    told.put(queue.get().unwrap()).unwrap();
    assert!(queue.task_done());
    told.put(0).unwrap();
    procession::drill::hang();
}

#[test]
fn what_was_reported_done_is_not_counted_again_at_its_consumers_death() {
    robust(MINUTE, || {
        let (queue, told) = (Queue::new(), Queue::new());
        queue.put(1).unwrap();
        let child = Process::new(get_report_and_stay, (queue.clone(), told.clone())).start().unwrap();
        assert_eq!((told.get().unwrap(), told.get().unwrap()), (1, 0));
        assert!(queue.join_timeout(SOON));
        queue.put(2).unwrap();
        slay(&child);
        drop(child);
        assert!(!queue.join_timeout(SHORT), "the second is not done");
        assert_eq!(queue.get().unwrap(), 2);
        assert!(queue.task_done());
        queue.join();
    });
}

fn finish_a_lease_and_report(queue: Queue<u8>) -> bool {
    assert_eq!(queue.lease().unwrap().done().unwrap(), 1);
    queue.task_done()
}

#[test]
fn a_lease_that_is_done_is_not_reported_twice() {
    robust(MINUTE, || {
        let queue = Queue::new();
        queue.put(1).unwrap();
        assert!(!Process::new(finish_a_lease_and_report, (queue.clone(),)).start().unwrap().join().unwrap());
        queue.put(1).unwrap();
        assert!(!queue.join_timeout(SHORT));
    });
}

fn put_without_waiting(queue: Queue<u64>) {
    for n in 0..200_000 {
        queue.try_put(n).unwrap();
    }
}

#[test]
fn a_queue_without_a_limit_is_never_full() {
    robust(MINUTE, || {
        let queue = Queue::new();
        Process::new(put_without_waiting, (queue.clone(),)).start().unwrap().join().unwrap();
        assert_eq!(queue.len(), 200_000);
    });
}

fn put_one_and_stay(queue: Queue<Vec<u8>>, done: Queue<u8>, stay: Queue<u8>) {
    queue.put(vec![]).unwrap();
    done.put(1).unwrap();
    let _ = stay.get();
}

#[test]
fn room_that_somebody_has_and_does_not_use_is_there_for_the_host() {
    robust(MINUTE, || {
        let queue = Queue::builder().max_bytes(64 * 100).build();
        let (done, stay) = (Queue::new(), Queue::new());
        let child = Process::new(put_one_and_stay, (queue.clone(), done.clone(), stay.clone())).start();
        let child = child.unwrap();
        done.get().unwrap();
        queue.try_put(vec![0; 64 * 90]).unwrap();
        assert!(matches!(queue.try_put(vec![0; 64 * 20]), Err(PutError::Full(_))));
        stay.close();
        child.join().unwrap();
    });
}

#[test]
fn what_is_leased_here_may_come_back_after_the_close() {
    robust(MINUTE, || {
        let queue = Queue::new();
        queue.put(1).unwrap();
        let lease = queue.lease().unwrap();
        queue.close();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.get_timeout(SOON));
            thread::sleep(SHORT);
            drop(lease);
            assert_eq!(waiting.join().unwrap().unwrap(), 1);
        });
        assert!(matches!(queue.get(), Err(GetError::Closed)));
    });
}

/// Its last handles but one go while a thread waits.
fn be_left_alone(queue: Queue<u8>, sole: Queue<u8>) -> bool {
    let first = queue.clone();
    let waiting = thread::spawn(move || queue.get_timeout(SOON));
    // The host has no handle any more.
    assert!(matches!(sole.get_timeout(SOON), Err(GetError::Closed)));
    thread::sleep(SHORT);
    drop(first);
    matches!(waiting.join().unwrap(), Err(GetError::Closed))
}

#[test]
fn the_last_handle_of_a_child_waits_for_nobody() {
    robust(MINUTE, || {
        let (queue, sole) = (Queue::new(), Queue::new());
        let child = Process::new(be_left_alone, (queue.clone(), sole.clone())).start().unwrap();
        drop(queue);
        sole.close();
        assert!(child.join().unwrap());
    });
}

fn ask_for_a_join_again_and_again(queue: Queue<u8>) -> u64 {
    let memory = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
    };
    let ask = |times| (0..times).for_each(|_| assert!(!queue.join_timeout(Duration::ZERO)));
    ask(10_000);
    let before = memory();
    ask(200_000);
    memory().saturating_sub(before)
}

#[test]
fn a_join_that_was_given_up_is_forgotten() {
    robust(MINUTE, || {
        let queue = Queue::new();
        queue.put(1).unwrap();
        let child = Process::new(ask_for_a_join_again_and_again, (queue.clone(),)).start().unwrap();
        let pages = child.join().unwrap();
        assert!(pages < 200, "{pages} pages more");
    });
}

fn relay_by_many(from: Queue<u64>, to: Queue<u64>) {
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| from.iter().for_each(|item| to.put(item.unwrap()).unwrap()));
        }
    });
}

#[test]
fn many_threads_of_one_child_share_a_lane() {
    robust(MINUTE, || {
        let (from, to) = (Queue::bounded(20), Queue::bounded(20));
        let child = Process::new(relay_by_many, (from.clone(), to.clone())).start().unwrap();
        let mut seen = vec![0; 8000];
        thread::scope(|scope| {
            let from = &from;
            let feeders: Vec<_> = (0..4)
                .map(|me| scope.spawn(move || (0..2000).for_each(|n| from.put(me * 2000 + n).unwrap())))
                .collect();
            scope.spawn(move || {
                feeders.into_iter().for_each(|feeder| feeder.join().unwrap());
                from.close();
            });
            for _ in 0..8000 {
                seen[usize::try_from(to.get_timeout(SOON).unwrap()).unwrap()] += 1;
            }
        });
        child.join().unwrap();
        assert!(seen.iter().all(|&count| count == 1));
    });
}

#[test]
fn a_queue_that_is_sent_and_dropped_leaves_nothing() {
    robust(2 * MINUTE, || {
        let hub = Queue::new();
        let child = Process::new(drop_all, (hub.clone(),)).start().unwrap();
        let begin = Instant::now();
        for n in 0..10_000_u64 {
            let queue = Queue::new();
            queue.put(n).unwrap();
            hub.put(queue.clone()).unwrap();
            if n % 100 == 0 {
                poll("received", SOON, || hub.len() < 50);
            }
            assert!(begin.elapsed() < MINUTE);
        }
        hub.close();
        child.join().unwrap();
    });
}

fn drop_all(hub: Queue<Queue<u64>>) {
    hub.iter().enumerate().for_each(|(n, queue)| {
        if n % 3 == 0 {
            // The maker may have dropped its own handles: the queue lives as long as this one.
            assert!(queue.unwrap().get().is_ok());
        }
    });
}

fn host_and_hang(hub: Queue<Queue<u8>>) {
    let queue = Queue::new();
    hub.put(queue.clone()).unwrap();
    procession::drill::hang();
}

#[test]
fn who_gets_what_he_has_put_while_the_host_wants_nothing() {
    robust(MINUTE, || {
        let hub = Queue::new();
        let host = Process::new(host_and_hang, (hub.clone(),)).start().unwrap();
        let queue = hub.lease().unwrap();
        for n in 0..100 {
            queue.put(n).unwrap();
            assert_eq!(queue.get_timeout(SOON).unwrap(), n);
        }
        slay(&host);
    });
}
