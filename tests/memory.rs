//! Values, arrays and bytes that processes share: what they promise, and what a killed process does to them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use procession::{Array, FrozenArray, Plain, Pool, Process, SharedMemory, Value};
use procession_worker::ipc::handoff::{Incoming, pack, unpack};
use procession_worker::wire::codec;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{repeats, robust};

const LIMIT: Duration = Duration::from_secs(60);

procession::plain! {
    #[derive(Debug, PartialEq)]
    struct Point {
        x: f64,
        y: f64,
        tags: [u32; 2],
    }
}

/// Through a message and back, with the descriptors that `change` makes of those that were set aside.
fn through<A: Serialize, B: DeserializeOwned>(
    value: &A,
    change: impl Fn(usize, OwnedFd) -> OwnedFd,
) -> Result<B, String> {
    let (bytes, fds) = pack(|| codec::encode(value).unwrap());
    let fds = fds.iter().map(|fd| fd.try_clone().unwrap()).enumerate();
    let came = Incoming::new(fds.map(|(n, fd)| change(n, fd)).collect(), None);
    unpack(came, || codec::decode(&bytes)).map_err(|error| error.to_string())
}

fn travelled<T: Serialize + DeserializeOwned>(value: &T) -> T {
    through(value, |_, fd| fd).unwrap()
}

// ---- what they promise ----------------------------------------------------------------------------------------------

fn holds<T: Plain + PartialEq + std::fmt::Debug>(first: T, second: T) {
    let value = Value::new(first).unwrap();
    let other = travelled(&value);
    assert_eq!(other.get(), first);
    other.set(second);
    assert_eq!(value.get(), second);
    assert_eq!(value.swap(first), second);
    assert_eq!(other.compare_exchange(second, second), Err(first));
    assert_eq!(other.compare_exchange(first, second), Ok(first));
    assert_eq!(value.update(|_| first), second);
    assert_eq!(value.try_update(|_| None), Err(first));
    assert_eq!((value.get(), format!("{other:?}")), (first, format!("Value({first:?})")));
}

#[test]
fn a_value_is_one_for_all_its_handles() {
    robust(LIMIT, || {
        holds(1_u8, 255);
        holds(-1_i16, i16::MIN);
        holds(1_u32, u32::MAX);
        holds(1_u64, u64::MAX);
        holds(-1_i128, i128::MAX);
        holds(1.5_f32, -0.0);
        holds(1.5_f64, f64::INFINITY);
        holds(true, false);
        holds([1_u8, 2, 3], [4, 5, 6]);
        holds([true; 9], [false; 9]);
        holds([1_u32; 3], [u32::MAX; 3]);
        let point = Point { x: 1.0, y: 2.0, tags: [3, 4] };
        holds(point, Point { x: -1.0, ..point });
        holds([7_u64; 1000], [8; 1000]);
    });
}

#[test]
fn numbers_are_counted_as_stds_atomics_count() {
    let small = Value::new(250_u8).unwrap();
    assert_eq!((small.fetch_add(10), small.get(), small.fetch_sub(5), small.get()), (250, 4, 4, 255));
    let large = Value::new(i64::MAX).unwrap();
    assert_eq!(
        (large.fetch_add(1), large.get(), large.fetch_sub(1), large.get()),
        (i64::MAX, i64::MIN, i64::MIN, i64::MAX)
    );
    let huge = Value::new(u128::MAX).unwrap();
    assert_eq!((huge.fetch_add(2), huge.get()), (u128::MAX, 1));
    let float = Value::new(0.5_f32).unwrap();
    assert_eq!((float.fetch_add(1.0), float.fetch_sub(0.25), float.get()), (0.5, 1.5, 1.25));
}

#[test]
fn an_update_that_panics_changes_nothing() {
    let value = Value::new([1_u64; 5]).unwrap();
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| value.update(|_| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(value.update(|[n, ..]| [n + 1; 5]), [1; 5]);
    // And one may look at it from within.
    value.update(|_| value.get().map(|n| n + 1));
    assert_eq!(value.get(), [3; 5]);
}

#[test]
fn threads_lose_no_update() {
    let (small, large) = (Value::new(0_u16).unwrap(), Value::new([0_u64; 9]).unwrap());
    let array = Array::<u8>::zeroed(11).unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (small, large, array) = (travelled(&small), large.clone(), array.clone());
            scope.spawn(move || {
                for _ in 0..500 {
                    small.fetch_add(1);
                    large.update(|all| all.map(|n| n + 1));
                    // Neighbours in one word: nobody's write may undo another's.
                    array.update(n, |n| n.wrapping_add(1)).unwrap();
                    array.set(4 + n, 7).unwrap();
                    let now = large.get();
                    assert!(now.iter().all(|n| *n == now[0]), "torn: {now:?}");
                }
            });
        }
    });
    assert_eq!((small.get(), large.get()), (2000, [2000; 9]));
    assert_eq!(array.to_vec(), [244, 244, 244, 244, 7, 7, 7, 7, 0, 0, 0]);
}

#[test]
fn a_large_value_is_never_seen_half_written() {
    let value = Value::new([0_u64; 100]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..20_000).for_each(|n| value.set([n; 100]));
            done.store(true, Ordering::Relaxed);
        });
        let (reader, mut last) = (travelled(&value), 0);
        while !done.load(Ordering::Relaxed) {
            let now = reader.get();
            assert!(now.iter().all(|n| *n == now[0]) && now[0] >= last, "{now:?} after {last}");
            last = now[0];
        }
    });
}

#[test]
fn an_array_has_bounds_and_says_so() {
    let array = Array::new([1_u16, 2, 3]).unwrap();
    assert_eq!((array.get(2), array.get(3), array.len(), array.is_empty()), (Some(3), None, 3, false));
    assert!(array.set(3, 1).is_err() && array.update(3, |n| n).is_err());
    assert!(array.copy_from_slice(2, &[1, 2]).is_err());
    assert!(array.copy_to_slice(usize::MAX, &mut [0, 0]).is_err());
    assert_eq!(
        array.set(3, 1).unwrap_err().to_string(),
        "index 3 is out of bounds: the shared memory has 3 places"
    );
    assert_eq!(array.range(1..).unwrap(), [2, 3]);
    assert_eq!(array.range(..=0).unwrap(), [1]);
    assert!(array.range(3..).unwrap().is_empty());
    assert!(array.range(4..).is_err() && array.range(1..5).is_err() && array.range(..=usize::MAX).is_err());
    assert_eq!(array.iter().rev().collect::<Vec<_>>(), [3, 2, 1]);
    let empty = Array::<f64>::new([]).unwrap();
    empty.fill(1.0);
    assert_eq!((empty.to_vec(), empty.is_empty(), empty.get(0)), (vec![], true, None));
    assert!(travelled(&empty).freeze().unwrap_err().into_inner().unwrap().to_vec().is_empty());
    assert!(Array::<u64>::zeroed(usize::MAX).is_err());
}

/// An array and a `Vec` that are treated alike stay alike.
fn agrees<T: Plain + PartialEq + std::fmt::Debug>(start: Vec<T>, steps: Vec<(usize, Vec<T>)>) {
    let array = Array::new(&start).unwrap();
    let other: Array<T> = travelled(&array);
    let mut model = start;
    for (at, values) in steps {
        let fits = at + values.len() <= model.len();
        assert_eq!(other.copy_from_slice(at, &values).is_ok(), fits);
        if fits {
            model[at..at + values.len()].copy_from_slice(&values);
            let mut back = model[at..at + values.len()].to_vec();
            array.copy_to_slice(at, &mut back).unwrap();
            assert_eq!(back, values);
        } else if let Some(value) = values.first().filter(|_| at < model.len()) {
            other.set(at, *value).unwrap();
            model[at] = *value;
        }
        assert_eq!(array.get(at), model.get(at).copied());
    }
    assert_eq!(array.to_vec(), model);
    assert_eq!(array.iter().collect::<Vec<_>>(), model);
    drop(other);
    assert_eq!(*array.freeze().unwrap(), model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn arrays_of_bytes_are_as_vecs(start in prop::collection::vec(any::<u8>(), 0..50), steps in steps::<u8>()) {
        agrees(start, steps);
    }

    #[test]
    fn arrays_of_odd_elements_are_as_vecs(start in prop::collection::vec(any::<[u8; 3]>(), 0..50), steps in steps::<[u8; 3]>()) {
        agrees(start, steps);
    }

    #[test]
    fn arrays_of_halves_are_as_vecs(start in prop::collection::vec(any::<u32>(), 0..50), steps in steps::<u32>()) {
        agrees(start, steps);
    }

    #[test]
    fn arrays_of_large_elements_are_as_vecs(start in prop::collection::vec(any::<[u64; 3]>(), 0..50), steps in steps::<[u64; 3]>()) {
        agrees(start, steps);
    }

    /// Whatever another writes to a byte beside mine, mine stays.
    #[test]
    fn bytes_are_written_as_to_a_slice(len in 1_usize..100, steps in steps::<u8>()) {
        let memory = SharedMemory::new(len).unwrap();
        let mut model = vec![0; len];
        for (at, bytes) in steps {
            let fits = at + bytes.len() <= len;
            prop_assert_eq!(memory.write_at(at, &bytes).is_ok(), fits);
            if fits {
                model[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
        prop_assert_eq!(travelled(&memory).to_vec(), model);
    }

    #[test]
    fn whatever_bytes_a_message_has_they_are_refused_or_harmless(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let file = || Array::new([1_u8; 24]).unwrap();
        let (_, fds) = pack(|| codec::encode(&file()).unwrap());
        let came = || Incoming::new(vec![fds[0].try_clone().unwrap()], None);
        let _ = unpack(came(), || codec::decode::<Array<u64>>(&bytes)).map(|array| array.to_vec());
        let _ = unpack(came(), || codec::decode::<FrozenArray<u64>>(&bytes)).map(|array| array.to_vec());
        let _ = unpack(came(), || codec::decode::<Value<u64>>(&bytes)).map(|value| value.get());
        let _ = unpack(came(), || codec::decode::<SharedMemory>(&bytes)).map(|memory| memory.to_vec());
    }
}

fn steps<T: Arbitrary + Clone>() -> impl Strategy<Value = Vec<(usize, Vec<T>)>> {
    prop::collection::vec((0_usize..60, prop::collection::vec(any::<T>(), 0..20)), 0..10)
}

#[test]
fn bools_that_another_process_misspelt_are_bools() {
    let memory = Array::new([0_u8, 1, 2, 255]).unwrap();
    let bools: Array<bool> = through(&memory, |_, fd| fd).unwrap();
    assert_eq!(bools.to_vec(), [false, true, true, true]);
    let mut out = [false; 2];
    bools.copy_to_slice(2, &mut out).unwrap();
    assert_eq!((out, bools.get(3)), ([true; 2], Some(true)));
}

#[test]
fn what_is_frozen_stays_so() {
    robust(LIMIT, || {
        let array = Array::new([1_u64, 2, 3]).unwrap();
        let clone = array.clone();
        let error = array.freeze().unwrap_err();
        assert!(error.to_string().contains("another handle"), "{error}");
        let array = error.into_inner().unwrap();
        drop(clone);
        let elsewhere = travelled(&array);
        let array = array.freeze().unwrap_err().into_inner().unwrap();
        array.set(0, 9).unwrap();
        assert_eq!(elsewhere.get(0), Some(9), "it is still the same memory");
        drop(elsewhere);
        let frozen = array.freeze().unwrap();
        let other: FrozenArray<u64> = travelled(&frozen);
        assert_eq!((&*other, frozen.iter().sum::<u64>()), (&[9, 2, 3][..], 14));
        assert_eq!(other.as_ptr(), travelled(&other).as_ptr(), "mapped once here");
        // Nobody can write to it, by whatever means.
        let error = through::<_, Array<u64>>(&frozen, |_, fd| fd).unwrap_err();
        assert!(error.contains("Operation not permitted"), "{error}");
        let (_, fds) = pack(|| codec::encode(&frozen).unwrap());
        let file = File::from(fds[0].try_clone().unwrap());
        assert_eq!(
            std::os::unix::fs::FileExt::write_at(&file, b"x", 0).unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
        assert!(file.set_len(0).is_err());
    });
}

#[test]
fn only_the_memory_that_was_meant_is_taken() {
    robust(LIMIT, || {
        let (one, two) = (Array::new([1_u64]).unwrap(), Array::new([2_u64]).unwrap());
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let refused =
            |error: String| assert!(error.contains("not the shared memory that belongs here"), "{error}");
        refused(through::<_, Array<u64>>(&one, |_, _| null()).unwrap_err());
        refused(through::<_, FrozenArray<u64>>(&one, |_, fd| fd).unwrap_err());
        refused(through::<_, Value<u64>>(&Value::new(1_u64).unwrap(), |_, _| null()).unwrap_err());
        refused(through::<_, SharedMemory>(&SharedMemory::new(1).unwrap(), |_, _| null()).unwrap_err());
        // One that can be cut short, and then would end whoever reads it.
        let soft =
            nix::sys::memfd::memfd_create(c"soft", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&soft, 8).unwrap();
        refused(through::<_, Array<u64>>(&one, |_, _| soft.try_clone().unwrap()).unwrap_err());
        fcntl(&soft, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
        refused(through::<_, Array<u64>>(&one, |_, _| soft.try_clone().unwrap()).unwrap_err());
        // The right kind, and another one's.
        let (_, fds) = pack(|| codec::encode(&two).unwrap());
        refused(through::<_, Array<u64>>(&one, |_, _| fds[0].try_clone().unwrap()).unwrap_err());
        let error = through::<_, Array<u32>>(&one, |_, fd| fd).unwrap_err();
        assert_eq!(error, "the shared memory that came holds values of 8 bytes, not of 4");
        assert!(codec::encode(&one).unwrap_err().to_string().contains("can only travel"));
    });
}

#[test]
fn memory_with_a_name_is_its_makers_to_unlink() {
    robust(LIMIT, || {
        let name = format!("procession-test-{}", std::process::id());
        let path = format!("/dev/shm/{name}");
        let exists = || std::fs::exists(&path).unwrap();
        let made = SharedMemory::create_named(&name, 100).unwrap();
        let taken = SharedMemory::create_named(&name, 100).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        assert!(taken.to_string().contains(&name) && taken.to_string().contains("open_named()"), "{taken}");
        let opened = SharedMemory::open_named(&name).unwrap();
        assert_eq!((opened.len(), opened.name()), (100, Some(name.as_str())));
        opened.write_at(99, b"x").unwrap();
        assert_eq!(made.to_vec()[99], b'x');
        drop(opened);
        assert!(exists(), "a stranger does not unlink it");
        let error = pack(|| codec::encode(&made)).0.unwrap_err();
        assert!(error.to_string().contains("open_named"), "{error}");
        assert!(made.clone().freeze().is_err());
        drop(made);
        assert!(!exists());
        let made = SharedMemory::create_named(&name, 8).unwrap();
        made.keep();
        drop(made);
        assert!(exists(), "kept");
        let opened = SharedMemory::open_named(&name).unwrap();
        opened.unlink().unwrap();
        assert_eq!(opened.unlink().unwrap_err().kind(), ErrorKind::NotFound);
        // The name may mean something else by now.
        let next = SharedMemory::create_named(&name, 8).unwrap();
        assert!(opened.unlink().is_err() && exists());
        drop((opened, next));
        let none = SharedMemory::open_named(&name).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NotFound);
        assert!(none.to_string().contains(&name) && none.to_string().contains("created first"), "{none}");
        for bad in ["", "a/b", "..", "a\0b"] {
            assert_eq!(
                SharedMemory::create_named(bad, 1).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{bad}"
            );
        }
        assert_eq!(SharedMemory::new(0).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn what_does_not_fit_is_told_at_once() {
    robust(LIMIT, || {
        let error = Array::<u8>::zeroed(1 << 50).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(SharedMemory::new(usize::MAX).is_err());
        let limited = Process::new(
            || {
                use nix::sys::resource::{Resource, setrlimit};
                setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, 1 << 20).unwrap();
                [
                    Array::<u8>::zeroed(2 << 20).unwrap_err().to_string(),
                    Array::new(vec![1_u8; 2 << 20]).unwrap_err().to_string(),
                    SharedMemory::create_named("procession-test-limit", 2 << 20).unwrap_err().to_string(),
                ]
            },
            (),
        );
        for text in limited.start().unwrap().join().unwrap() {
            assert!(text.contains("ulimit -f"), "{text}");
        }
        assert!(!std::fs::exists("/dev/shm/procession-test-limit").unwrap());
    });
}

#[test]
fn ten_thousand_of_each_leave_nothing() {
    robust(LIMIT, || {
        let names = || std::fs::read_dir("/dev/shm").unwrap().count();
        let before = names();
        for n in 0..10_000_u64 {
            let large = Value::new([n; 3]).unwrap();
            let array = Array::new([n]).unwrap();
            let sent: Value<[u64; 3]> = travelled(&large);
            assert_eq!((sent.get(), array.freeze().unwrap()[0]), ([n; 3], n));
        }
        assert_eq!(names(), before);
    });
}

// ---- across processes -----------------------------------------------------------------------------------------------

#[test]
fn handles_go_to_children_and_on_to_grandchildren() {
    fn child(value: Value<u64>, array: Array<f64>, memory: SharedMemory, depth: u32) -> Array<u8> {
        value.fetch_add(1);
        array.set(depth as usize, f64::from(depth)).unwrap();
        memory.write_at(depth as usize, &[depth as u8 + 1]).unwrap();
        if depth == 0 {
            return Array::new([7_u8, 8]).unwrap();
        }
        Process::new(child, (value, array, memory, depth - 1)).start().unwrap().join().unwrap()
    }
    robust(LIMIT, || {
        let (value, array) = (Value::new(0).unwrap(), Array::zeroed(3).unwrap());
        let memory = SharedMemory::new(3).unwrap();
        let handles = (value.clone(), array.clone(), memory.clone(), 2);
        let came = Process::new(child, handles).start().unwrap().join().unwrap();
        assert_eq!(came.to_vec(), [7, 8], "its maker has gone, and it is still there");
        assert_eq!((value.get(), array.to_vec(), memory.to_vec()), (3, vec![0.0, 1.0, 2.0], vec![1, 2, 3]));
        assert!(array.freeze().is_ok(), "all other handles have gone with their processes");
    });
}

#[test]
fn a_pool_works_on_an_array_and_it_can_be_frozen_at_once() {
    fn square(squares: Array<u64>, n: usize) {
        squares.set(n, (n * n) as u64).unwrap();
    }
    fn sum(squares: FrozenArray<u64>, n: usize) -> u64 {
        squares[..=n].iter().sum()
    }
    robust(LIMIT, || {
        let pool = Pool::new(2).unwrap();
        let squares = Array::zeroed(1000).unwrap();
        pool.starmap(square, (0..1000).map(|n| (squares.clone(), n))).unwrap();
        let squares = squares.freeze().unwrap();
        let sums = pool.starmap(sum, (0..1000).map(|n| (squares.clone(), n))).unwrap();
        assert!((0_u64..).zip(sums).all(|(n, sum)| sum == n * (n + 1) * (2 * n + 1) / 6));
    });
}

#[test]
fn workers_keep_few_frozen_arrays_and_none_for_long() {
    fn mappings(_seen: FrozenArray<u8>) -> usize {
        mapped()
    }
    fn mapped() -> usize {
        std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:procession-frozen").count()
    }
    robust(LIMIT, || {
        let pool = Pool::new(1).unwrap();
        let frozen = |n: u8| FrozenArray::new([n; 10_000]).unwrap();
        for n in 0..20 {
            let seen = pool.apply(mappings, (frozen(n),)).unwrap();
            assert!((1..=4).contains(&seen), "{seen} mapped");
        }
        assert_eq!(pool.apply(mapped, ()).unwrap(), 4);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(pool.apply(mapped, ()).unwrap(), 0, "it was idle");
    });
}

/// A process that writes all the time is killed at any moment; what it leaves is whole, and nobody waits for it.
#[test]
fn a_killed_writer_leaves_the_old_value_or_the_new_one() {
    fn write(value: Value<[u64; 64]>, count: Value<u64>) {
        loop {
            value.update(|all| all.map(|n| n + 1));
            count.fetch_add(1);
        }
    }
    robust(Duration::from_secs(60 + 30 * u64::from(repeats())), || {
        let (value, count) = (Value::new([0; 64]).unwrap(), Value::new(0).unwrap());
        let mut kills = 0;
        for round in 0..10 {
            let writers =
                [(); 2].map(|()| Process::new(write, (value.clone(), count.clone())).start().unwrap());
            let start = count.get();
            while count.get() < start + 100 * (round + 1) {
                let now = value.get();
                assert!(now.iter().all(|n| *n == now[0]), "torn: {now:?}");
                std::thread::yield_now();
            }
            writers.into_iter().for_each(drop);
            kills += 2;
            let now = value.update(|all| all);
            assert!(now.iter().all(|n| *n == now[0]), "torn: {now:?}");
            // A writer is killed after its update and before it counts, at worst; none of them is lost.
            assert!((count.get()..=count.get() + kills).contains(&now[0]), "{} of {now:?}", count.get());
        }
    });
}

#[test]
fn memory_is_free_when_the_last_handle_is_gone() {
    fn shared() -> u64 {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("Shmem:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
    fn hold(array: Array<u8>) {
        let _held = array;
        procession::drill::hang();
    }
    robust(LIMIT, || {
        const SIZE: usize = 256 << 20;
        let before = shared();
        let array = Array::<u8>::zeroed(SIZE).unwrap();
        assert!(shared() >= before + (SIZE as u64 / 1024) / 2, "it is there from the start");
        let holder = Process::new(hold, (array.clone(),)).start().unwrap();
        drop(array);
        holder.kill().unwrap();
        drop(holder);
        support::poll("the memory is not free", Duration::from_secs(5), || {
            shared() < before + (SIZE as u64 / 1024) / 2
        });
    });
}
