//! Descriptors travel in messages: as arguments, as results, inside whatever, to grandchildren; none is lost and none is
//! left.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use nix::sys::resource::{Resource, setrlimit};
use procession::{Exit, Pool, Process, TaskError};
use procession_worker::ipc::handoff;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::robust;

const MINUTE: Duration = Duration::from_secs(60);

/// The least that a type which stands on a descriptor has to do.
#[derive(Debug, Clone)]
struct Fd(Arc<OwnedFd>);

impl Fd {
    /// A file with a number in it.
    fn with(number: u64) -> Self {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&number.to_le_bytes()).unwrap();
        Self(Arc::new(file.into()))
    }

    fn file(&self) -> File {
        self.0.try_clone().unwrap().into()
    }

    fn number(&self) -> u64 {
        let (mut file, mut number) = (self.file(), [0; 8]);
        file.rewind().unwrap();
        file.read_exact(&mut number).unwrap();
        u64::from_le_bytes(number)
    }
}

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handoff::give(Arc::clone(&self.0)).map_err(S::Error::custom)?;
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer)?;
        Ok(Self(Arc::new(handoff::take().map_err(D::Error::custom)?)))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Nested {
    name: String,
    all: Vec<(u8, Option<Fd>)>,
}

fn numbers(all: Vec<Fd>) -> Vec<u64> {
    all.iter().map(Fd::number).collect()
}

fn files(range: std::ops::Range<u64>) -> Vec<Fd> {
    range.map(Fd::with).collect()
}

fn nested(mut nested: Nested) -> Nested {
    nested.name.push('!');
    nested.all.push((9, Some(Fd::with(99))));
    nested
}

#[test]
fn a_process_takes_and_returns_them() {
    robust(MINUTE, || {
        let child = Process::new(
            nested,
            (Nested { name: "n".into(), all: vec![(1, Some(Fd::with(11))), (2, None)] },),
        );
        let back = child.start().unwrap().join().unwrap();
        assert_eq!(back.name, "n!");
        let numbers: Vec<_> = back.all.iter().map(|(tag, fd)| (*tag, fd.as_ref().map(Fd::number))).collect();
        assert_eq!(numbers, [(1, Some(11)), (2, None), (9, Some(99))]);
    });
}

#[test]
fn more_than_one_system_call_carries_them() {
    robust(MINUTE, || {
        let child = Process::new(numbers, (files(0..700),)).start().unwrap();
        assert_eq!(child.join().unwrap(), (0..700).collect::<Vec<_>>());
        let child = Process::new(files, (5..705,)).start().unwrap();
        assert_eq!(numbers(child.join().unwrap()), (5..705).collect::<Vec<_>>());
    });
}

fn from_grandchild(fd: Fd) -> Fd {
    assert_eq!(fd.number(), 3);
    let pool = Pool::new(1).unwrap();
    pool.apply(|fd: Fd| fd, (fd,)).unwrap()
}

#[test]
fn they_go_from_child_to_grandchild_and_all_the_way_back() {
    robust(MINUTE, || {
        let back = Process::new(from_grandchild, (Fd::with(3),)).start().unwrap().join().unwrap();
        assert_eq!(back.number(), 3);
    });
}

#[test]
fn a_pool_maps_over_them_and_returns_them() {
    robust(MINUTE, || {
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.map(|fd: Fd| fd.number(), files(0..900)).unwrap(), (0..900).collect::<Vec<_>>());
        // Results without and with descriptors, in one chunk.
        let back = pool.map(|n: u64| (n, n.is_multiple_of(3).then(|| Fd::with(n))), 0..900).unwrap();
        for (n, fd) in back {
            assert_eq!(fd.map(|fd| fd.number()), n.is_multiple_of(3).then_some(n));
        }
        let back: Vec<u64> =
            pool.imap(|fd: Fd| (fd.clone(), fd), files(0..200)).map(|two| two.unwrap().1.number()).collect();
        assert_eq!(back, (0..200).collect::<Vec<_>>());
        assert_eq!(
            pool.starmap(|a: Fd, b: u64| a.number() + b, [(Fd::with(1), 2), (Fd::with(3), 4)]).unwrap(),
            [3, 7]
        );
    });
}

static SEEN: AtomicU64 = AtomicU64::new(0);

fn die() {
    std::process::abort();
}

fn seen(_: u8) -> u64 {
    SEEN.load(Ordering::Relaxed)
}

#[test]
fn each_worker_gets_those_of_the_initializer() {
    robust(MINUTE, || {
        let initializer = |fd: Fd| SEEN.store(fd.number(), Ordering::Relaxed);
        let pool = Pool::builder().workers(2).initializer(initializer, (Fd::with(77),)).build().unwrap();
        assert_eq!(pool.map(seen, 0..40).unwrap(), [77; 40]);
        // And so does who comes in the place of a worker that has died.
        for _ in 0..3 {
            assert!(matches!(pool.apply(die, ()), Err(TaskError::Lost(_))));
        }
        assert_eq!(pool.map(seen, 0..40).unwrap(), [77; 40]);
    });
}

#[test]
fn a_task_that_is_tried_again_gets_them_again() {
    robust(MINUTE, || {
        let pool = Pool::builder().workers(2).retries(2).build().unwrap();
        // The file's position is shared, and tells how often it has been tried.
        let attempts = |fd: Fd| {
            let mut file = fd.file();
            let before = file.stream_position().unwrap();
            file.seek_relative(1).unwrap();
            if before < 10 { std::process::abort() } else { before }
        };
        assert_eq!(pool.map(attempts, files(0..8)).unwrap(), [10; 8]);
    });
}

#[test]
fn a_worker_killed_in_a_chunk_costs_one_item_and_its_neighbours_keep_theirs() {
    robust(MINUTE, || {
        let pool = Pool::builder().workers(2).chunk_size(16.try_into().unwrap()).build().unwrap();
        let risky = |fd: Fd| {
            let number = fd.number();
            if number == 21 { std::process::abort() } else { (number, fd) }
        };
        for (n, result) in (0..).zip(pool.imap(risky, files(0..48))) {
            match result {
                Ok((number, fd)) => assert_eq!((number, fd.number()), (n, n)),
                Err(TaskError::Lost(lost)) => assert_eq!((n, lost.exit()), (21, Exit::Signal(6))),
                Err(error) => panic!("{n}: {error}"),
            }
        }
    });
}

/// Gives its descriptor, and then cannot be encoded after all.
#[derive(Debug)]
struct Refuses(Fd);

impl Serialize for Refuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let _ = self.0.serialize(serializer)?;
        Err(S::Error::custom("not today"))
    }
}

impl<'de> Deserialize<'de> for Refuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Fd::deserialize(deserializer)?))
    }
}

#[test]
fn what_cannot_be_encoded_leaves_nothing_for_the_next_message() {
    robust(MINUTE, || {
        let pool = Pool::new(1).unwrap();
        let error = pool.apply(|it: Refuses| it.0.number(), (Refuses(Fd::with(1)),)).unwrap_err();
        assert!(matches!(error, TaskError::Encode(_)), "{error}");
        assert_eq!(pool.apply(|fd: Fd| fd.number(), (Fd::with(2),)).unwrap(), 2);
        let error = pool.apply(|| Refuses(Fd::with(3)), ()).unwrap_err();
        assert!(matches!(error, TaskError::Encode(_)), "{error}");
        assert_eq!(pool.apply(|| Fd::with(4), ()).unwrap().number(), 4);
        let error = pool.apply(|| assert!(Fd::with(5).number() == 0), ()).unwrap_err();
        assert!(matches!(error, TaskError::Panicked(_)), "{error}");
        assert_eq!(pool.apply(|| Fd::with(6), ()).unwrap().number(), 6);
    });
}

#[test]
fn more_than_any_message_may_have_are_refused() {
    robust(MINUTE, || {
        let one = Fd::with(1);
        let error = Process::new(numbers, (vec![one; handoff::MOST + 1],)).start().unwrap_err();
        assert!(error.to_string().contains("in one message"), "{error}");
    });
}

fn with_few_descriptors(fds: Vec<Fd>) -> usize {
    fds.len()
}

#[test]
fn a_worker_without_room_for_them_says_so_and_serves_on() {
    robust(MINUTE, || {
        let limit = || setrlimit(Resource::RLIMIT_NOFILE, 40, 40).unwrap();
        let pool = Pool::builder().workers(1).initializer(limit, ()).build().unwrap();
        let error = pool.apply(with_few_descriptors, (files(0..300),)).unwrap_err();
        assert!(matches!(error, TaskError::Decode(_)), "{error}");
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        assert_eq!(pool.apply(with_few_descriptors, (files(0..5),)).unwrap(), 5);
        assert_eq!(pool.map(|fd: Fd| fd.number(), files(0..10)).unwrap(), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn no_other_format_can_carry_them() {
    let error = serde_json::to_string(&Fd::with(1)).unwrap_err();
    assert!(error.to_string().contains("open descriptor"), "{error}");
    assert!(serde_json::from_str::<Fd>("null").unwrap_err().to_string().contains("open descriptor"));
}

#[test]
fn killed_at_any_moment_they_are_lost_and_nothing_is_left() {
    robust(2 * MINUTE, || {
        for _ in 0..10 {
            let pool = Pool::builder().workers(2).retries(3).build().unwrap();
            let pending = pool.map_async(|fd: Fd| (fd.number(), fd), files(0..300));
            for pid in pool.worker_pids() {
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
                    nix::sys::signal::SIGKILL,
                )
                .unwrap();
            }
            let back = pending.get().unwrap();
            for (n, (number, fd)) in (0..).zip(back) {
                assert_eq!((number, fd.number()), (n, n));
            }
        }
    });
}
