//! No descriptors, and no peace: ten thousand signals a second.

use crate::support::robust;
use crate::{MINUTE, SHORT, SOON, random, signal};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use procession::{GetError, Process, PutError, Queue};
use std::fs::File;
use std::time::{Duration, Instant};

/// Takes all descriptors that this process may have.
pub(crate) fn all_descriptors() -> Vec<File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(400), hard).unwrap();
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn get_without_descriptors(queue: Queue<Vec<u8>>, back: Queue<u64>) {
    back.put(0).unwrap();
    let taken = all_descriptors();
    let mut errors = 0;
    for _ in 0..5 {
        match queue.get_timeout(SOON) {
            Err(GetError::Io(_)) => errors += 1,
            other => panic!("{:?}", other.map(|bytes| bytes.len())),
        }
    }
    drop(taken);
    back.put(errors).unwrap();
    for _ in 0..20 {
        assert_eq!(queue.get_timeout(SOON).unwrap().len(), 30_000);
    }
}

#[test]
fn a_consumer_without_descriptors_loses_no_large_item() {
    robust(MINUTE, || {
        let (queue, back) = (Queue::new(), Queue::new());
        let child = Process::new(get_without_descriptors, (queue.clone(), back.clone())).start().unwrap();
        assert_eq!(back.get_timeout(SOON).unwrap(), 0);
        for _ in 0..20 {
            queue.put(vec![1; 30_000]).unwrap();
        }
        assert_eq!(back.get_timeout(SOON).unwrap(), 5);
        child.join().unwrap();
        assert!(queue.is_empty());
    });
}

type Pair = (Queue<Vec<u8>>, Queue<Queue<u8>>);

/// A host without descriptors, and what a user of its queues sees.
fn host_without(out: Queue<Pair>, go: Queue<u8>, told: Queue<u8>) {
    let (large, queues) = (Queue::new(), Queue::new());
    out.put((large.clone(), queues.clone())).unwrap();
    // Not before they have been come by.
    assert_eq!(go.get_timeout(SOON).unwrap(), 1);
    let taken = all_descriptors();
    told.put(1).unwrap();
    assert_eq!(go.get_timeout(SOON).unwrap(), 3);
    drop(taken);
    told.put(4).unwrap();
    assert_eq!(large.get_timeout(SOON).unwrap(), [5]);
    procession::drill::hang();
}

#[test]
fn a_host_without_descriptors_says_so_and_buries_nobody() {
    robust(MINUTE, || {
        let (out, go, told) = (Queue::new(), Queue::new(), Queue::new());
        let child = Process::new(host_without, (out.clone(), go.clone(), told.clone())).start().unwrap();
        let (large, queues): Pair = out.get_timeout(SOON).unwrap();
        assert_eq!((large.len(), queues.len()), (0, 0));
        go.put(1).unwrap();
        assert_eq!(told.get_timeout(SOON).unwrap(), 1);
        let error = large.put_timeout(vec![0; 30_000], SOON).unwrap_err();
        assert!(matches!(&error, PutError::Io(value, _) if value.len() == 30_000), "{error}");
        let error = queues.put_timeout(go.clone(), SOON).unwrap_err();
        assert!(matches!(error, PutError::Io(..)), "{error}");
        // A door of its own cannot be had either: whoever gets the ticket finds it closed.
        let _ = out.put((large.clone(), queues.clone()));
        large.put(vec![5]).unwrap();
        assert_eq!((large.len(), queues.len()), (1, 0));
        go.put(3).unwrap();
        assert_eq!(told.get_timeout(SOON).unwrap(), 4);
        large.put_timeout(vec![7; 30_000], SOON).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

/// Every wait, while signals come in.
#[allow(unsafe_code, reason = "a signal's handler is installed")]
fn wait_in_a_storm(full: Queue<u64>, empty: Queue<u64>, told: Queue<u64>) {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    extern "C" fn nothing(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    told.put(0).unwrap();
    let limit = Duration::from_millis(60);
    let timed = |wait: &dyn Fn()| {
        let begin = Instant::now();
        wait();
        assert!(begin.elapsed() >= limit && begin.elapsed() < SOON, "{:?}", begin.elapsed());
    };
    timed(&|| assert!(matches!(full.put_timeout(1, limit), Err(PutError::Full(1)))));
    timed(&|| assert!(matches!(empty.get_timeout(limit), Err(GetError::Empty))));
    timed(&|| assert!(matches!(empty.lease_timeout(limit), Err(GetError::Empty))));
    timed(&|| assert!(!full.join_timeout(limit)));
    std::thread::scope(|scope| {
        scope.spawn(|| full.put(2).unwrap());
        scope.spawn(|| assert_eq!(empty.get().unwrap(), 3));
        scope.spawn(|| full.join());
        told.put(1).unwrap();
    });
}

#[test]
fn ten_thousand_signals_a_second_neither_end_a_wait_nor_stretch_it() {
    robust(MINUTE, || {
        let (full, empty, told) = (Queue::bounded(1), Queue::new(), Queue::new());
        full.put(0).unwrap();
        let child = Process::new(wait_in_a_storm, (full.clone(), empty.clone(), told.clone())).start();
        let child = child.unwrap();
        assert_eq!(told.get().unwrap(), 0);
        let shoot = |until: &dyn Fn() -> bool| {
            let begin = Instant::now();
            while !until() {
                assert!(begin.elapsed() < SOON);
                signal(&child, Signal::SIGUSR1);
                std::thread::sleep(Duration::from_micros(40));
            }
        };
        shoot(&|| told.try_get().is_ok());
        let begin = Instant::now();
        shoot(&|| begin.elapsed() > SHORT + Duration::from_millis(random(20)));
        empty.put(3).unwrap();
        assert_eq!((full.get().unwrap(), full.get_timeout(SOON).unwrap()), (0, 2));
        assert!(full.task_done() && full.task_done());
        shoot(&|| child.exit().is_some());
        child.join().unwrap();
    });
}
