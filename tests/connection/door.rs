//! Named doors: who gets in, who does not, and what those who do not cost the others.

use crate::support::{poll, robust};
use crate::{LIMIT, MOMENT};
use procession::{Client, ConnectError, Connection, Listener, Process};
use proptest::prelude::*;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"open sesame";

fn fresh() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("@procession-test-door-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn knock(name: &str) -> UnixStream {
    let address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
    UnixStream::connect_addr(&address).unwrap()
}

fn meet(listener: &Listener, client: impl FnOnce() -> Result<Connection<u8, u8>, ConnectError> + Send) {
    thread::scope(|scope| {
        let client = scope.spawn(client);
        let here = listener.accept_timeout::<u8, u8>(LIMIT).unwrap().expect("it comes in");
        let there = client.join().unwrap().unwrap();
        here.send(1).unwrap();
        there.send(2).unwrap();
        assert_eq!((here.recv().unwrap(), there.recv().unwrap()), (Some(2), Some(1)));
        for end in [&here, &there] {
            assert_eq!(end.peer().unwrap().pid, std::process::id());
        }
    });
}

/// Sees to the door until then.
fn nobody_comes(listener: &Listener, over: impl Fn() -> bool) {
    while !over() {
        assert!(listener.accept_timeout::<u8, u8>(MOMENT).unwrap().is_none());
    }
}

#[test]
fn a_name_is_a_path_or_abstract() {
    robust(LIMIT, || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(listener.name(), path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        meet(&listener, || Client::connect(&path));
        let error = Listener::bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        drop(listener);
        assert!(!path.exists(), "nothing is left behind");
        for name in [fresh(), fresh().replace('@', "\0")] {
            let listener = Listener::bind(&name).unwrap();
            meet(&listener, || Client::connect(&name));
            assert_eq!(Listener::bind(&name).unwrap_err().kind(), ErrorKind::AddrInUse);
        }
        let listener = Listener::builder().mode(0o666).bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666 & !umask());
        drop(listener);
    });
}

fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}

#[test]
fn only_who_knows_the_key_comes_in() {
    robust(LIMIT, || {
        let name = fresh();
        let listener = Listener::builder().key(KEY).bind(&name).unwrap();
        let denied = |builder: procession::ClientBuilder, word: &str| {
            thread::scope(|scope| {
                let client = scope.spawn(|| builder.connect::<u8, u8>(&name).map(drop));
                nobody_comes(&listener, || client.is_finished());
                match client.join().unwrap() {
                    Err(ConnectError::Denied(why)) => assert!(why.contains(word), "{why}"),
                    other => panic!("{other:?}"),
                }
            });
        };
        denied(Client::builder().key(b"open barley"), "same key");
        denied(Client::builder(), "one side has a key");
        assert_eq!(listener.turned_away().0, 2);
        meet(&listener, || Client::builder().key(KEY).connect(&name));
        drop(listener);
        let name = fresh();
        let listener = Listener::bind(&name).unwrap();
        thread::scope(|scope| {
            let client = scope.spawn(|| Client::builder().key(KEY).connect::<u8, u8>(&name).map(drop));
            nobody_comes(&listener, || client.is_finished());
            assert!(matches!(client.join().unwrap(), Err(ConnectError::Denied(_))));
        });
    });
}

#[test]
fn fifty_bogus_peers_keep_nobody_out() {
    robust(LIMIT, || {
        let name = fresh();
        let listener = Listener::builder().key(KEY).bind(&name).unwrap();
        let mut bogus = Vec::new();
        for n in 0..50 {
            let mut peer = knock(&name);
            match n % 5 {
                0 => {}
                1 => peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap(),
                2 => peer.write_all(b"proces").unwrap(),
                3 => peer
                    .write_all(&[b"procession\x02\x01", &[0; 12], &[7; 32][..], &[8; 32]].concat())
                    .unwrap(),
                _ => {
                    drop(peer);
                    continue;
                }
            }
            bogus.push(peer);
        }
        let start = Instant::now();
        meet(&listener, || Client::builder().key(KEY).connect(&name));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(listener.accept_timeout::<u8, u8>(MOMENT).unwrap().is_none());
        let (count, why) = listener.turned_away();
        assert!(count >= 20 && why.is_some(), "{count} {why:?}");
        // And those who drip, while others come in.
        let over = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (over, bogus) = (&over, &mut bogus);
            scope.spawn(move || {
                while over.load(Ordering::Relaxed) == 0 {
                    for peer in &mut *bogus {
                        let _ = peer.write(b"p");
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            for _ in 0..20 {
                meet(&listener, || Client::builder().key(KEY).connect(&name));
            }
            over.store(1, Ordering::Relaxed);
        });
    });
}

#[test]
fn who_is_too_slow_is_sent_away() {
    robust(LIMIT, || {
        let name = fresh();
        let listener = Listener::builder().handshake_timeout(MOMENT).bind(&name).unwrap();
        let mut silent = knock(&name);
        nobody_comes(&listener, || listener.turned_away().0 > 0);
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
        let (count, why) = listener.turned_away();
        assert!(count == 1 && why.as_deref().unwrap().contains("not done within"), "{why:?}");
    });
}

#[test]
fn a_crowd_at_the_door_does_not_use_up_our_descriptors() {
    robust(LIMIT, || {
        let name = fresh();
        let listener = Listener::builder().backlog(4000).bind(&name).unwrap();
        let crowd: Vec<_> = (0..300).map(|_| knock(&name)).collect();
        meet(&listener, || Client::connect(&name));
        assert!(listener.turned_away().0 > 150);
        assert!(fs::read_dir("/proc/self/fd").unwrap().count() < 300 + 200);
        drop(crowd);
    });
}

#[test]
fn several_threads_accept() {
    robust(LIMIT, || {
        let name = fresh();
        let listener = Listener::builder().key(KEY).bind(&name).unwrap();
        let served = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(line) =
                        listener.accept_timeout::<u64, u64>(Duration::from_secs(2)).unwrap()
                    {
                        line.send(line.recv().unwrap().unwrap() + 1).unwrap();
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..25 {
                        let line = Client::builder().key(KEY).connect::<u64, u64>(&name).unwrap();
                        line.send(n).unwrap();
                        assert_eq!(line.recv().unwrap(), Some(n + 1));
                    }
                });
            }
        });
        assert_eq!(served.into_inner(), 100);
    });
}

/// Listens, says so by a file, and is killed.
fn listen_for_ever(name: PathBuf) {
    let _listener = Listener::bind(name).unwrap();
    thread::park();
}

#[test]
fn the_file_of_a_killed_listener_is_taken_over_and_no_other() {
    robust(LIMIT, || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        let child = Process::new(listen_for_ever, (path.clone(),)).start().unwrap();
        poll("it listens", LIMIT, || path.exists());
        assert!(Listener::bind(&path).is_err(), "its listener lives");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(path.exists());
        assert!(matches!(Client::connect::<u8, u8>(&path), Err(ConnectError::Absent(_))));
        // Of many who want it one has it, and it can be reached.
        let listeners: Vec<_> = thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| Listener::bind(&path))).collect();
            tries.into_iter().filter_map(|done| done.join().unwrap().ok()).collect()
        });
        assert_eq!(listeners.len(), 1);
        meet(&listeners[0], || Client::connect(&path));
        // One that another has put in its place stays.
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(listeners);
        assert!(path.exists());
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a letter").unwrap();
        assert_eq!(Listener::bind(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a letter");
    });
}

#[test]
fn a_client_does_not_wait_for_ever() {
    robust(LIMIT, || {
        let timed_out = |name: &str| {
            let start = Instant::now();
            let result = Client::builder().timeout(MOMENT * 3).connect::<u8, u8>(name);
            assert!(matches!(result, Err(ConnectError::TimedOut)), "{result:?}");
            assert!(start.elapsed() >= MOMENT * 2 && start.elapsed() < Duration::from_secs(20));
        };
        let name = fresh();
        let silent = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name[1..]).unwrap()).unwrap();
        timed_out(&name);
        drop(silent);
        // One with no place left in front of it.
        let name = fresh();
        let listener = Listener::builder().backlog(0).bind(&name).unwrap();
        let _first = knock(&name);
        timed_out(&name);
        drop(listener);
        let absent = Client::connect::<u8, u8>(&name);
        assert!(matches!(absent, Err(ConnectError::Absent(_))), "{absent:?}");
        let absent = Client::connect::<u8, u8>(Path::new("/nowhere/at/all"));
        assert!(matches!(absent, Err(ConnectError::Absent(_))), "{absent:?}");
    });
}

fn as_nobody(name: String) -> Vec<String> {
    nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534)).unwrap();
    let polite = Client::connect::<u8, u8>(&name).unwrap_err();
    let bold = Client::builder().any_user().connect::<u8, u8>(&name).unwrap_err();
    vec![format!("{polite:?}"), format!("{bold:?}")]
}

#[test]
fn another_user_stays_outside() {
    // Only root can become somebody else.
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    robust(LIMIT, || {
        let name = fresh();
        let listener = Listener::bind(&name).unwrap();
        let child = Process::new(as_nobody, (name,)).start().unwrap();
        while child.exit().is_none() {
            assert!(listener.accept_timeout::<u8, u8>(MOMENT).unwrap().is_none());
        }
        let told = child.join().unwrap();
        assert!(told[0].contains("belongs to user 0") && told[1].contains("hung up"), "{told:?}");
        assert!(listener.turned_away().1.unwrap().contains("another user"));
    });
}

/// Knocks, says half of what it should, and is killed.
fn half_way(name: String) {
    let mut stream = knock(&name);
    stream.write_all(b"procession\x02\x00").unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn who_dies_at_the_door_is_forgotten() {
    robust(LIMIT, || {
        let name = fresh();
        let listener = Listener::bind(&name).unwrap();
        for _ in 0..5 {
            Process::new(half_way, (name.clone(),)).start().unwrap().wait().unwrap();
        }
        meet(&listener, || Client::connect(&name));
        // Whoever came in was perhaps heard before those who had died.
        assert!(listener.accept_timeout::<u8, u8>(MOMENT).unwrap().is_none());
        assert_eq!(listener.turned_away().0, 5);
    });
}

#[test]
fn arbitrary_listeners_never_panic_a_client() {
    let pieces = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..5);
    robust(LIMIT, || {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) };
        proptest!(config, |(polite: bool, pieces in &pieces)| {
            let name = fresh();
            let door = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name[1..]).unwrap()).unwrap();
            thread::scope(|scope| {
                let client = scope.spawn(|| Client::builder().timeout(MOMENT).connect::<u8, u8>(&name).map(drop));
                let (mut stream, _) = door.accept().unwrap();
                if polite {
                    let _ = stream.write_all(&[b"procession\x02\x00", &[0; 12], &[7; 32][..]].concat());
                }
                for piece in pieces {
                    let _ = stream.write_all(&piece);
                }
                assert!(client.join().unwrap().is_err());
            });
        });
    });
}
