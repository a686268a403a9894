//! One at each end.

use crate::support::robust;
use crate::{LIMIT, MOMENT, pattern};
use procession::{Process, RecvError, SendErrorKind, duplex, pipe, wait};
use proptest::prelude::*;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

/// Around each limit at which the way changes.
const SIZES: [usize; 14] =
    [0, 1, 8, 4095, 65_534, 65_535, 65_536, 65_537, 100_000, 1 << 20, (1 << 20) + 1, 5_000_000, 1, 0];

#[test]
fn messages_of_any_size_keep_their_bounds_and_their_order() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                for (seed, size) in SIZES.into_iter().enumerate() {
                    sender.send_bytes(&pattern(seed, size)).unwrap();
                }
                sender.send(vec![1, 2, 3]).unwrap();
            });
            for (seed, size) in SIZES.into_iter().enumerate() {
                assert!(receiver.recv_bytes().unwrap().unwrap() == pattern(seed, size), "{size}");
            }
            assert_eq!(receiver.recv().unwrap(), Some(vec![1, 2, 3]));
            assert_eq!(receiver.recv().unwrap(), None);
        });
    });
}

#[test]
fn nothing_is_a_message_too() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<()>().unwrap();
        sender.send(()).unwrap();
        sender.send_bytes(b"").unwrap();
        drop(sender);
        assert_eq!(receiver.recv().unwrap(), Some(()));
        assert_eq!(receiver.recv_bytes().unwrap(), Some(vec![]));
        assert_eq!((receiver.recv().unwrap(), receiver.recv().unwrap()), (None, None));
    });
}

#[test]
fn what_was_sent_arrives_though_its_sender_is_gone_and_has_not_read_everything() {
    robust(LIMIT, || {
        let (here, there) = duplex::<u32, u32>().unwrap();
        here.send(1).unwrap();
        there.send(2).unwrap();
        there.send(3).unwrap();
        drop(there);
        assert_eq!(here.recv().unwrap(), Some(2));
        assert_eq!(here.iter().collect::<Result<Vec<_>, _>>().unwrap(), [3]);
        let error = here.send(4).unwrap_err();
        assert_eq!((error.kind, error.value), (SendErrorKind::Closed, 4));
        assert_eq!(here.recv().unwrap(), None);
    });
}

#[test]
fn the_last_sender_closes() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<u32>().unwrap();
        let clone = sender.clone();
        drop(sender);
        assert_eq!(receiver.recv_timeout(MOMENT), Err(RecvError::Empty));
        drop(clone);
        assert_eq!(receiver.recv_timeout(MOMENT), Ok(None));
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        drop(receiver);
        for len in [1, 1 << 20] {
            let error = sender.send(vec![7; len]).unwrap_err();
            assert_eq!((error.kind, error.value.len()), (SendErrorKind::Closed, len));
        }
    });
}

#[test]
fn a_limit_of_time_is_kept() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<u32>().unwrap();
        assert_eq!(receiver.try_recv(), Err(RecvError::Empty));
        let start = Instant::now();
        assert_eq!(receiver.recv_timeout(MOMENT), Err(RecvError::Empty));
        assert!(start.elapsed() >= MOMENT);
        assert!(!receiver.poll(Duration::ZERO).unwrap() && !receiver.poll(MOMENT).unwrap());
        let mut sent = 0;
        while sender.try_send(sent).is_ok() {
            sent += 1;
        }
        assert!(sent > 20, "room for some: {sent}");
        let start = Instant::now();
        let error = sender.send_timeout(9, MOMENT).unwrap_err();
        assert_eq!((error.kind, error.value), (SendErrorKind::Full, 9));
        assert!(start.elapsed() >= MOMENT);
        for n in 0..sent {
            assert_eq!(receiver.try_recv(), Ok(Some(n)));
        }
        assert_eq!(receiver.try_recv(), Err(RecvError::Empty));
        sender.try_send(1).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::MAX), Ok(Some(1)));
    });
}

#[test]
fn a_long_message_out_of_time_never_was() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        sender.send(vec![1]).unwrap();
        let error = sender.send_timeout(vec![2; 8 << 20], MOMENT).unwrap_err();
        assert_eq!((error.kind, error.value.len()), (SendErrorKind::Full, 8 << 20));
        assert_eq!(sender.try_send(vec![3; 8 << 20]).unwrap_err().kind, SendErrorKind::Full);
        sender.send(vec![4]).unwrap();
        assert_eq!(receiver.recv().unwrap(), Some(vec![1]));
        assert_eq!(receiver.recv().unwrap(), Some(vec![4]));
        assert_eq!(receiver.try_recv(), Err(RecvError::Empty));
    });
}

#[test]
fn bytes_go_as_they_are_and_a_short_buffer_loses_none() {
    robust(LIMIT, || {
        let (here, there) = duplex::<u64, u64>().unwrap();
        let mut buffer = [9; 8];
        here.send_bytes(b"hello").unwrap();
        assert_eq!(there.recv_bytes_into(&mut buffer).unwrap(), Some(5));
        assert_eq!(&buffer, b"hello\x09\x09\x09");
        here.send_bytes(b"too long a word").unwrap();
        let Err(RecvError::TooShort { message }) = there.recv_bytes_into(&mut buffer) else { panic!() };
        assert_eq!(message, b"too long a word");
        here.send(7).unwrap();
        assert_eq!(there.recv_bytes_into(&mut buffer).unwrap(), Some(8));
        assert_eq!(u64::from_le_bytes(buffer), 7);
        drop(here);
        assert_eq!(there.recv_bytes_into(&mut buffer).unwrap(), None);
    });
}

#[test]
fn what_cannot_be_decoded_harms_nothing_else() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<String>().unwrap();
        sender.send_bytes(b"no string").unwrap();
        sender.send("a string".into()).unwrap();
        assert!(matches!(receiver.recv(), Err(RecvError::Decode(_))));
        assert_eq!(receiver.recv().unwrap().as_deref(), Some("a string"));
    });
}

#[test]
fn wait_tells_all_that_are_ready() {
    robust(LIMIT, || {
        let (first, first_out) = pipe::<u32>().unwrap();
        let (second, second_out) = pipe::<u32>().unwrap();
        let child = Process::new(procession::drill::echo::<u32>, (1,)).start().unwrap();
        child.wait().unwrap();
        let all: [&dyn AsFd; 4] = [&first_out, &second_out, &child, &first];
        assert_eq!(wait(&all, None).unwrap(), [2]);
        assert!(wait(&all[..2], Some(MOMENT)).unwrap().is_empty());
        assert!(wait(&[], Some(MOMENT)).unwrap().is_empty());
        second.send(1).unwrap();
        assert_eq!(wait(&all, None).unwrap(), [1, 2]);
        drop(second);
        second_out.recv().unwrap();
        assert_eq!(wait(&all[..2], None).unwrap(), [1], "its end is something to hear of");
        let later = thread::spawn(move || {
            thread::sleep(MOMENT);
            first.send(5).unwrap();
            first
        });
        assert_eq!(wait(&[&first_out], Some(LIMIT)).unwrap(), [0]);
        assert_eq!(first_out.recv().unwrap(), Some(5));
        let first = later.join().unwrap();
        drop(first_out);
        assert_eq!(wait(&[&first], None).unwrap(), [0], "nobody will receive");
    });
}

#[test]
fn ten_thousand_pipes_come_and_go() {
    robust(LIMIT, || {
        for n in 0..10_000_u32 {
            let (sender, receiver) = pipe().unwrap();
            sender.send(n).unwrap();
            if n % 2 == 0 {
                assert_eq!(receiver.recv().unwrap(), Some(n));
            }
        }
    });
}

#[test]
fn any_messages_arrive_as_they_were_sent() {
    let strategy = prop::collection::vec((0..5_u8, any::<prop::sample::Index>()), 0..30);
    robust(LIMIT, || {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(25) };
        proptest!(config, |(shapes in &strategy)| {
            let len = |&(shape, by): &(u8, prop::sample::Index)| match shape {
                0 => 0,
                1 => by.index(100),
                2 => by.index(70_000),
                3 => 65_500 + by.index(100),
                _ => by.index(3 << 20),
            };
            let (sender, receiver) = pipe::<u8>().unwrap();
            thread::scope(|scope| {
                let lens: Vec<usize> = shapes.iter().map(len).collect();
                let told = lens.clone();
                scope.spawn(move || {
                    for (seed, len) in told.into_iter().enumerate() {
                        sender.send_bytes(&pattern(seed, len)).unwrap();
                    }
                });
                for (seed, len) in lens.into_iter().enumerate() {
                    assert!(receiver.recv_bytes().unwrap().unwrap() == pattern(seed, len));
                }
                assert_eq!(receiver.recv_bytes().unwrap(), None);
            });
        });
    });
}
