//! SIGSTOP at either side: deadlines hold, and nobody else waits.

use crate::support::{poll, robust};
use crate::{MINUTE, SHORT, SOON, signal, slay, stop};
use nix::sys::signal::Signal;
use procession::{GetError, Process, PutError, Queue};
use std::time::Instant;

type Tickets = Queue<Queue<u8>>;

/// Makes a queue of its own, puts it into another, and is then stopped.
fn host_of_a_travelling_queue(hub: Tickets) {
    let queue = Queue::new();
    hub.put(queue.clone()).unwrap();
    procession::drill::hang();
}

#[test]
fn a_stopped_host_keeps_nobody_from_entering_another_queue() {
    robust(MINUTE, || {
        let (stopped, other) = (Tickets::new(), Tickets::new());
        let hosts = [&stopped, &other].map(|hub| {
            let host = Process::new(host_of_a_travelling_queue, (hub.clone(),)).start().unwrap();
            poll("sent", SOON, || hub.len() == 1);
            host
        });
        stop(&hosts[0]);
        std::thread::scope(|scope| {
            let (entered, stuck) = std::sync::mpsc::channel();
            let hub = &stopped;
            // Each lease enters by the same ticket, whose socket fills up, since nobody reads it; each goes back.
            scope.spawn(move || {
                for _ in 0..1000 {
                    drop(hub.lease().unwrap());
                    let _ = entered.send(());
                }
            });
            // Stuck when nothing more comes.
            let entries = std::iter::from_fn(|| stuck.recv_timeout(10 * SHORT).ok()).count();
            assert!(entries < 1000, "its socket takes everything");
            for _ in 0..10 {
                let begin = Instant::now();
                let queue = other.lease_timeout(SOON).unwrap();
                queue.put(1).unwrap();
                assert_eq!(queue.get_timeout(SOON).unwrap(), 1);
                assert!(begin.elapsed() < SOON);
            }
            signal(&hosts[0], Signal::SIGCONT);
        });
        hosts.iter().for_each(slay);
    });
}

type Pair = (Queue<Vec<u8>>, Queue<Vec<u8>>);

/// Makes queues of its own, hands them out, and is then stopped.
fn host_elsewhere(out: Queue<Pair>) {
    let (empty, full) = (Queue::new(), Queue::bounded(1));
    full.put(vec![]).unwrap();
    out.put((empty.clone(), full.clone())).unwrap();
    procession::drill::hang();
}

#[test]
fn a_stopped_host_keeps_nobody_beyond_his_deadline() {
    robust(MINUTE, || {
        let out = Queue::new();
        let child = Process::new(host_elsewhere, (out.clone(),)).start().unwrap();
        let (empty, full) = out.get().unwrap();
        assert!(matches!(empty.try_get(), Err(GetError::Empty)));
        stop(&child);
        let begin = Instant::now();
        assert!(matches!(empty.try_get(), Err(GetError::Empty)));
        assert!(matches!(empty.get_timeout(SHORT), Err(GetError::Empty)));
        assert!(matches!(full.try_put(vec![1]), Err(PutError::Full(_))));
        assert!(matches!(full.put_timeout(vec![1], SHORT), Err(PutError::Full(_))));
        assert!(!full.join_timeout(SHORT));
        // Its ring fills up.
        let refused = (0..10_000).any(|_| empty.put_timeout(vec![0; 100], SHORT).is_err());
        assert!(refused);
        // So does its socket.
        for _ in 0..600 {
            assert!(!full.join_timeout(std::time::Duration::from_millis(1)));
        }
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        signal(&child, Signal::SIGCONT);
        assert!(!empty.is_empty());
        assert_eq!(full.get().unwrap(), Vec::<u8>::new());
        slay(&child);
        while empty.get().is_ok() {}
        assert!(matches!(empty.get(), Err(GetError::Gone)));
    });
}

#[test]
fn a_host_that_dies_is_gone_for_all_who_wait() {
    robust(MINUTE, || {
        for _ in 0..20 {
            let out = Queue::new();
            let child = Process::new(host_elsewhere, (out.clone(),)).start().unwrap();
            let (empty, full) = out.get().unwrap();
            std::thread::scope(|scope| {
                let (empty, full) = (&empty, &full);
                scope.spawn(move || assert!(matches!(empty.get(), Err(GetError::Gone))));
                scope.spawn(move || assert!(matches!(empty.lease(), Err(GetError::Gone))));
                scope.spawn(move || assert!(matches!(full.put(vec![]), Err(PutError::Gone(_)))));
                scope.spawn(move || assert!(matches!(full.put(vec![0; 20_000]), Err(PutError::Gone(_)))));
                scope.spawn(move || full.join());
                crate::pause(SHORT);
                slay(&child);
            });
            assert_eq!((empty.len(), full.len()), (0, 0));
            assert!(!empty.task_done());
        }
    });
}

fn put_for_ever(queue: Queue<u8>, told: Queue<u8>) {
    told.put(1).unwrap();
    loop {
        queue.put(2).unwrap();
    }
}

#[test]
fn a_stopped_producer_does_not_hold_the_room_it_waits_for() {
    robust(MINUTE, || {
        let (queue, told) = (Queue::bounded(1), Queue::new());
        queue.put(1).unwrap();
        let child = Process::new(put_for_ever, (queue.clone(), told.clone())).start().unwrap();
        told.get().unwrap();
        std::thread::sleep(SHORT);
        signal(&child, Signal::SIGSTOP);
        for n in 10..15 {
            assert!(queue.get().unwrap() != 2);
            queue.put_timeout(n, SOON).unwrap();
        }
        signal(&child, Signal::SIGCONT);
        assert_eq!((queue.get().unwrap(), queue.get_timeout(SOON).unwrap()), (14, 2));
        slay(&child);
    });
}

fn get_for_ever(queue: Queue<u64>, told: Queue<u64>) {
    loop {
        told.put(queue.get().unwrap()).unwrap();
    }
}

#[test]
fn stopped_consumers_hold_one_item_each_at_most() {
    robust(MINUTE, || {
        let (queue, told) = (Queue::new(), Queue::new());
        let children: Vec<_> = (0..3)
            .map(|_| Process::new(get_for_ever, (queue.clone(), told.clone())).start().unwrap())
            .collect();
        for n in 0..100 {
            queue.put(n).unwrap();
            told.get().unwrap();
        }
        for child in &children {
            signal(child, Signal::SIGSTOP);
        }
        for n in 0..1000 {
            queue.put(n).unwrap();
        }
        let mut count = 0;
        while queue.get_timeout(3 * SHORT).is_ok() {
            count += 1;
        }
        assert!(count >= 997, "{count}");
        children.iter().for_each(slay);
        drop(children);
        let rest = (0..).take_while(|_| queue.get_timeout(SHORT).is_ok()).count();
        assert_eq!(count + rest, 1000, "who was stopped had nothing in hand");
    });
}
