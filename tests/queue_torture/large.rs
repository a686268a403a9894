//! Large items, and items with descriptors, where the host is stopped, has no room for them, or the system lets no more travel.

use crate::scarce::all_descriptors;
use crate::support::{poll, robust};
use crate::{MINUTE, SHORT, SOON, pause, random, signal, slay, stop};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, setuid};
use procession::handle::Handle;
use procession::{GetError, Process, PutError, Queue};
use procession_worker::sys::socket;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

type Large = Queue<(u64, Vec<u8>)>;

fn large(n: u64) -> (u64, Vec<u8>) {
    (n, vec![n as u8; 20_000])
}

fn host_large(out: Queue<Large>) {
    let queue = Queue::bounded(2);
    out.put(queue.clone()).unwrap();
    procession::drill::hang();
}

#[test]
fn what_a_stopped_host_has_not_taken_comes_back_to_its_putter() {
    robust(MINUTE, || {
        let out = Queue::new();
        let host = Process::new(host_large, (out.clone(),)).start().unwrap();
        let queue = out.get().unwrap();
        queue.put(large(0)).unwrap();
        stop(&host);
        let begin = Instant::now();
        match queue.put_timeout(large(1), SHORT) {
            Err(PutError::Full(value)) => assert_eq!(value, large(1)),
            other => panic!("{other:?}"),
        }
        assert!(begin.elapsed() < SOON);
        signal(&host, Signal::SIGCONT);
        // The room that it had is there again.
        queue.put_timeout(large(2), SOON).unwrap();
        assert_eq!(queue.len(), 2);
        assert_eq!((queue.get().unwrap(), queue.get().unwrap()), (large(0), large(2)));
        slay(&host);
    });
}

fn host_many(out: Queue<Large>) {
    let queue = Queue::new();
    out.put(queue.clone()).unwrap();
    procession::drill::hang();
}

#[test]
fn many_that_give_up_at_a_stopped_host_leave_places_for_others() {
    robust(MINUTE, || {
        let out = Queue::new();
        let host = Process::new(host_many, (out.clone(),)).start().unwrap();
        let queue = out.get().unwrap();
        queue.put(large(0)).unwrap();
        stop(&host);
        std::thread::scope(|scope| {
            for n in 0..100 {
                let queue = &queue;
                scope.spawn(move || assert!(matches!(queue.try_put(large(n)), Err(PutError::Full(_)))));
            }
        });
        signal(&host, Signal::SIGCONT);
        for n in 1..100 {
            queue.put_timeout(large(n), SOON).unwrap();
        }
        for n in 0..100 {
            assert_eq!(queue.get_timeout(SOON).unwrap(), large(n));
        }
        assert!(matches!(queue.try_get(), Err(GetError::Empty)));
        slay(&host);
    });
}

#[test]
fn a_large_item_is_in_the_queue_or_with_its_putter_and_never_both() {
    robust(2 * MINUTE, || {
        let out = Queue::new();
        let host = Process::new(host_many, (out.clone(),)).start().unwrap();
        let queue = out.get().unwrap();
        let over = AtomicBool::new(false);
        let mut due = Vec::new();
        std::thread::scope(|scope| {
            // Stopped for about as long as a putter waits.
            scope.spawn(|| {
                for _ in 0..6 {
                    signal(&host, Signal::SIGSTOP);
                    std::thread::sleep(Duration::from_millis(995 + random(15)));
                    signal(&host, Signal::SIGCONT);
                    pause(SHORT);
                }
                over.store(true, Ordering::Relaxed);
            });
            for n in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
                match queue.try_put(large(n)) {
                    Ok(()) => due.push(n),
                    Err(PutError::Full(value)) => assert_eq!(value, large(n)),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        for n in due {
            assert_eq!(queue.get_timeout(SOON).unwrap(), large(n));
        }
        assert!(matches!(queue.try_get(), Err(GetError::Empty)));
        slay(&host);
    });
}

// ---- no room -----------------------------------------------------------------------------------------------------------

fn host_that_is_poor_for_a_while(out: Queue<Large>, told: Queue<u8>, go: Queue<u8>) {
    let queue = Queue::new();
    out.put(queue.clone()).unwrap();
    assert_eq!(go.get_timeout(SOON).unwrap(), 1);
    let taken = all_descriptors();
    queue.put(large(7)).unwrap();
    told.put(1).unwrap();
    assert_eq!(go.get_timeout(SOON).unwrap(), 2);
    // From here on nothing happens at the queue itself.
    drop(taken);
    procession::drill::hang();
}

#[test]
fn what_a_host_had_no_descriptor_for_comes_when_it_has_one() {
    robust(MINUTE, || {
        let (out, told, go) = (Queue::new(), Queue::new(), Queue::new());
        let host = Process::new(host_that_is_poor_for_a_while, (out.clone(), told.clone(), go.clone()));
        let host = host.start().unwrap();
        let queue = out.get_timeout(SOON).unwrap();
        assert!(queue.is_empty());
        go.put(1).unwrap();
        assert_eq!(told.get_timeout(SOON).unwrap(), 1);
        assert!(matches!(queue.get_timeout(SHORT), Err(GetError::Empty)));
        assert_eq!(queue.len(), 1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.get_timeout(SOON));
            std::thread::sleep(3 * SHORT);
            go.put(2).unwrap();
            assert_eq!(waiting.join().unwrap().unwrap(), large(7));
        });
        slay(&host);
    });
}

/// As many descriptors on their way as a user may have, until this is dropped. The kernel asks this of whom it does not trust.
fn fill_the_road() -> (OwnedFd, OwnedFd) {
    if Uid::effective().is_root() {
        // A user whom nobody else is.
        setuid(Uid::from_raw(100_000 + std::process::id())).unwrap();
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(300), hard).unwrap();
    let (from, to) = socket::pair().unwrap();
    let null = File::open("/dev/null").unwrap();
    let numbers = [null.as_raw_fd(); 100];
    while socket::send(&from, &[0], &numbers as &[RawFd], false).is_ok() {}
    (from, to)
}

fn put_on_a_full_road(queue: Large) {
    let road = fill_the_road();
    match queue.put(large(1)) {
        Err(PutError::Io(value, _)) => assert_eq!(value, large(1)),
        other => panic!("{other:?}"),
    }
    queue.put((2, vec![])).unwrap();
    drop(road);
    // Others of the same user may have theirs.
    poll("room", SOON, || queue.put(large(3)).is_ok());
}

#[test]
fn who_may_send_no_descriptors_is_told_and_has_his_item_back() {
    robust(MINUTE, || {
        let queue = Queue::bounded(2);
        Process::new(put_on_a_full_road, (queue.clone(),)).start().unwrap().join().unwrap();
        assert_eq!((queue.get().unwrap(), queue.get().unwrap()), ((2, vec![]), large(3)));
        assert!(queue.is_empty());
    });
}

fn host_at_a_full_road(out: Queue<Large>, go: Queue<u8>, told: Queue<u64>) {
    let queue = Queue::new();
    out.put(queue.clone()).unwrap();
    assert_eq!(go.get_timeout(SOON).unwrap(), 1);
    let road = fill_the_road();
    queue.put(large(9)).unwrap();
    told.put(0).unwrap();
    assert_eq!(go.get_timeout(SOON).unwrap(), 2);
    let ticks = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    told.put(u64::try_from(ticks.voluntary_context_switches()).unwrap()).unwrap();
    drop(road);
    procession::drill::hang();
}

#[test]
fn what_may_not_travel_now_travels_later_and_does_not_run_in_circles() {
    robust(MINUTE, || {
        let (out, go, told) = (Queue::new(), Queue::new(), Queue::new());
        let host = Process::new(host_at_a_full_road, (out.clone(), go.clone(), told.clone()));
        let host = host.start().unwrap();
        let queue = out.get_timeout(SOON).unwrap();
        assert!(queue.is_empty());
        go.put(1).unwrap();
        assert_eq!(told.get_timeout(SOON).unwrap(), 0);
        assert!(matches!(queue.get_timeout(10 * SHORT), Err(GetError::Empty)));
        assert_eq!(queue.len(), 1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.get_timeout(SOON));
            std::thread::sleep(10 * SHORT);
            go.put(2).unwrap();
            let switches = told.get_timeout(SOON).unwrap();
            assert!(switches < 1000, "{switches} changes of process");
            assert_eq!(waiting.join().unwrap().unwrap(), large(9));
        });
        slay(&host);
    });
}

// ---- too many ----------------------------------------------------------------------------------------------------------

type Files = Queue<Vec<Handle<File>>>;

const LIMIT: u64 = 512;

fn host_of_files(out: Queue<(Files, Large)>, go: Queue<u8>, told: Queue<usize>) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, LIMIT, hard).unwrap();
    let (files, items) = (Queue::new(), Queue::new());
    out.put((files.clone(), items.clone())).unwrap();
    while go.get_timeout(SOON).unwrap() > 0 {
        told.put(std::fs::read_dir("/proc/self/fd").unwrap().count()).unwrap();
    }
}

fn nulls(count: usize) -> Vec<Handle<File>> {
    (0..count).map(|_| Handle(File::open("/dev/null").unwrap())).collect()
}

fn crowd(files: Files) {
    // In messages of any size, and by one who gives up on none of them.
    for n in 0..200 {
        let _ = files.put(nulls(n % 300));
    }
}

#[test]
fn items_that_nobody_takes_leave_the_host_half_of_its_descriptors() {
    robust(MINUTE, || {
        let (out, go, told) = (Queue::new(), Queue::new(), Queue::new());
        let child = Process::new(host_of_files, (out.clone(), go.clone(), told.clone())).start().unwrap();
        let (files, items) = out.get_timeout(SOON).unwrap();
        let open = || {
            go.put(1).unwrap();
            told.get_timeout(SOON).unwrap() as u64
        };
        let before = open();
        let mut put = 0;
        let error = loop {
            match files.put_timeout(nulls(3), SOON) {
                Ok(()) => put += 3,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(&error, PutError::Io(value, error) if value.len() == 3 && error.kind() == ErrorKind::QuotaExceeded),
            "{error}"
        );
        assert!(put <= LIMIT / 2 && put > LIMIT / 2 - 3, "{put}");
        let after = open();
        assert!(after <= before + put + 10, "{after}, {before} before");
        Process::new(crowd, (files.clone(),)).start().unwrap().join().unwrap();
        poll("bounded", SOON, || open() <= before + LIMIT / 2 + 5);
        while !files.is_empty() {
            drop(files.get().unwrap());
        }
        poll("given back", SOON, || open() <= before + 5);
        // Large items lie in its memory when there are too many for files.
        for n in 0..2 * LIMIT {
            items.put_timeout(large(n), SOON).unwrap();
        }
        for n in 0..2 * LIMIT {
            assert_eq!(items.get_timeout(SOON).unwrap(), large(n));
        }
        files.put_timeout(nulls(100), SOON).unwrap();
        go.put(0).unwrap();
        child.join().unwrap();
    });
}
