//! Many at each end.

use crate::support::robust;
use crate::{LIMIT, MOMENT, pattern};
use procession::{Connection, Process, Receiver, RecvError, SendErrorKind, Sender, duplex, pipe};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const SENDERS: usize = 4;
const EACH: usize = 500;

fn len(number: usize) -> usize {
    match number % 50 {
        0 => 300_000,
        7 => 65_535,
        _ => number,
    }
}

#[test]
fn each_message_goes_whole_to_one_receiver() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<(usize, Vec<u8>)>().unwrap();
        let mut counts = BTreeMap::new();
        thread::scope(|scope| {
            for from in 0..SENDERS {
                let sender = sender.clone();
                scope.spawn(move || {
                    for n in 0..EACH {
                        let number = from * EACH + n;
                        sender.send((number, pattern(number, len(number)))).unwrap();
                    }
                });
            }
            drop(sender);
            let receivers: Vec<_> = (0..4)
                .map(|which| {
                    let receiver = receiver.clone();
                    scope.spawn(move || {
                        let mut seen = Vec::new();
                        loop {
                            // One of them is always in a hurry.
                            let next = if which == 0 { receiver.try_recv() } else { receiver.recv() };
                            match next {
                                Ok(Some((number, bytes))) => {
                                    assert!(bytes == pattern(number, len(number)), "{number}");
                                    seen.push(number);
                                }
                                Ok(None) => return seen,
                                Err(RecvError::Empty) => assert_eq!(which, 0),
                                Err(error) => panic!("{error}"),
                            }
                        }
                    })
                })
                .collect();
            for receiver in receivers {
                for number in receiver.join().unwrap() {
                    *counts.entry(number).or_insert(0) += 1;
                }
            }
        });
        assert!(counts.len() == SENDERS * EACH && counts.values().all(|&count| count == 1));
    });
}

#[test]
fn one_who_waits_hinders_nobody() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<u32>().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| receiver.recv());
            assert_eq!(receiver.recv_timeout(MOMENT), Err(RecvError::Empty));
            assert_eq!(receiver.try_recv(), Err(RecvError::Empty));
            sender.send(1).unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(Some(1)));
        });
    });
}

#[test]
fn a_long_message_under_way_keeps_no_other_sender_waiting() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        thread::scope(|scope| {
            let long = scope.spawn(|| sender.send(vec![1; 4 << 20]));
            while !receiver.poll(Duration::from_secs(1)).unwrap() {}
            sender.send(vec![2]).unwrap();
            assert_eq!(receiver.recv().unwrap().unwrap().len(), 4 << 20);
            assert_eq!(receiver.recv().unwrap().unwrap(), [2]);
            long.join().unwrap().unwrap();
        });
    });
}

const LONG: usize = 200_000;

/// Takes what comes within some 200 µs, for a while, and then nothing any more, with its end still open.
fn hurried(from: &Receiver<Vec<u8>>, seed: u64) -> u64 {
    let received = (0..200).filter(|n| {
        match from.recv_timeout(Duration::from_micros((n * 37 + seed * 53) % 200)) {
            Ok(Some(bytes)) => assert!(bytes == pattern(bytes.len() % 100, bytes.len())),
            Err(RecvError::Empty) => return false,
            other => panic!("{:?}", other.map(|bytes| bytes.map(|bytes| bytes.len()))),
        }
        true
    });
    received.count() as u64
}

fn hurried_elsewhere(from: Receiver<Vec<u8>>, line: Connection<u64, ()>) {
    line.send(hurried(&from, 0)).unwrap();
    // Until it is told, it holds the end.
    assert_eq!(line.recv(), Ok(None));
}

/// Sends that many messages, each longer than a packet.
fn pour(to: &Sender<Vec<u8>>, count: usize) {
    (0..count).for_each(|n| to.send(pattern((LONG + n) % 100, LONG + n)).unwrap());
}

/// Whoever ran out of time keeps nothing from those who wait without a limit, in any process.
#[test]
fn whoever_is_in_a_hurry_takes_a_long_message_or_leaves_it() {
    const COUNT: usize = 60;
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        let children: Vec<_> = (0..2)
            .map(|_| {
                let (here, there) = duplex().unwrap();
                (Process::new(hurried_elsewhere, (receiver.clone(), there)).start().unwrap(), here)
            })
            .collect();
        thread::scope(|scope| {
            let in_a_hurry: Vec<_> = (1..3)
                .map(|seed| {
                    let receiver = receiver.clone();
                    scope.spawn(move || hurried(&receiver, seed))
                })
                .collect();
            let patient: Vec<_> = (0..2)
                .map(|_| {
                    let receiver = receiver.clone();
                    scope.spawn(move || {
                        receiver.iter().map(|bytes| assert!(bytes.unwrap().len() >= LONG)).count()
                    })
                })
                .collect();
            pour(&sender, COUNT);
            drop(sender);
            let mut all: u64 = children.iter().map(|(_, line)| line.recv().unwrap().unwrap()).sum();
            all += in_a_hurry.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>();
            all += patient.into_iter().map(|thread| thread.join().unwrap() as u64).sum::<u64>();
            assert_eq!(all, COUNT as u64);
        });
        for (child, line) in children {
            drop(line);
            child.join().unwrap();
        }
    });
}

/// Sends with a limit that is often too short; how many it was told were taken.
fn hurried_sender(to: Sender<Vec<u8>>, seed: u64) -> u64 {
    let sent = (0..40).filter(|n| {
        let len = LONG / 2 + *n as usize;
        match to.send_timeout(pattern(len % 100, len), Duration::from_micros((n * 101 + seed * 53) % 1500)) {
            Ok(()) => true,
            Err(error) if error.kind == SendErrorKind::Full => false,
            Err(error) => panic!("{error}"),
        }
    });
    sent.count() as u64
}

#[test]
fn what_is_sent_within_a_limit_arrives_once_and_what_is_not_never() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        let children: Vec<_> = (0..2)
            .map(|seed| Process::new(hurried_sender, (sender.clone(), seed)).start().unwrap())
            .collect();
        thread::scope(|scope| {
            let receivers: Vec<_> = (0..2)
                .map(|_| {
                    let receiver = receiver.clone();
                    scope.spawn(move || {
                        let checked = receiver.iter().map(|bytes| {
                            let bytes = bytes.unwrap();
                            assert!(bytes == pattern(bytes.len() % 100, bytes.len()));
                        });
                        checked.count() as u64
                    })
                })
                .collect();
            let sent = hurried_sender(sender, 2);
            let sent = sent + children.into_iter().map(|child| child.join().unwrap()).sum::<u64>();
            let received: u64 = receivers.into_iter().map(|thread| thread.join().unwrap()).sum();
            assert_eq!(received, sent);
        });
    });
}

/// Ten thousand signals a second, to every thread that sends or receives.
#[test]
fn signals_disturb_nothing() {
    use nix::sys::pthread::{pthread_kill, pthread_self};
    robust(LIMIT, || {
        let handler = storm::Handler::install();
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        let over = AtomicBool::new(false);
        let stay = std::sync::Barrier::new(3);
        thread::scope(|scope| {
            let stay = &stay;
            let (tell, told) = std::sync::mpsc::channel();
            let tell_too = tell.clone();
            // A thread must not end before the last signal for it, and a sender not before the last look.
            scope.spawn(move || {
                tell.send(pthread_self()).unwrap();
                for number in 0..2000 {
                    sender.send(pattern(number, len(number))).unwrap();
                }
                stay.wait();
                stay.wait();
            });
            scope.spawn(move || {
                tell_too.send(pthread_self()).unwrap();
                for number in 0..2000 {
                    assert!(receiver.recv().unwrap().unwrap() == pattern(number, len(number)), "{number}");
                }
                assert_eq!(receiver.recv_timeout(MOMENT), Err(RecvError::Empty));
                stay.wait();
                stay.wait();
            });
            let targets: Vec<_> = told.iter().take(2).collect();
            let (storm_over, over) = (&over, &over);
            let storm = scope.spawn(move || {
                while !storm_over.load(Ordering::Relaxed) {
                    for &target in &targets {
                        let _ = pthread_kill(target, storm::SIGNAL);
                    }
                    thread::sleep(Duration::from_micros(100));
                }
            });
            stay.wait();
            over.store(true, Ordering::Relaxed);
            storm.join().unwrap();
            stay.wait();
        });
        drop(handler);
    });
}

/// In a process whose SIGPIPE is as the system gives it, and ends the program.
fn send_to_nobody() -> [String; 2] {
    storm::restore_sigpipe();
    [1, 1 << 20].map(|len| {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        drop(receiver);
        sender.send(vec![1; len]).unwrap_err().to_string()
    })
}

#[test]
fn a_closed_end_is_an_error_and_no_signal() {
    robust(LIMIT, || {
        let told = Process::new(send_to_nobody, ()).start().unwrap().join().unwrap();
        assert!(told.iter().all(|told| told.contains("is closed")), "{told:?}");
    });
}

mod storm {
    #![allow(unsafe_code, reason = "only a handler makes a signal interrupt anything")]

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    pub(super) const SIGNAL: Signal = Signal::SIGUSR1;

    extern "C" fn nothing(_: i32) {}

    pub(super) fn restore_sigpipe() {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler at all.
        unsafe { sigaction(Signal::SIGPIPE, &default) }.unwrap();
    }

    /// Without SA_RESTART; undone at the end.
    pub(super) struct Handler(SigAction);

    impl Handler {
        pub(super) fn install() -> Self {
            let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
            // SAFETY: the handler does nothing at all.
            Self(unsafe { sigaction(SIGNAL, &action) }.unwrap())
        }
    }

    impl Drop for Handler {
        fn drop(&mut self) {
            // SAFETY: what was there before.
            unsafe { sigaction(SIGNAL, &self.0) }.unwrap();
        }
    }
}
