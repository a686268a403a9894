//! A peer that speaks for itself: whatever it sends, we go on.

use crate::LIMIT;
use crate::support::robust;
use procession::{Receiver, RecvError, SendErrorKind, Sender, pipe};
use procession_worker::sys::{memory, socket};
use proptest::prelude::*;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

const TERA: u64 = 1 << 40;

fn long_head(length: u64, handles: u64) -> Vec<u8> {
    let mut head = vec![1];
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&handles.to_le_bytes());
    head
}

/// Sends a packet as no honest end does.
fn raw<T>(sender: &Sender<T>, bytes: &[u8], fds: &[&dyn AsFd]) {
    let numbers: Vec<_> = fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    socket::send(sender, bytes, &numbers, true).unwrap();
}

/// A long message that says what it likes: its file, and the stub of its label.
fn post<T>(sender: &Sender<T>, length: u64, handles: u64, body: &[u8]) -> (File, OwnedFd) {
    let mut file = File::from(memory::unsealed_memfd(c"a-lie").unwrap());
    file.write_all(body).unwrap();
    let (stub, label) = socket::pair().unwrap();
    raw(sender, &long_head(length, handles), &[&file, &label]);
    (file, stub)
}

fn usable(sender: &Sender<Vec<u8>>, receiver: &Receiver<Vec<u8>>) {
    sender.send(vec![1, 2, 3]).unwrap();
    assert_eq!(receiver.recv_timeout(LIMIT).unwrap(), Some(vec![1, 2, 3]));
}

#[test]
fn a_message_that_is_taken_back_is_passed_over() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        for length in [4, 10] {
            let (file, stub) = post(&sender, length, 0, b"0123");
            socket::hear_no_more(&stub);
            file.set_len(0).unwrap();
            usable(&sender, &receiver);
        }
        drop(post(&sender, 4, 0, b"0123"));
        usable(&sender, &receiver);
        let (_file, stub) = post(&sender, 4, 0, b"0123");
        assert_eq!(receiver.recv_bytes().unwrap().unwrap(), b"0123");
        assert_eq!(socket::receive(&stub, &mut [0], &mut Vec::new(), false).unwrap().len, 1, "it is taken");
        let (_file, stub) = post(&sender, 4, 0, b"0123");
        socket::hear_no_more(&stub);
        drop(sender);
        assert_eq!(receiver.recv_timeout(LIMIT), Ok(None));
    });
}

#[test]
fn nonsense_is_told_and_forgotten() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        let null = File::open("/dev/null").unwrap();
        let check = |bytes: &[u8], fds: &[&dyn AsFd]| {
            raw(&sender, bytes, fds);
            assert_eq!(
                receiver.recv_timeout(LIMIT),
                Err(RecvError::Nonsense),
                "{:?}",
                &bytes[..bytes.len().min(30)]
            );
            usable(&sender, &receiver);
        };
        check(&[2], &[]);
        check(&[255; 100], &[&null, &null]);
        check(&[0; 70_000], &[&null]);
        check(&[1], &[&null]);
        let (stub, label) = socket::pair().unwrap();
        check(&long_head(1, 0), &[&null, &label]);
        let file = File::from(memory::unsealed_memfd(c"a-lie").unwrap());
        check(&long_head(1, 0), &[&file, &label]);
        check(&long_head(0, 1), &[&file, &label]);
        socket::send(&stub, &[0], &[null.as_raw_fd(), null.as_raw_fd()], false).unwrap();
        check(&long_head(0, 1), &[&file, &label]);
        check(&long_head(0, 1), &[&file, &null]);
        check(&long_head(0, 0), &[&file, &label, &null]);
        check(&long_head(5, 0), &[]);
        check(&long_head(5, 0), &[&null]);
        check(&long_head(5, 1), &[&null]);
        check(&long_head(5, 1 << 40), &[&null]);
        raw(&sender, &long_head(TERA, 0)[..16], &[&null]);
        assert_eq!(receiver.recv_timeout(LIMIT), Err(RecvError::Nonsense));
        usable(&sender, &receiver);
        // Descriptors that nobody asked for are closed, as the end of this test shows.
        raw(&sender, &[0], &[&null, &null, &null]);
        assert!(matches!(receiver.recv_timeout(LIMIT), Err(RecvError::Decode(_))));
        usable(&sender, &receiver);
    });
}

#[test]
fn a_false_length_costs_no_memory() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        // A hole of that length.
        let (file, _stub) = post(&sender, TERA, 0, b"0123");
        file.set_len(TERA).unwrap();
        assert_eq!(receiver.recv_timeout(LIMIT), Err(RecvError::Nonsense));
        for length in [TERA + 1, u64::MAX] {
            raw(&sender, &long_head(length, 0), &[&File::open("/dev/null").unwrap()]);
            assert_eq!(receiver.recv_timeout(LIMIT), Err(RecvError::TooLong { length }));
        }
        usable(&sender, &receiver);
    });
}

#[test]
fn a_receiver_that_gives_up_is_told_to_the_sender() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Vec<u8>>().unwrap();
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| sender.send(vec![1; 4 << 20]));
            // Takes the packet, and with it the file, and drops both.
            let (mut packet, mut fds) = ([0; 64], Vec::new());
            socket::receive(&receiver, &mut packet, &mut fds, true).unwrap();
            drop(fds);
            let error = sending.join().unwrap().unwrap_err();
            assert_eq!((error.kind, error.value.len()), (SendErrorKind::Refused, 4 << 20));
        });
        usable(&sender, &receiver);
    });
}

#[test]
fn what_is_no_end_is_refused_as_one() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<Receiver<u8>>().unwrap();
        let (stream, _other) = socket::stream_pair().unwrap();
        for fd in [File::open("/dev/null").unwrap().into(), stream] {
            raw(&sender, &[0], &[&fd]);
            let error = receiver.recv_timeout(LIMIT).unwrap_err();
            assert!(error.to_string().contains("no end of a connection"), "{error}");
        }
    });
}

/// A packet's shape, its first and its other bytes, and how many descriptors go with it.
type Packet = (u8, Vec<u8>, Vec<u8>, usize);

fn mischief(packets: Vec<Packet>) {
    type Value = (Vec<String>, Option<procession::Handle<File>>);
    let (sender, receiver) = pipe::<Value>().unwrap();
    let null = File::open("/dev/null").unwrap();
    let mut stubs = Vec::new();
    for (shape, mut head, body, fds) in packets {
        match shape {
            0 => raw(&sender, &head, &vec![&null as &dyn AsFd; fds]),
            1 => {
                head.insert(0, 1);
                raw(&sender, &head, &vec![&null as &dyn AsFd; fds]);
            }
            _ => {
                let length = (body.len() as u64 + u64::from(head[0]) % 3).saturating_sub(1);
                let (file, stub) = post(&sender, length, fds as u64 / 2, &body);
                if head[0] % 7 == 0 {
                    file.set_len(0).unwrap();
                }
                if head[0] % 5 == 0 {
                    socket::hear_no_more(&stub);
                }
                if shape == 3 {
                    stubs.push(stub);
                }
            }
        }
    }
    for _ in 0..12 {
        let _ = receiver.try_recv();
    }
    drop((sender, stubs));
    while !matches!(receiver.recv_timeout(LIMIT), Ok(None)) {}
}

#[test]
fn arbitrary_packets_never_panic_nor_hang() {
    let bytes = |from| prop::collection::vec(any::<u8>(), from..40);
    let packets = prop::collection::vec((0..4_u8, bytes(1), bytes(0), 0..3_usize), 0..10);
    robust(LIMIT, || {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
        proptest!(config, |(packets in &packets)| mischief(packets));
    });
}
