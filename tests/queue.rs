//! A queue keeps what it promises: between threads, between processes, under kills.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::{Child, GetError, Pool, Process, PutError, Queue};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use support::{poll, robust};

const MINUTE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

fn slay<R>(child: &Child<R>) {
    kill(Pid::from_raw(i32::try_from(child.pid()).unwrap()), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
}

// ---- in one process ---------------------------------------------------------------------------------------------------

#[test]
fn first_in_first_out_with_exact_counts() {
    robust(MINUTE, || {
        let queue = Queue::new();
        assert!(queue.is_empty() && !queue.is_full());
        for n in 0..1000_u64 {
            queue.put(n).unwrap();
        }
        assert_eq!(queue.len(), 1000);
        for n in 0..1000 {
            assert_eq!(queue.get().unwrap(), n);
        }
        assert!(matches!(queue.try_get(), Err(GetError::Empty | GetError::Closed)));
    });
}

#[test]
fn the_only_handle_waits_for_nobody() {
    robust(MINUTE, || {
        let queue = Queue::<u8>::new();
        // Threads may share one handle, so while no other process has ever had it, nobody can be sure.
        assert!(matches!(queue.get_timeout(SHORT), Err(GetError::Empty)));
        std::thread::scope(|scope| {
            let getter = scope.spawn(|| queue.get());
            queue.put(1).unwrap();
            assert_eq!(getter.join().unwrap(), Ok(1));
        });
        let other = queue.clone();
        Process::new(|queue: Queue<u8>| drop(queue), (queue.clone(),)).start().unwrap().join().unwrap();
        assert_eq!(queue.try_get(), Err(GetError::Empty));
        let waiting = std::thread::spawn(move || queue.get());
        std::thread::sleep(SHORT);
        drop(other);
        assert_eq!(waiting.join().unwrap(), Err(GetError::Closed));
    });
}

#[test]
fn a_bounded_queue_is_full_and_says_so() {
    robust(MINUTE, || {
        let queue = Queue::bounded(2);
        queue.put("a".to_owned()).unwrap();
        queue.put("b".to_owned()).unwrap();
        assert!(queue.is_full());
        let error = queue.try_put("c".to_owned()).unwrap_err();
        assert!(matches!(error, PutError::Full(_)));
        assert_eq!(error.into_value(), "c");
        let other = queue.clone();
        let putting = std::thread::spawn(move || other.put("d".to_owned()));
        assert_eq!(queue.get().unwrap(), "a");
        putting.join().unwrap().unwrap();
        assert_eq!((queue.get().unwrap(), queue.get().unwrap()), ("b".into(), "d".into()));
    });
}

#[test]
fn a_limit_in_bytes_counts_bytes() {
    robust(MINUTE, || {
        let queue = Queue::builder().max_bytes(10_000).build();
        let large = vec![7_u8; 4000];
        queue.put(large.clone()).unwrap();
        queue.put(large.clone()).unwrap();
        assert!(matches!(queue.try_put(large.clone()), Err(PutError::Full(_))));
        queue.put(vec![1]).unwrap();
        assert!(matches!(queue.put(vec![0; 20_000]), Err(PutError::TooLarge(..))));
        assert_eq!(queue.get().unwrap(), large);
        queue.try_put(large).unwrap();
    });
}

#[test]
fn closed_is_closed_for_all_and_empty_comes_first() {
    robust(MINUTE, || {
        let queue = Queue::new();
        queue.put(1).unwrap();
        queue.close();
        assert!(matches!(queue.put(2), Err(PutError::Closed(2))));
        assert_eq!(queue.get().unwrap(), 1);
        assert!(matches!(queue.get(), Err(GetError::Closed)));
        assert_eq!(queue.iter().count(), 0);
    });
}

#[test]
fn join_waits_for_what_is_not_done() {
    robust(MINUTE, || {
        let queue = Queue::new();
        queue.join();
        queue.put(1).unwrap();
        assert!(!queue.join_timeout(SHORT));
        assert_eq!(queue.get().unwrap(), 1);
        assert!(!queue.join_timeout(SHORT));
        assert!(queue.task_done());
        queue.join();
        assert!(!queue.task_done(), "called too many times");
    });
}

#[test]
fn a_lease_comes_back_unless_it_is_done() {
    robust(MINUTE, || {
        let queue = Queue::new();
        queue.put(1).unwrap();
        queue.put(2).unwrap();
        let lease = queue.lease().unwrap();
        assert_eq!((*lease, queue.len()), (1, 1));
        drop(lease);
        assert_eq!(queue.lease().unwrap().done().unwrap(), 1);
        assert_eq!(queue.get().unwrap(), 2);
        queue.task_done();
        queue.join();
    });
}

// ---- between processes ------------------------------------------------------------------------------------------------

fn echo(questions: Queue<u64>, answers: Queue<u64>) {
    for n in questions.iter() {
        answers.put(n.unwrap() + 1).unwrap();
    }
}

#[test]
fn there_and_back_again() {
    robust(MINUTE, || {
        let (there, back) = (Queue::new(), Queue::new());
        let child = Process::new(echo, (there.clone(), back.clone())).start().unwrap();
        for n in 0..2000 {
            there.put(n).unwrap();
            assert_eq!(back.get().unwrap(), n + 1);
        }
        there.close();
        child.join().unwrap();
        assert!(back.is_empty());
    });
}

fn produce(queue: Queue<(u64, u64)>, me: u64, count: u64) {
    for n in 0..count {
        queue.put((me, n)).unwrap();
    }
}

#[test]
fn producers_may_end_before_anything_is_read() {
    robust(MINUTE, || {
        let queue = Queue::new();
        let children: Vec<_> =
            (0..3).map(|me| Process::new(produce, (queue.clone(), me, 30_000)).start().unwrap()).collect();
        for child in children {
            child.join().unwrap();
        }
        assert_eq!(queue.len(), 90_000);
        let mut next = [0; 3];
        while let Ok((me, n)) = queue.get() {
            assert_eq!(next[usize::try_from(me).unwrap()], n, "each producer's items keep their order");
            next[usize::try_from(me).unwrap()] += 1;
        }
        assert_eq!(next, [30_000; 3]);
    });
}

fn relay(from: Queue<u64>, to: Queue<u64>) -> u64 {
    let mut count = 0;
    for n in from.iter() {
        to.put(n.unwrap()).unwrap();
        count += 1;
    }
    count
}

#[test]
fn many_consumers_get_everything_once() {
    robust(MINUTE, || {
        let (from, to) = (Queue::new(), Queue::new());
        let children: Vec<_> =
            (0..4).map(|_| Process::new(relay, (from.clone(), to.clone())).start().unwrap()).collect();
        for n in 0..50_000_u64 {
            from.put(n).unwrap();
        }
        from.close();
        let total: u64 = children.into_iter().map(|child| child.join().unwrap()).sum();
        assert_eq!((total, to.len()), (50_000, 50_000));
        let all: HashSet<u64> = std::iter::from_fn(|| to.try_get().ok()).collect();
        assert_eq!(all.len(), 50_000);
    });
}

#[test]
fn a_small_bound_between_processes_holds() {
    robust(MINUTE, || {
        let (from, to) = (Queue::bounded(3), Queue::bounded(2));
        let children: Vec<_> =
            (0..2).map(|_| Process::new(relay, (from.clone(), to.clone())).start().unwrap()).collect();
        let feeder = {
            let from = from.clone();
            std::thread::spawn(move || {
                for n in 0..3000_u64 {
                    from.put(n).unwrap();
                }
                from.close();
            })
        };
        let mut all = HashSet::new();
        for _ in 0..3000 {
            assert!(to.len() <= 2);
            assert!(all.insert(to.get().unwrap()));
        }
        feeder.join().unwrap();
        for child in children {
            child.join().unwrap();
        }
    });
}

fn big(queue: Queue<Vec<u8>>, back: Queue<Vec<u8>>) {
    for bytes in queue.iter() {
        back.put(bytes.unwrap()).unwrap();
    }
}

#[test]
fn items_of_any_size_arrive_whole() {
    robust(MINUTE, || {
        let (there, back) = (Queue::new(), Queue::new());
        let child = Process::new(big, (there.clone(), back.clone())).start().unwrap();
        for size in [0, 1, 15, 16, 1000, 16_000, 16_384, 16_400, 65_536, 1 << 20, (3 << 20) + 3] {
            let bytes: Vec<u8> = (0..size).map(|n: usize| (n * 31 % 251) as u8).collect();
            there.put(bytes.clone()).unwrap();
            assert!(back.get().unwrap() == bytes, "{size}");
        }
        there.close();
        child.join().unwrap();
    });
}

fn through(queue: Queue<Queue<u64>>) {
    for inner in queue.iter() {
        inner.unwrap().put(5).unwrap();
    }
}

#[test]
fn a_queue_travels_through_a_queue_and_to_grandchildren() {
    robust(MINUTE, || {
        let outer = Queue::new();
        let child = Process::new(through, (outer.clone(),)).start().unwrap();
        for _ in 0..20 {
            let inner = Queue::new();
            outer.put(inner.clone()).unwrap();
            assert_eq!(inner.get().unwrap(), 5);
        }
        outer.close();
        child.join().unwrap();
        let queue = Queue::new();
        let pool = Pool::new(2).unwrap();
        let grand = |queue: Queue<u64>| {
            Process::new(|queue: Queue<u64>| queue.put(7).unwrap(), (queue,))
                .start()
                .unwrap()
                .join()
                .unwrap();
        };
        pool.map(grand, (0..4).map(|_| queue.clone())).unwrap();
        assert_eq!(queue.len(), 4);
        // Made by a worker, and used here for as long as that lives.
        let made = pool
            .apply(
                || {
                    let queue = Queue::new();
                    queue.put(1_u8).unwrap();
                    (queue.clone(), KEPT.set(queue).is_ok())
                },
                (),
            )
            .unwrap();
        assert_eq!(made.0.get().unwrap(), 1);
        drop(pool);
        assert!(matches!(made.0.get(), Err(GetError::Gone)));
        assert!(matches!(made.0.put(1), Err(PutError::Gone(1))));
    });
}

static KEPT: std::sync::OnceLock<Queue<u8>> = std::sync::OnceLock::new();

// ---- under kills ------------------------------------------------------------------------------------------------------

fn put_for_ever(queue: Queue<(u64, u64)>, me: u64) {
    for n in 0.. {
        queue.put((me, n)).unwrap();
    }
}

#[test]
fn a_killed_producer_costs_nothing_that_was_put() {
    robust(MINUTE, || {
        let queue = Queue::new();
        for me in 0..20 {
            let child = Process::new(put_for_ever, (queue.clone(), me)).start().unwrap();
            assert_eq!(queue.get().unwrap(), (me, 0));
            slay(&child);
            drop(child);
            let mut next = 1;
            while let Ok(item) = queue.get() {
                assert_eq!(item, (me, next));
                next += 1;
            }
        }
    });
}

fn take_some_and_hang(queue: Queue<u64>, got: Queue<u64>) {
    loop {
        got.put(queue.get().unwrap()).unwrap();
    }
}

#[test]
fn a_killed_consumer_costs_at_most_what_it_had_got() {
    robust(MINUTE, || {
        for round in 0..20_u64 {
            let (queue, got) = (Queue::new(), Queue::new());
            let child = Process::new(take_some_and_hang, (queue.clone(), got.clone())).start().unwrap();
            for n in 0..1000 + round {
                queue.put(n).unwrap();
            }
            got.get().unwrap();
            slay(&child);
            drop(child);
            let mut all: Vec<u64> = std::iter::from_fn(|| got.try_get().ok()).collect();
            all.push(0);
            let rest: Vec<u64> = std::iter::from_fn(|| queue.try_get().ok()).collect();
            let before = all.len() + rest.len();
            all.extend(rest);
            let distinct: HashSet<u64> = all.into_iter().collect();
            assert_eq!(distinct.len(), before, "nothing twice");
            // One may have been got, and not told.
            assert!(distinct.len() as u64 >= 1000 + round - 1, "{} of {}", distinct.len(), 1000 + round);
        }
    });
}

fn lease_and_hang(queue: Queue<u64>, told: Queue<u64>) {
    let lease = queue.lease().unwrap();
    told.put(*lease).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_leased_item_comes_back_when_its_holder_is_killed() {
    robust(MINUTE, || {
        let (queue, told) = (Queue::new(), Queue::new());
        queue.put(1).unwrap();
        queue.put(2).unwrap();
        let child = Process::new(lease_and_hang, (queue.clone(), told.clone())).start().unwrap();
        assert_eq!(told.get().unwrap(), 1);
        assert_eq!(queue.len(), 1);
        slay(&child);
        poll("back", MINUTE / 6, || queue.len() == 2);
        assert_eq!((queue.get().unwrap(), queue.get().unwrap()), (1, 2));
        queue.task_done();
        queue.task_done();
        queue.join();
    });
}

#[test]
fn join_does_not_wait_for_the_dead() {
    robust(MINUTE, || {
        let (queue, got) = (Queue::new(), Queue::new());
        queue.put(1).unwrap();
        let child = Process::new(take_some_and_hang, (queue.clone(), got.clone())).start().unwrap();
        got.get().unwrap();
        assert!(!queue.join_timeout(SHORT));
        slay(&child);
        queue.join();
    });
}

#[test]
fn a_stopped_consumer_does_not_hold_what_it_did_not_take() {
    robust(MINUTE, || {
        let (queue, got) = (Queue::new(), Queue::new());
        let child = Process::new(take_some_and_hang, (queue.clone(), got.clone())).start().unwrap();
        queue.put(0).unwrap();
        got.get().unwrap();
        kill(Pid::from_raw(i32::try_from(child.pid()).unwrap()), Signal::SIGSTOP).unwrap();
        for n in 1..100 {
            queue.put(n).unwrap();
        }
        let rest: Vec<u64> = std::iter::from_fn(|| queue.get_timeout(SHORT).ok()).collect();
        assert!(rest.len() >= 98, "{}", rest.len());
        slay(&child);
    });
}

#[test]
fn deadlines_hold_in_a_child() {
    robust(MINUTE, || {
        let (full, empty) = (Queue::bounded(1), Queue::<u64>::new());
        full.put(1_u64).unwrap();
        let look = |full: Queue<u64>, empty: Queue<u64>| {
            let start = Instant::now();
            assert!(matches!(full.try_put(2), Err(PutError::Full(2))));
            assert!(matches!(empty.try_get(), Err(GetError::Empty)));
            assert!(matches!(full.put_timeout(2, SHORT), Err(PutError::Full(2))));
            assert!(matches!(empty.get_timeout(SHORT), Err(GetError::Empty)));
            assert!(!full.join_timeout(SHORT));
            assert!((full.len(), full.is_full(), empty.is_empty()) == (1, true, true));
            start.elapsed() >= 3 * SHORT
        };
        let child = Process::new(look, (full.clone(), empty.clone())).start().unwrap();
        assert!(child.join().unwrap());
        assert_eq!((full.get().unwrap(), full.len()), (1, 0));
        full.try_put(9).unwrap();
    });
}

fn take_one_and_say_so(queue: Queue<u64>, told: Queue<u64>) {
    told.put(queue.get().unwrap()).unwrap();
    procession::drill::hang();
}

#[test]
fn what_was_given_ahead_and_not_taken_keeps_its_place() {
    robust(MINUTE, || {
        let (queue, told) = (Queue::new(), Queue::new());
        let child = Process::new(take_one_and_say_so, (queue.clone(), told.clone())).start().unwrap();
        for n in 0..20 {
            queue.put(n).unwrap();
        }
        assert_eq!(told.get().unwrap(), 0);
        for n in 20..40 {
            queue.put(n).unwrap();
        }
        for n in 1..40 {
            assert_eq!(queue.try_get(), Ok(n));
        }
        slay(&child);
    });
}
