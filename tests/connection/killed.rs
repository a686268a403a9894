//! Peers that are killed and stopped, as processes.

use crate::support::{poll, robust, state_of};
use crate::{LIMIT, MOMENT, pattern};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::{Child, Client, Connection, Exit, Listener, Process, RecvError, SendErrorKind};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

type Line = Connection<Vec<u8>, Vec<u8>>;

/// A child at the other end, which does what `task` does with the name it is given.
fn opposite<R>(task: impl Fn(String) -> R + Copy + Send + Sync + 'static) -> (Child<R>, Line)
where
    R: serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    let name = format!("@procession-test-{:x}", RandomState::new().build_hasher().finish());
    let listener = Listener::bind(&name).unwrap();
    let child = Process::new(task, (name,)).start().unwrap();
    let line = listener.accept_timeout(LIMIT).unwrap().expect("the child connects");
    assert_eq!(line.peer().unwrap().pid, child.pid());
    (child, line)
}

fn call(name: String) -> Line {
    Client::connect(name).unwrap()
}

fn signal<R>(child: &Child<R>, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.pid()).unwrap()), signal).unwrap();
}

/// Sends messages of all sizes for ever.
fn flood(name: String) {
    let line = call(name);
    for number in 0.. {
        line.send_bytes(&pattern(number, len(number))).unwrap();
    }
}

fn len(number: usize) -> usize {
    [8, 300, 0, 70_000, 20_000, 1 << 20, 65_535][number % 7]
}

fn vast(name: String) {
    let line = call(name);
    line.send_bytes(&vec![7; 64 << 20]).unwrap();
}

fn silent(name: String) {
    let _line = call(name);
    std::thread::park();
}

fn echo(name: String) -> usize {
    let line = call(name);
    let messages = std::iter::from_fn(|| line.recv_bytes().unwrap());
    messages.map(|bytes| line.send_bytes(&bytes).unwrap()).count()
}

#[test]
fn messages_go_there_and_back() {
    robust(LIMIT, || {
        let (child, line) = opposite(echo);
        for number in 0..50 {
            line.send_bytes(&pattern(number, len(number))).unwrap();
            assert!(line.recv_bytes().unwrap().unwrap() == pattern(number, len(number)));
        }
        drop(line);
        assert_eq!(child.join().unwrap(), 50);
    });
}

#[test]
fn a_sender_killed_at_any_moment_leaves_whole_messages_and_then_the_end() {
    robust(LIMIT, || {
        let random = |below| RandomState::new().build_hasher().finish() % below;
        for _ in 0..20 {
            let (child, line) = opposite(flood);
            let seen = std::thread::scope(|scope| {
                let reading = scope.spawn(|| {
                    let mut seen = 0;
                    loop {
                        match line.recv_bytes_timeout(LIMIT) {
                            Ok(Some(bytes)) => assert!(bytes == pattern(seen, len(seen)), "message {seen}"),
                            Ok(None) => return seen,
                            Err(error) => panic!("{error}"),
                        }
                        seen += 1;
                    }
                });
                std::thread::sleep(Duration::from_micros(random(20_000)));
                child.kill().unwrap();
                reading.join().unwrap()
            });
            assert_eq!(line.send(vec![1]).unwrap_err().kind, SendErrorKind::Closed, "after {seen}");
        }
    });
}

#[test]
fn a_sender_killed_while_its_message_waits_has_not_sent_it() {
    robust(LIMIT, || {
        let (child, line) = opposite(vast);
        assert!(line.poll(LIMIT).unwrap());
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Signal(9));
        assert_eq!(line.recv_bytes_timeout(LIMIT), Ok(None));
    });
}

#[test]
fn a_receiver_killed_before_it_took_64_mebibytes_is_told_to_the_sender() {
    robust(LIMIT, || {
        let (child, line) = opposite(silent);
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| line.send_bytes(&vec![7; 64 << 20]));
            std::thread::sleep(MOMENT);
            child.kill().unwrap();
            let error = sending.join().unwrap().unwrap_err();
            assert_eq!(error.kind, SendErrorKind::Closed);
        });
        assert_eq!(line.recv(), Ok(None));
    });
}

#[test]
fn a_stopped_peer_is_slow_and_not_dead() {
    robust(LIMIT, || {
        let (child, line) = opposite(echo);
        line.send(vec![1]).unwrap();
        assert_eq!(line.recv().unwrap(), Some(vec![1]));
        signal(&child, Signal::SIGSTOP);
        poll("it stops", LIMIT, || state_of(child.pid()) == Some('T'));
        assert_eq!(line.recv_timeout(MOMENT), Err(RecvError::Empty));
        assert_eq!(line.send_timeout(vec![2; 8 << 20], MOMENT).unwrap_err().kind, SendErrorKind::Full);
        let mut sent = 0_usize;
        while line.try_send(vec![sent as u8]).is_ok() {
            sent += 1;
        }
        assert_eq!(line.send_timeout(vec![0], MOMENT).unwrap_err().kind, SendErrorKind::Full);
        signal(&child, Signal::SIGCONT);
        for n in 0..sent {
            assert_eq!(line.recv_timeout(LIMIT).unwrap(), Some(vec![n as u8]));
        }
        drop(line);
        assert_eq!(child.join().unwrap(), sent + 1);
    });
}

#[test]
fn a_peer_killed_at_rest_is_the_end() {
    robust(LIMIT, || {
        let (child, line) = opposite(silent);
        assert_eq!(line.recv_timeout(MOMENT), Err(RecvError::Empty));
        child.kill().unwrap();
        assert_eq!(line.recv_timeout(LIMIT), Ok(None));
    });
}
