//! What a pool does: one suite for both kinds, and what only processes can.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::exit,
    reason = "tests, and tasks that end their worker on purpose"
)]

mod again;

use again::{
    Gate, LONG, again, again_after, children_of, finish, has, is_again, is_running, note, notes, open_files,
    signal, stand, succeeds, until, within,
};
use procession::{
    Exit, Half, Lost, Pool, Process, SpawnError, TaskError, ThreadPool, active_children, current_process,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

fn square(x: u64) -> u64 {
    x * x
}

fn picky(x: u64) -> u64 {
    assert!(x % 10 != 7, "{x} ends in 7");
    x + 1
}

fn snooze(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    millis
}

fn no_database() {
    panic!("no database")
}

fn quiet() {
    std::panic::resume_unwind(Box::new("quiet"))
}

fn leave(code: i32) {
    std::process::exit(code)
}

fn pid_of_worker(_: u64) -> u32 {
    std::process::id()
}

struct Unparker(Thread);

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is, with a limit.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unparker(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let end = Instant::now() + LONG;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "the future was not woken within {LONG:?}");
        std::thread::park_timeout(left);
    }
}

/// What both kinds of pools promise in the same words.
macro_rules! suite {
    ($kind:ident, $suite:ident) => {
        mod $suite {
            use super::*;

            #[test]
            fn apply_calls_with_none_to_six_arguments() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    assert_eq!(pool.apply(|| 42_u8, ()).unwrap(), 42);
                    assert_eq!(pool.apply(square, (12,)).unwrap(), 144);
                    assert_eq!(pool.apply(|a: i32, b: i32| a - b, (5, 3)).unwrap(), 2);
                    let all = |a: u8, b: u16, c: u32, d: char, e: String, f: Option<f64>| {
                        format!("{a} {b} {c} {d} {e} {f:?}")
                    };
                    let arguments = (1, 2, 3, 'd', "e".to_owned(), Some(0.5));
                    assert_eq!(pool.apply(all, arguments).unwrap(), "1 2 3 d e Some(0.5)");
                });
            }

            #[test]
            fn apply_async_promises_a_result() {
                let pool = $kind::new(2).unwrap();
                let mut promises: Vec<_> = (0..50).map(|x| pool.apply_async(square, (x,))).collect();
                let results: Vec<_> =
                    promises.iter_mut().map(|promise| promise.get_timeout(LONG).unwrap().unwrap()).collect();
                assert_eq!(results, (0..50).map(square).collect::<Vec<_>>());
            }

            #[test]
            fn map_keeps_the_order_of_the_items() {
                within(LONG, || {
                    let pool = $kind::new(3).unwrap();
                    // The first items are the slowest, so they would come last.
                    let items: Vec<u64> = (0..60).rev().collect();
                    assert_eq!(pool.map(|x: u64| snooze(x / 4) * 4 + x % 4, items.clone()).unwrap(), items);
                });
            }

            #[test]
            fn map_of_nothing_is_nothing() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    assert!(pool.map(square, Vec::new()).unwrap().is_empty());
                    assert!(pool.map_async(square, []).get().unwrap().is_empty());
                    assert!(pool.starmap(square, Vec::new()).unwrap().is_empty());
                    assert!(pool.imap(square, []).next().is_none());
                    assert!(pool.imap_unordered(square, []).next().is_none());
                });
            }

            #[test]
            fn map_takes_a_huge_input() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    let results = pool.map(|x: u64| x + 1, 0..300_000).unwrap();
                    assert!(results.iter().copied().eq(1..=300_000));
                });
            }

            #[test]
            fn map_async_does_not_wait() {
                let (pool, gate) = ($kind::new(2).unwrap(), Gate::new());
                let items: Vec<_> = (0..4).map(|ticket| (gate.path(), ticket)).collect();
                let mut promise = pool.starmap_async(stand, items);
                let first = gate.arrival();
                assert!(!promise.ready(), "{first:?} stands at the gate");
                drop(first);
                gate.open();
                assert_eq!(promise.get_timeout(LONG).unwrap().unwrap(), [0, 1, 2, 3]);
                let mut promise = pool.map_async(square, 0..100);
                assert_eq!(promise.get_timeout(LONG).unwrap().unwrap().len(), 100);
            }

            #[test]
            fn starmap_spreads_tuples_over_the_arguments() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    let pairs = (0..20_u32).map(|x| (x, x.to_string()));
                    let results = pool.starmap(|n: u32, text: String| format!("{n}={text}"), pairs).unwrap();
                    assert_eq!(results[13], "13=13");
                    let sums = pool.starmap_async(|a: u64, b: u64, c: u64| a + b + c, [(1, 2, 3), (4, 5, 6)]);
                    assert_eq!(sums.get().unwrap(), [6, 15]);
                });
            }

            #[test]
            fn imap_yields_in_order() {
                within(LONG, || {
                    let pool = $kind::new(3).unwrap();
                    let results: Vec<u64> =
                        pool.imap(|x: u64| snooze(20 - x) + x, 0..20).map(Result::unwrap).collect();
                    assert_eq!(results, [20; 20]);
                    let many: Vec<u64> = pool.imap(|x: u64| x, 0..10_000).map(Result::unwrap).collect();
                    assert!(many.into_iter().eq(0..10_000));
                });
            }

            #[test]
            fn imap_goes_on_after_an_items_error() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    let results: Vec<_> = pool.imap(picky, 0..1000).collect();
                    assert_eq!(results.len(), 1000);
                    for (x, result) in (0..).zip(results) {
                        match result {
                            Ok(y) => assert_eq!((y, x % 10 == 7), (x + 1, false)),
                            Err(error) => {
                                assert_eq!((error.index(), x % 10), (Some(x), 7), "{error}");
                                assert!(error.to_string().contains(&format!("{x} ends in 7")), "{error}");
                            }
                        }
                    }
                });
            }

            #[test]
            fn imap_takes_input_only_as_its_window_allows() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    let pulled = AtomicU64::new(0);
                    let endless = (0..).inspect(|_| _ = pulled.fetch_add(1, Ordering::Relaxed));
                    let mut results = pool.imap(|x: u64| x + snooze(1), endless);
                    let before = pulled.load(Ordering::Relaxed);
                    assert!(before < 100, "{before} items were taken before anybody asked");
                    for x in 0..50 {
                        assert_eq!(results.next().unwrap().unwrap(), x + 1);
                    }
                    let after = pulled.load(Ordering::Relaxed);
                    assert!(after < 50 + 200, "{after} items were taken for 50 results");
                    drop(results);
                    // Fast items: the window grows, and stays one.
                    let fast = pool.imap_unordered(|x: u64| x, 0..).take(100_000);
                    assert_eq!(fast.filter(Result::is_ok).count(), 100_000);
                });
            }

            #[test]
            fn imap_unordered_yields_whatever_is_done() {
                let (pool, gate) = ($kind::new(2).unwrap(), Gate::new());
                let items: Vec<_> = (0..200_u32).map(|x| (x == 0).then(|| gate.path()).ok_or(x)).collect();
                let done = within(LONG, move || {
                    let task = |item: Result<PathBuf, u32>| match item {
                        Ok(gate) => stand(gate, 0),
                        Err(x) => x,
                    };
                    let mut results = pool.imap_unordered(task, items);
                    // Item 0 stands at the gate, and all others pass it.
                    let mut all: Vec<u32> = results.by_ref().take(199).map(Result::unwrap).collect();
                    let held = gate.arrival();
                    assert!(!all.contains(&0), "{held:?}");
                    drop(held);
                    all.extend(results.map(Result::unwrap));
                    all.sort_unstable();
                    all
                });
                assert!(done.into_iter().eq(0..200), "each exactly once");
            }

            #[test]
            fn imap_sets_to_work_when_it_is_called() {
                let (pool, gate) = ($kind::new(1).unwrap(), Gate::new());
                let path = gate.path();
                let mut results = pool.imap(|(gate, ticket): (PathBuf, u32)| stand(gate, ticket), [(path, 5)]);
                drop(gate.arrival());
                assert_eq!(results.next().unwrap().unwrap(), 5);
                assert!(results.next().is_none());
            }

            #[test]
            fn what_is_queued_of_a_dropped_imap_never_runs() {
                let (pool, gate) = ($kind::new(1).unwrap(), Gate::new());
                let (dir, path) = within(LONG, move || {
                    let dir = tempfile::tempdir().unwrap();
                    let path = dir.path().join("ran");
                    let items: Vec<_> = (0..40).map(|x| (gate.path(), path.clone(), x)).collect();
                    let task = |(gate, path, x): (PathBuf, PathBuf, u32)| {
                        if x == 1 {
                            stand(gate, x);
                        } else {
                            note(&path, x);
                        }
                    };
                    let mut results = pool.imap(task, items);
                    results.next().unwrap().unwrap();
                    let held = gate.arrival();
                    drop(results);
                    drop(held);
                    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
                    (dir, path)
                });
                assert_eq!(notes(&path), ["0"], "in {dir:?}");
            }

            #[test]
            fn what_a_terminated_map_has_not_started_never_runs() {
                let (pool, gate) = ($kind::new(1).unwrap(), Gate::new());
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("ran");
                let items: Vec<_> = (0..40).map(|x| (gate.path(), path.clone(), x)).collect();
                let task = |gate: PathBuf, path: PathBuf, x: u32| {
                    note(&path, x);
                    if x == 0 {
                        stand(gate, x);
                    }
                };
                let promise = pool.starmap_async(task, items);
                let held = gate.arrival();
                pool.terminate();
                drop(held);
                assert!(pool.join_timeout(LONG));
                assert!(matches!(within(LONG, || promise.get()), Err(TaskError::Closed)));
                assert_eq!(notes(&path), ["0"]);
            }

            #[test]
            fn an_imap_that_outlives_its_pool_ends_in_an_error() {
                within(LONG, || {
                    for drop_it in [false, true] {
                        let pool = $kind::new(2).unwrap();
                        let mut results = pool.imap(|x: u64| x + snooze(1), 0..);
                        assert_eq!(results.next().unwrap().unwrap(), 1);
                        let kept = if drop_it {
                            drop(pool);
                            None
                        } else {
                            pool.terminate();
                            Some(pool)
                        };
                        // What had been done before may still be told; then it is over.
                        let rest: Vec<_> = results.take(10_000).collect();
                        assert!(rest.len() < 10_000, "endless input, and no end: {:?}", rest.last());
                        assert!(matches!(rest.last(), Some(Err(TaskError::Closed))), "{:?}", rest.last());
                        drop(kept);
                    }
                });
            }

            #[test]
            fn an_input_that_panics_costs_nothing_else() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    for items in [1, 100, 10_000] {
                        let input = move || (0..).inspect(move |&x| assert!(x < items, "out of input"));
                        let map = || pool.map(square, input());
                        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(map)).is_err());
                        let imap = || pool.imap(square, input()).count();
                        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(imap)).is_err());
                    }
                    assert_eq!(pool.map(square, 0..3).unwrap(), [0, 1, 4]);
                    assert!(pool.join_timeout(LONG));
                });
            }

            #[test]
            fn items_without_a_size_are_items() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    assert_eq!(pool.map(|()| (), vec![(); 100_000]).unwrap().len(), 100_000);
                    assert_eq!(pool.imap(|()| (), vec![(); 1000]).filter(Result::is_ok).count(), 1000);
                });
            }

            #[test]
            fn a_callback_may_use_the_pool() {
                let pool = Arc::new($kind::new(1).unwrap());
                let (send, receive) = mpsc::channel();
                let again = Arc::clone(&pool);
                pool.apply_async(square, (3,)).callback(move |nine| {
                    send.send(again.apply(square, (nine.unwrap(),)).unwrap()).unwrap();
                });
                assert_eq!(receive.recv_timeout(LONG).unwrap(), 81);
            }

            #[test]
            fn an_imap_that_is_dropped_leaves_the_pool_usable() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    let mut results = pool.imap(|x: u64| x + snooze(1), 0..);
                    assert_eq!(results.next().unwrap().unwrap(), 1);
                    drop(results);
                    assert_eq!(pool.map(square, 0..3).unwrap(), [0, 1, 4]);
                });
            }

            #[test]
            fn get_timeout_says_not_yet_and_the_task_goes_on() {
                let (pool, gate) = ($kind::new(1).unwrap(), Gate::new());
                let mut promise = pool.apply_async(stand, (gate.path(), 7));
                let held = gate.arrival();
                assert!(promise.get_timeout(Duration::from_millis(1)).unwrap().is_none());
                assert!(promise.get_timeout(Duration::ZERO).unwrap().is_none());
                assert!(!promise.wait_timeout(Duration::from_millis(1)) && !promise.ready());
                drop(held);
                assert!(promise.wait_timeout(LONG) && promise.ready());
                assert_eq!(promise.get_timeout(LONG).unwrap(), Some(7));
                let again = promise.get_timeout(LONG);
                assert!(matches!(again, Err(TaskError::Taken)), "it is given once: {again:?}");
            }

            #[test]
            fn several_threads_may_wait_for_one_result() {
                let (pool, gate) = ($kind::new(1).unwrap(), Gate::new());
                let mut promise = pool.apply_async(stand, (gate.path(), 7));
                let held = gate.arrival();
                std::thread::scope(|scope| {
                    let promise = &promise;
                    let waiting: Vec<_> =
                        (0..4).map(|_| scope.spawn(|| promise.wait_timeout(LONG))).collect();
                    drop(held);
                    assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
                });
                assert_eq!(promise.get_timeout(Duration::ZERO).unwrap(), Some(7));
            }

            #[test]
            fn a_queued_task_that_is_cancelled_never_runs() {
                let (pool, gate) = ($kind::new(1).unwrap(), Gate::new());
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("ran");
                let mut first = pool.apply_async(stand, (gate.path(), 1));
                let held = gate.arrival();
                let second = pool.apply_async(|path: PathBuf| note(&path, "ran"), (path.clone(),));
                let many = pool.map_async(|path: PathBuf| note(&path, "ran"), vec![path.clone(); 500]);
                assert!(second.cancel() && many.cancel());
                assert!(!second.cancel(), "once");
                assert!(matches!(within(LONG, || second.get()), Err(TaskError::Cancelled)));
                assert!(matches!(within(LONG, || many.get()), Err(TaskError::Cancelled)));
                drop(held);
                assert_eq!(first.get_timeout(LONG).unwrap(), Some(1), "the one that runs is not harmed");
                within(LONG, move || pool.apply(square, (2,)).unwrap());
                assert!(notes(&path).is_empty());
            }

            #[test]
            fn a_result_that_is_there_cannot_be_cancelled() {
                let pool = $kind::new(1).unwrap();
                let mut promise = pool.apply_async(square, (3,));
                assert!(promise.wait_timeout(LONG));
                assert!(!promise.cancel());
                assert_eq!(promise.get_timeout(LONG).unwrap(), Some(9));
            }

            #[test]
            fn a_callback_gets_the_result_good_or_bad() {
                let pool = $kind::new(2).unwrap();
                let (send, receive) = mpsc::channel();
                let other = send.clone();
                pool.apply_async(picky, (1,)).callback(move |result| send.send(result.is_ok()).unwrap());
                assert!(receive.recv_timeout(LONG).unwrap());
                pool.map_async(picky, 0..20).callback(move |result| {
                    other.send(result.is_err_and(|error| error.index() != Some(7))).unwrap();
                });
                assert!(!receive.recv_timeout(LONG).unwrap(), "item 7 is to blame");
            }

            #[test]
            fn a_callback_that_panics_or_hangs_stalls_no_result() {
                let pool = $kind::new(1).unwrap();
                pool.apply_async(square, (1,)).callback(|_| panic!("a callback's own affair"));
                let (entered, is_in) = mpsc::channel();
                let (go_on, wait) = mpsc::channel::<()>();
                pool.apply_async(square, (2,)).callback(move |_| {
                    entered.send(()).unwrap();
                    let _ = wait.recv_timeout(LONG);
                });
                is_in.recv_timeout(LONG).unwrap();
                // One callback panicked, the other one hangs; the pool serves.
                let mut promise = pool.apply_async(square, (3,));
                assert_eq!(promise.get_timeout(LONG).unwrap(), Some(9));
                let (send, receive) = mpsc::channel();
                pool.apply_async(square, (4,)).callback(move |result| send.send(result.unwrap()).unwrap());
                go_on.send(()).unwrap();
                assert_eq!(receive.recv_timeout(LONG).unwrap(), 16, "callbacks go on as well");
            }

            #[test]
            fn a_promise_can_be_awaited() {
                let (pool, gate) = ($kind::new(2).unwrap(), Gate::new());
                assert_eq!(block_on(pool.apply_async(square, (5,))).unwrap(), 25);
                let late = pool.apply_async(stand, (gate.path(), 9));
                let held = gate.arrival();
                let release = std::thread::spawn(move || {
                    // After the first poll, most likely; right in either case.
                    std::thread::sleep(Duration::from_millis(20));
                    drop(held);
                });
                let both = async { (late.await, pool.map_async(square, 0..4).await) };
                let (late, squares) = block_on(both);
                assert_eq!((late.unwrap(), squares.unwrap()), (9, vec![0, 1, 4, 9]));
                release.join().unwrap();
                let error = block_on(pool.apply_async(picky, (7,))).unwrap_err();
                assert!(matches!(error, TaskError::Panicked(_)), "{error}");
            }

            #[test]
            fn several_threads_use_one_pool() {
                within(LONG, || {
                    let pool = $kind::new(2).unwrap();
                    std::thread::scope(|scope| {
                        for thread in 0..8 {
                            let pool = &pool;
                            scope.spawn(move || {
                                for x in 0..50 {
                                    assert_eq!(
                                        pool.apply(|a: u64, b: u64| a * b, (thread, x)).unwrap(),
                                        thread * x
                                    );
                                }
                                assert_eq!(
                                    pool.map(square, thread..thread + 300).unwrap(),
                                    (thread..thread + 300).map(square).collect::<Vec<_>>()
                                );
                                let sum: u64 =
                                    pool.imap_unordered(|x: u64| x, 0..100).map(Result::unwrap).sum();
                                assert_eq!(sum, 4950);
                            });
                        }
                    });
                });
            }

            #[test]
            fn a_closed_pool_takes_nothing_more_and_does_what_it_has() {
                let (pool, gate) = ($kind::new(1).unwrap(), Gate::new());
                let mut first = pool.apply_async(stand, (gate.path(), 1));
                let mut second = pool.map_async(square, 0..1000);
                let held = gate.arrival();
                pool.close();
                pool.close();
                let error = pool.apply(square, (1,)).unwrap_err();
                assert!(matches!(error, TaskError::Closed), "{error}");
                assert!(error.to_string().contains("make a new one"), "{error}");
                assert!(matches!(pool.map(square, 0..3), Err(TaskError::Closed)));
                assert!(matches!(pool.map_async(square, 0..3).get(), Err(TaskError::Closed)));
                assert!(matches!(pool.apply_async(square, (1,)).get(), Err(TaskError::Closed)));
                let told: Vec<_> = pool.imap(square, 0..3).collect();
                assert!(matches!(told[..], [Err(TaskError::Closed)]), "{told:?}");
                drop(held);
                assert_eq!(first.get_timeout(LONG).unwrap(), Some(1));
                assert_eq!(second.get_timeout(LONG).unwrap().unwrap().len(), 1000);
                assert!(pool.join_timeout(LONG));
            }

            #[test]
            fn terminate_fails_what_waits() {
                let (pool, gate) = ($kind::new(1).unwrap(), Gate::new());
                let first = pool.apply_async(stand, (gate.path(), 1));
                let second = pool.apply_async(square, (2,));
                let many = pool.map_async(square, 0..1000);
                let held = gate.arrival();
                pool.terminate();
                pool.terminate();
                assert!(matches!(within(LONG, || second.get()), Err(TaskError::Closed)));
                assert!(matches!(within(LONG, || many.get()), Err(TaskError::Closed)));
                assert!(matches!(pool.apply(square, (1,)), Err(TaskError::Closed)));
                drop(held);
                // In a process it was killed; a thread that runs cannot be.
                let first = within(LONG, || first.get());
                assert!(matches!(first, Ok(1) | Err(TaskError::Closed)), "{first:?}");
                assert!(pool.join_timeout(LONG));
            }

            #[test]
            fn join_finishes_what_is_queued() {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("ran");
                within(LONG, {
                    let path = path.clone();
                    move || {
                        let pool = $kind::new(2).unwrap();
                        for x in 0..100_u64 {
                            drop(pool.apply_async(
                                |path: PathBuf, x: u64| note(&path, x + snooze(1)),
                                (path.clone(), x),
                            ));
                        }
                        pool.join();
                    }
                });
                assert_eq!(notes(&path).len(), 100);
            }

            #[test]
            fn join_timeout_says_whether_all_is_done() {
                let (pool, gate) = ($kind::new(1).unwrap(), Gate::new());
                let mut promise = pool.apply_async(stand, (gate.path(), 3));
                let held = gate.arrival();
                assert!(!pool.join_timeout(Duration::from_millis(5)));
                assert!(!promise.ready(), "it goes on");
                drop(held);
                assert!(pool.join_timeout(LONG));
                assert_eq!(promise.get_timeout(Duration::ZERO).unwrap(), Some(3));
            }

            #[test]
            fn a_panic_is_a_value_with_message_and_place() {
                within(LONG, || {
                    let pool = $kind::new(1).unwrap();
                    let error = pool.apply(picky, (17,)).unwrap_err();
                    let TaskError::Panicked(panic) = &error else { panic!("{error}") };
                    assert_eq!((panic.message(), panic.index()), ("17 ends in 7", None));
                    let place = panic.location().unwrap();
                    assert!(place.starts_with(file!()), "{place}");
                    assert!(error.to_string().contains(place), "{error}");
                    let refused = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value == "0");
                    assert!(refused || panic.backtrace().contains("picky"), "{}", panic.backtrace());
                    assert_eq!(pool.apply(picky, (18,)).unwrap(), 19, "and the pool serves on");
                });
            }

            #[test]
            fn a_panic_with_any_value_at_all_is_a_value() {
                within(LONG, || {
                    let pool = $kind::new(1).unwrap();
                    let error = pool.apply(|x: u8| if x > 0 { std::panic::panic_any(x) }, (7,)).unwrap_err();
                    assert!(matches!(error, TaskError::Panicked(_)), "{error}");
                    let error = pool.apply(quiet, ()).unwrap_err();
                    assert!(matches!(&error, TaskError::Panicked(panic) if panic.message() == "quiet"), "{error}");
                });
            }

            #[test]
            fn a_map_tells_its_lowest_error_and_runs_every_item() {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("ran");
                let file = path.clone();
                let error = within(LONG, move || {
                    let pool = $kind::new(2).unwrap();
                    let task = |path: PathBuf, x: u64| {
                        // The higher ones fail sooner.
                        snooze(if x == 17 { 30 } else { 0 });
                        note(&path, x);
                        picky(x)
                    };
                    pool.starmap(task, (10..60).map(|x| (file.clone(), x))).unwrap_err()
                });
                assert_eq!(error.index(), Some(7), "{error}");
                assert!(error.to_string().starts_with("item 7: "), "{error}");
                let mut ran: Vec<u64> = notes(&path).iter().map(|line| line.parse().unwrap()).collect();
                ran.sort_unstable();
                assert!(ran.into_iter().eq(10..60), "every item ran, and none twice");
            }

            #[test]
            fn no_workers_is_an_error_that_names_the_remedy() {
                let error = $kind::new(0).unwrap_err();
                assert!(matches!(error, SpawnError::NoWorkers), "{error}");
                assert!(error.to_string().contains("cpu_count()"), "{error}");
            }
        }
    };
}

suite!(Pool, processes);
suite!(ThreadPool, threads);

// ---- only processes can ------------------------------------------------------------------------------------------

#[test]
fn drop_does_not_wait_for_a_task_that_sleeps() {
    let (pool, gate) = (Pool::new(2).unwrap(), Gate::new());
    let promise = pool.apply_async(
        |gate: PathBuf| {
            stand(gate, 0);
            snooze(60_000)
        },
        (gate.path(),),
    );
    let held = gate.arrival();
    let pid = held.pid;
    drop(held);
    let start = Instant::now();
    drop(pool);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!is_running(pid));
    assert!(matches!(within(LONG, || promise.get()), Err(TaskError::Closed)));
}

#[test]
fn terminate_kills_what_runs() {
    let (pool, gate) = (Pool::new(2).unwrap(), Gate::new());
    let running = pool.apply_async(stand, (gate.path(), 1));
    let held = gate.arrival();
    pool.terminate();
    assert!(matches!(within(LONG, || running.get()), Err(TaskError::Closed)));
    assert!(pool.join_timeout(LONG) && pool.worker_pids().is_empty());
    assert!(!is_running(held.pid));
}

#[test]
fn an_initializer_runs_in_each_worker_before_its_first_task() {
    static BASE: AtomicU64 = AtomicU64::new(0);
    within(LONG, || {
        let pool = Pool::builder()
            .workers(2)
            .initializer(|base: u64, more: u64| BASE.store(base + more, Ordering::Relaxed), (1000, 1))
            .build()
            .unwrap();
        let seen = pool.map(|x: u64| BASE.load(Ordering::Relaxed) + snooze(x % 2), 0..50).unwrap();
        assert!(seen.iter().all(|&base| base >= 1001), "{seen:?}");
        assert_eq!(BASE.load(Ordering::Relaxed), 0, "this is another process");
        // One that comes later is initialized, too.
        let error = pool.apply(leave, (3,)).unwrap_err();
        assert!(matches!(error, TaskError::Lost(_)), "{error}");
        let seen = pool.map(|_: u64| BASE.load(Ordering::Relaxed), 0..50).unwrap();
        assert!(seen.iter().all(|&base| base == 1001), "{seen:?}");
    });
}

#[test]
fn an_initializer_that_panics_ends_in_one_clear_error() {
    within(LONG, || {
        let pool = Pool::builder().workers(2).initializer(no_database, ()).build().unwrap();
        let waiting = pool.map_async(square, 0..100);
        for error in [waiting.get().unwrap_err(), pool.apply(square, (1,)).unwrap_err()] {
            let TaskError::Spawn(SpawnError::Initializer(cause)) = &error else { panic!("{error}") };
            let TaskError::Panicked(panic) = &**cause else { panic!("{cause}") };
            assert_eq!(panic.message(), "no database");
            assert!(
                error.to_string().contains("initializer failed") && error.to_string().contains("no database")
            );
        }
        assert!(pool.join_timeout(LONG));
    });
}

#[test]
fn an_initializer_that_exits_ends_in_one_clear_error() {
    within(LONG, || {
        let pool = Pool::builder().workers(2).initializer(leave, (9,));
        let pool = pool.build().unwrap();
        let error = pool.apply(square, (1,)).unwrap_err();
        let TaskError::Spawn(SpawnError::Initializer(cause)) = &error else { panic!("{error:?}") };
        assert!(matches!(&**cause, TaskError::Lost(lost) if lost.exit() == Exit::Code(9)), "{cause}");
        assert!(matches!(pool.apply(square, (1,)), Err(TaskError::Spawn(_))), "and stays one");
    });
}

#[test]
fn an_initializer_that_hangs_ends_in_one_clear_error() {
    within(LONG, || {
        let pool = Pool::builder()
            .workers(1)
            .birth_timeout(Duration::from_millis(100))
            .initializer(snooze, (60_000,))
            .build()
            .unwrap();
        let error = pool.apply(square, (1,)).unwrap_err();
        assert!(matches!(error, TaskError::Spawn(_)), "{error}");
    });
}

#[test]
fn a_worker_is_replaced_after_exactly_so_many_tasks() {
    within(LONG, || {
        let pool =
            Pool::builder().workers(1).max_tasks_per_worker(NonZeroU64::new(3).unwrap()).build().unwrap();
        let pids: Vec<u32> = (0..12).map(|x| pool.apply(pid_of_worker, (x,)).unwrap()).collect();
        let runs: Vec<_> = pids.chunk_by(|a, b| a == b).map(<[u32]>::len).collect();
        assert_eq!(runs, [3, 3, 3, 3], "{pids:?}");
    });
}

#[test]
fn items_of_a_map_count_one_by_one_towards_a_workers_end() {
    within(LONG, || {
        let pool = Pool::builder()
            .workers(2)
            .max_tasks_per_worker(NonZeroU64::new(7).unwrap())
            .chunk_size(NonZeroU32::new(50).unwrap())
            .build()
            .unwrap();
        let mut tasks = BTreeMap::<u32, u32>::new();
        for pid in pool.map(pid_of_worker, 0..100).unwrap() {
            *tasks.entry(pid).or_default() += 1;
        }
        assert!(tasks.values().all(|&count| count <= 7) && tasks.len() >= 100_usize.div_ceil(7), "{tasks:?}");
    });
}

#[test]
fn an_initializer_is_no_task_of_a_workers_count() {
    within(LONG, || {
        let tasks = NonZeroU64::new(2).unwrap();
        let pool = Pool::builder().workers(1).max_tasks_per_worker(tasks).initializer(square, (1,));
        let pool = pool.build().unwrap();
        let pids: Vec<u32> = (0..6).map(|x| pool.apply(pid_of_worker, (x,)).unwrap()).collect();
        assert_eq!(pids.chunk_by(|a, b| a == b).map(<[u32]>::len).collect::<Vec<_>>(), [2, 2, 2], "{pids:?}");
    });
}

#[test]
fn a_map_that_is_being_fed_when_the_pool_closes_is_done() {
    within(LONG, || {
        let pool = Pool::new(2).unwrap();
        let items = (0..100_000).inspect(|&x| {
            if x == 50_000 {
                pool.close();
            }
        });
        assert_eq!(pool.map(|x: u64| x, items).unwrap().len(), 100_000);
        assert!(matches!(pool.apply(square, (1,)), Err(TaskError::Closed)));
        assert!(pool.join_timeout(LONG));
    });
}

#[test]
fn a_map_that_is_being_fed_when_the_pool_is_terminated_fails() {
    within(LONG, || {
        let pool = Pool::new(2).unwrap();
        let items = (0..1_000_000).inspect(|&x| {
            if x == 50_000 {
                pool.terminate();
            }
        });
        let result = pool.map(|x: u64| x, items);
        assert!(matches!(result, Err(TaskError::Closed)), "{:?}", result.map(|all| all.len()));
        assert!(pool.join_timeout(LONG), "no worker is started for what came later");
    });
}

#[test]
fn limits_of_nothing_and_of_for_ever_are_limits() {
    within(LONG, || {
        let pool = Pool::builder().workers(1).task_timeout(Duration::ZERO).build().unwrap();
        let error = pool.apply(snooze, (60_000,)).unwrap_err();
        assert!(matches!(error, TaskError::TimedOut(_)), "{error}");
        drop(pool);
        let for_ever = Pool::builder().workers(1).task_timeout(Duration::MAX).birth_timeout(Duration::MAX);
        let pool = for_ever.build().unwrap();
        assert_eq!(pool.apply(square, (5,)).unwrap(), 25);
        assert!(pool.apply_async(square, (5,)).wait_timeout(Duration::MAX));
        assert!(pool.join_timeout(Duration::MAX));
        let child = Process::new(square, (6,)).birth_timeout(Duration::MAX).start().unwrap();
        assert!(child.wait_timeout(Duration::MAX).unwrap().is_some());
        assert_eq!(child.join().unwrap(), 36);
    });
}

#[test]
fn a_task_over_its_time_is_killed_and_its_neighbours_are_not_harmed() {
    within(LONG, || {
        let pool = Pool::builder()
            .workers(1)
            .task_timeout(Duration::from_millis(200))
            .chunk_size(NonZeroU32::new(10).unwrap())
            .build()
            .unwrap();
        let task = |x: u64| if x == 4 { snooze(60_000) } else { x };
        let start = Instant::now();
        let results: Vec<_> = pool.imap(task, 0..10).collect();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        for (x, result) in (0..).zip(results) {
            match result {
                Ok(y) => assert_eq!(x, y),
                Err(TaskError::TimedOut(late)) => {
                    assert_eq!((late.index(), x, late.limit()), (Some(4), 4, Duration::from_millis(200)));
                    assert!(!is_running(late.pid()));
                }
                Err(other) => panic!("item {x}: {other}"),
            }
        }
        let error = pool.apply(snooze, (60_000,)).unwrap_err();
        assert!(error.to_string().contains("longer than 200ms"), "{error}");
        assert_eq!(pool.apply(square, (3,)).unwrap(), 9, "its worker was replaced");
    });
}

#[test]
fn the_deadline_counts_from_the_start_of_that_very_item() {
    within(LONG, || {
        let pool = Pool::builder()
            .workers(1)
            .task_timeout(Duration::from_millis(500))
            .chunk_size(NonZeroU32::new(20).unwrap())
            .build()
            .unwrap();
        assert_eq!(pool.map(snooze, [50; 20]).unwrap(), [50; 20], "one second in all");
        // Nor does the time in the queue, or in reserve, count.
        let waiting: Vec<_> = (0..8).map(|_| pool.apply_async(snooze, (120,))).collect();
        for promise in waiting {
            assert_eq!(promise.get().unwrap(), 120);
        }
    });
}

#[test]
fn what_a_late_task_has_started_is_killed_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let file = path.clone();
    within(LONG, move || {
        let pool = Pool::builder().workers(1).task_timeout(Duration::from_millis(300)).build().unwrap();
        let task = |path: PathBuf| {
            let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            note(&path, sleep.id());
            sleep.wait().unwrap();
        };
        let error = pool.apply(task, (file,)).unwrap_err();
        assert!(matches!(error, TaskError::TimedOut(_)), "{error}");
    });
    let pid: u32 = notes(&path)[0].parse().unwrap();
    until("the grandchild is killed", || !is_running(pid));
}

/// Notes that it runs, and dies the first two times.
fn dies_twice(path: PathBuf) -> usize {
    note(&path, std::process::id());
    let runs = notes(&path).len();
    if runs <= 2 {
        std::process::exit(4);
    }
    runs
}

#[test]
fn a_task_whose_worker_died_is_retried_as_often_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (enough, short, none) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
    within(LONG, move || {
        let pool = |retries| Pool::builder().workers(1).retries(retries).build().unwrap();
        assert_eq!(pool(2).apply(dies_twice, (enough.clone(),)).unwrap(), 3);
        assert_eq!(notes(&enough).iter().collect::<BTreeSet<_>>().len(), 3, "three workers");
        for (retries, path) in [(1, &short), (0, &none)] {
            let error = pool(retries).apply(dies_twice, (path.clone(),)).unwrap_err();
            assert!(matches!(&error, TaskError::Lost(lost) if lost.exit() == Exit::Code(4)), "{error}");
            assert_eq!(notes(path).len(), 1 + retries as usize);
        }
    });
}

#[test]
fn a_task_that_ran_late_is_retried_but_a_panic_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (late, panics) = (dir.path().join("late"), dir.path().join("panics"));
    within(LONG, move || {
        // A panic's stack takes its time to be put into words.
        let limit = Duration::from_secs(2);
        let pool = Pool::builder().workers(1).retries(1).task_timeout(limit).build().unwrap();
        let task = |path: PathBuf| {
            note(&path, "ran");
            if notes(&path).len() == 1 { snooze(60_000) } else { 1 }
        };
        assert_eq!(pool.apply(task, (late.clone(),)).unwrap(), 1);
        let task = |path: PathBuf| {
            note(&path, "ran");
            no_database();
        };
        let error = pool.apply(task, (panics.clone(),)).unwrap_err();
        assert!(matches!(error, TaskError::Panicked(_)), "{error}");
        assert_eq!((notes(&late).len(), notes(&panics).len()), (2, 1));
    });
}

#[test]
fn a_fixed_chunk_size_is_kept() {
    // How the items were divided shows when two workers stand at a gate with the first item of each chunk.
    let gate = Gate::new();
    let pool = Pool::builder().workers(2).chunk_size(NonZeroU32::new(5).unwrap()).build().unwrap();
    let items: Vec<_> = (0..20).map(|ticket| (gate.path(), ticket)).collect();
    let mut promise = pool.starmap_async(stand, items);
    let (one, two) = (gate.arrival(), gate.arrival());
    let tickets = BTreeSet::from([one.ticket, two.ticket]);
    assert!(tickets.contains(&0) && tickets.iter().all(|ticket| ticket % 5 == 0), "{tickets:?}");
    drop((one, two));
    gate.open();
    assert_eq!(promise.get_timeout(LONG).unwrap().unwrap(), (0..20).collect::<Vec<_>>());
}

#[test]
fn no_short_task_waits_behind_a_long_one_while_a_worker_is_idle() {
    let (pool, gate) = (Pool::new(2).unwrap(), Gate::new());
    let mut long: Vec<_> = (0..2).map(|ticket| pool.apply_async(stand, (gate.path(), ticket))).collect();
    let (one, two) = (gate.arrival(), gate.arrival());
    // Each busy worker gets some of these in reserve.
    let mut short: Vec<_> = (0..6).map(|x| pool.apply_async(square, (x,))).collect();
    let mut many = pool.map_async(square, 0..100);
    drop(two);
    for (x, promise) in (0..).zip(&mut short) {
        assert_eq!(promise.get_timeout(LONG).unwrap(), Some(x * x), "while {one:?} stands");
    }
    assert_eq!(many.get_timeout(LONG).unwrap().unwrap().len(), 100);
    drop(one);
    assert!(long.iter_mut().all(|promise| promise.get_timeout(LONG).unwrap().is_some()));
}

#[test]
fn the_rest_of_a_chunk_does_not_wait_behind_its_long_item() {
    let gate = Gate::new();
    let pool = Pool::builder().workers(2).chunk_size(NonZeroU32::new(100).unwrap()).build().unwrap();
    let items: Vec<_> = (0..100_u32).map(|x| (x == 0).then(|| gate.path()).ok_or(x)).collect();
    let task = |item: Result<PathBuf, u32>| match item {
        Ok(gate) => stand(gate, 0),
        Err(x) => x,
    };
    within(LONG, move || {
        let mut results = pool.imap_unordered(task, items);
        let held = gate.arrival();
        let others: BTreeSet<u32> = results.by_ref().take(99).map(Result::unwrap).collect();
        assert!(others.into_iter().eq(1..100), "while {held:?} stands");
        drop(held);
        assert_eq!(results.next().unwrap().unwrap(), 0);
        assert!(results.next().is_none());
    });
}

#[test]
fn what_is_done_is_yielded_while_its_neighbour_in_the_chunk_runs() {
    let gate = Gate::new();
    let pool = Pool::builder().workers(1).chunk_size(NonZeroU32::new(20).unwrap()).build().unwrap();
    let items: Vec<_> = (0..20_u32).map(|x| (x == 10).then(|| gate.path()).ok_or(x)).collect();
    let task = |item: Result<PathBuf, u32>| match item {
        Ok(gate) => stand(gate, 10),
        Err(x) => x,
    };
    within(LONG, move || {
        let mut results = pool.imap(task, items);
        let held = gate.arrival();
        let done: Vec<u32> = results.by_ref().take(10).map(Result::unwrap).collect();
        assert!(done.into_iter().eq(0..10), "while {held:?} stands");
        drop(held);
        assert!(results.map(Result::unwrap).eq(10..20));
    });
}

#[test]
fn cancelling_what_runs_replaces_its_worker_and_harms_no_other_task() {
    let (pool, gate) = (Pool::new(1).unwrap(), Gate::new());
    let running = pool.apply_async(stand, (gate.path(), 1));
    let held = gate.arrival();
    // In reserve at the same worker.
    let mut next = pool.apply_async(square, (5,));
    let mut more = pool.map_async(square, 0..100);
    assert!(running.cancel());
    assert!(matches!(within(LONG, || running.get()), Err(TaskError::Cancelled)));
    assert_eq!(next.get_timeout(LONG).unwrap(), Some(25));
    assert_eq!(more.get_timeout(LONG).unwrap().unwrap().len(), 100);
    until("the worker is killed", || !is_running(held.pid));
    assert_ne!(pool.worker_pids(), [held.pid]);
}

#[test]
fn cancelling_a_map_leaves_other_maps_alone() {
    let (pool, gate) = (Pool::new(2).unwrap(), Gate::new());
    let standing = pool.starmap_async(stand, (0..50).map(|ticket| (gate.path(), ticket)).collect::<Vec<_>>());
    let mut other = pool.map_async(square, 0..500);
    let held = (gate.arrival(), gate.arrival());
    assert!(standing.cancel());
    assert_eq!(other.get_timeout(LONG).unwrap().unwrap().len(), 500, "{held:?}");
    assert!(matches!(within(LONG, || standing.get()), Err(TaskError::Cancelled)));
    assert!(gate_is_quiet(&gate, &pool), "what was queued never ran");
}

/// After everything else is done nobody else comes.
fn gate_is_quiet(gate: &Gate, pool: &Pool) -> bool {
    let mut last = pool.apply_async(stand, (gate.path(), 999));
    let arrival = gate.arrival();
    let quiet = arrival.ticket == 999;
    drop(arrival);
    quiet && last.get_timeout(LONG).unwrap() == Some(999)
}

#[test]
fn a_task_may_have_a_pool_of_its_own() {
    within(LONG, || {
        let pool = Pool::new(2).unwrap();
        let nested = |n: u64| {
            let pool = Pool::new(2).unwrap();
            let squares: u64 = pool.map(square, 0..n).unwrap().into_iter().sum();
            let name = pool.apply(|| current_process().name().to_owned(), ()).unwrap();
            (
                squares,
                name,
                pool.apply(|| current_process().parent().unwrap().pid(), ()).unwrap(),
                std::process::id(),
            )
        };
        for (squares, name, parent, own) in pool.map(nested, [10, 10, 10]).unwrap() {
            assert_eq!((squares, parent), (285, own));
            assert!(name.contains("-worker-"), "{name}");
        }
    });
}

#[test]
fn workers_have_the_names_and_the_world_they_were_given() {
    within(LONG, || {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::builder()
            .workers(2)
            .name("crew")
            .env("PROCESSION_TEST_GIVEN", "yes")
            .env_remove("PATH")
            .current_dir(dir.path())
            .build()
            .unwrap();
        let listed: BTreeSet<_> = active_children().iter().map(|child| child.name().to_owned()).collect();
        for name in ["crew-worker-1", "crew-worker-2"] {
            assert!(listed.contains(name), "{listed:?}");
        }
        let (name, given, path, dir_there) = pool
            .apply(
                || {
                    let name = current_process().name().to_owned();
                    let dir = std::env::current_dir().unwrap();
                    (name, std::env::var("PROCESSION_TEST_GIVEN").ok(), std::env::var("PATH").ok(), dir)
                },
                (),
            )
            .unwrap();
        assert!(name.starts_with("crew-worker-"), "{name}");
        assert_eq!((given.as_deref(), path), (Some("yes"), None));
        assert_eq!(dir_there, dir.path().canonicalize().unwrap());
        let pids = pool.worker_pids();
        assert_eq!((pids.len(), pids.iter().collect::<BTreeSet<_>>().len()), (2, 2));
    });
}

#[test]
fn a_worker_that_cannot_go_where_it_should_work_is_one_clear_error() {
    within(LONG, || {
        let pool = Pool::builder().workers(2).current_dir("/nonexistent/place").build().unwrap();
        let error = pool.apply(square, (1,)).unwrap_err();
        assert!(matches!(error, TaskError::Spawn(SpawnError::Birth { .. })), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("changing directory") && text.contains("/nonexistent/place"), "{text}");
    });
}

#[test]
fn values_that_cannot_travel_are_typed_errors_and_cost_nothing_else() {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u64),
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        map: BTreeMap<String, u8>,
    }

    within(LONG, || {
        let pool = Pool::new(1).unwrap();
        let pid = pool.apply(pid_of_worker, (0,)).unwrap();
        let flat = || Flat { map: BTreeMap::from([("a".to_owned(), 1)]) };
        let error = pool.apply(|flat: Flat| flat.map.len(), (flat(),)).unwrap_err();
        assert!(matches!(&error, TaskError::Encode(codec) if codec.half() == Half::Arguments), "{error:?}");
        let error = pool.apply(|| Flat { map: BTreeMap::new() }, ()).unwrap_err();
        assert!(matches!(&error, TaskError::Encode(codec) if codec.half() == Half::Result), "{error:?}");
        let error = pool.apply(|_: Untagged| (), (Untagged::Number(1),)).unwrap_err();
        assert!(matches!(&error, TaskError::Decode(codec) if codec.half() == Half::Arguments), "{error:?}");
        let error = pool.apply(|| Untagged::Number(1), ()).unwrap_err();
        assert!(matches!(&error, TaskError::Decode(codec) if codec.half() == Half::Result), "{error:?}");
        // In a map, the item at fault is named, and the others are run.
        let error = pool.map(|_: u64| Untagged::Number(1), 0..5).unwrap_err();
        assert_eq!(error.index(), Some(0), "{error}");
        let results: Vec<_> = pool.imap(|_: Untagged| 1_u8, (0..3).map(Untagged::Number)).collect();
        assert_eq!(results.len(), 3);
        assert!(results.iter().all(|result| matches!(result, Err(TaskError::Decode(_)))), "{results:?}");
        assert_eq!(pool.apply(pid_of_worker, (0,)).unwrap(), pid, "the worker lives on");
    });
}

#[test]
fn what_a_killed_worker_ran_is_lost_with_its_cause() {
    within(LONG, || {
        let pool = Pool::new(2).unwrap();
        let task = |x: u64| {
            if x == 500 {
                signal("KILL", &std::process::id().to_string());
                snooze(60_000);
            }
            x
        };
        let results: Vec<_> = pool.imap(task, 0..1000).collect();
        let lost: Vec<&Lost> = results
            .iter()
            .filter_map(|result| match result {
                Err(TaskError::Lost(lost)) => Some(lost),
                _ => None,
            })
            .collect();
        let [lost] = lost[..] else { panic!("{lost:?}") };
        assert_eq!((lost.index(), lost.exit()), (Some(500), Exit::Signal(9)));
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 999);
    });
}

#[test]
fn a_large_value_travels_both_ways() {
    within(LONG, || {
        let pool = Pool::new(1).unwrap();
        let large: Vec<u8> = (0..4 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
        let back = pool
            .apply(
                |mut bytes: Vec<u8>| {
                    bytes.reverse();
                    bytes
                },
                (large.clone(),),
            )
            .unwrap();
        assert!(back.iter().rev().eq(&large));
    });
}

// ---- the same program in another world ---------------------------------------------------------------------------

const INNER: [&str; 7] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
];

#[test]
fn inner_thread_pools_share_the_processors() {
    let mut command = again("with_eight_processors");
    for key in INNER {
        command.env_remove(key);
    }
    succeeds({
        command.env("PROCESSION_CPU_COUNT", "8").env("OMP_NUM_THREADS", "5");
        command
    });
}

#[test]
// Run by `inner_thread_pools_share_the_processors`, as a program of its own; by itself it has nothing to show.
fn with_eight_processors() {
    if !is_again() {
        return;
    }
    let look = || INNER.map(|key| std::env::var(key).unwrap());
    for (workers, share) in [(2, "4"), (3, "2"), (20, "1")] {
        let pool = Pool::new(workers).unwrap();
        let seen = pool.apply(look, ()).unwrap();
        assert_eq!(seen[0], "5", "what is set is left alone");
        assert!(seen[1..].iter().all(|value| value == share), "{workers}: {seen:?}");
    }
    let pool = Pool::builder().workers(2).env("RAYON_NUM_THREADS", "7").build().unwrap();
    assert_eq!(pool.apply(look, ()).unwrap()[6], "7", "and so is what the builder is told");
    assert!(INNER[1..].iter().all(|key| std::env::var_os(key).is_none()), "our own environment is ours");
}

#[test]
fn too_few_descriptors_is_an_error_that_names_the_remedy() {
    succeeds(again_after("ulimit -n 40", "with_forty_descriptors"));
}

#[test]
// Run by `too_few_descriptors_is_an_error_that_names_the_remedy`, as a program of its own; by itself it has nothing to show.
fn with_forty_descriptors() {
    if !is_again() {
        return;
    }
    within(LONG, move || {
        drop(Pool::new(1).unwrap());
        let before = open_files();
        for _ in 0..3 {
            let error = Pool::new(64).unwrap_err();
            assert!(
                matches!(error, SpawnError::System { errno: 24, .. }) && error.is_temporary(),
                "{error:?}"
            );
            assert!(error.to_string().contains("ulimit -n"), "{error}");
            assert!(active_children().is_empty());
            assert!(children_of(std::process::id()).is_empty(), "nobody is left, not even a zombie");
            assert_eq!(open_files(), before, "and no descriptor");
        }
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
    });
}

#[test]
fn queued_tasks_need_no_descriptors() {
    succeeds(again_after("ulimit -n 64", "with_a_hundred_thousand_tasks"));
}

#[test]
// Run by `queued_tasks_need_no_descriptors`, as a program of its own; by itself it has nothing to show.
fn with_a_hundred_thousand_tasks() {
    if !is_again() {
        return;
    }
    within(LONG, || {
        let pool = Pool::new(2).unwrap();
        let promises: Vec<_> = (0..100_000).map(|x| pool.apply_async(|x: u64| x + 1, (x,))).collect();
        let sum: u64 = promises.into_iter().map(|promise| promise.get().unwrap()).sum();
        assert_eq!(sum, 5_000_050_000);
    });
}

/// A line of the status of this thread, read as a hexadecimal number.
fn mask(name: String) -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn workers_hear_signals_as_a_fresh_program_does() {
    succeeds(again_after("trap '' INT HUP QUIT TERM CHLD USR1", "with_signals_ignored"));
    succeeds(again("with_signals_ignored"));
    if has("env", &["--block-signal=INT", "true"]) {
        let shell = "exec env --block-signal \"$0\" \"$@\"";
        succeeds(again_after(shell, "with_signals_ignored"));
    }
}

#[test]
// Run by `workers_hear_signals_as_a_fresh_program_does`, as a program of its own; by itself it has nothing to show.
fn with_signals_ignored() {
    if !is_again() {
        return;
    }
    within(LONG, || {
        let pool = Pool::new(1).unwrap();
        let read = |name: &str| pool.apply(mask, (name.to_owned(),)).unwrap();
        assert_eq!(read("SigBlk:"), 0);
        let (sigpipe, sigttou) = (1 << 12, 1 << 21);
        // Nothing but a C library can see 32 and 33, its own; glibc's posix_spawn leaves them ignored.
        let internal = 0b11 << 31;
        assert_eq!(read("SigIgn:") & !internal, sigpipe | sigttou);
        // Every thread of the task as well.
        let in_thread = || std::thread::spawn(|| mask("SigBlk:".into())).join().unwrap();
        assert_eq!(pool.apply(in_thread, ()).unwrap(), 0);
    });
}

#[test]
fn a_task_sees_no_descriptors_but_its_own() {
    succeeds(again_after("exec 7</dev/null 9>/dev/null", "with_stray_descriptors"));
}

#[test]
// Run by `a_task_sees_no_descriptors_but_its_own`, as a program of its own; by itself it has nothing to show.
fn with_stray_descriptors() {
    if !is_again() {
        return;
    }
    assert!(std::fs::exists("/proc/self/fd/7").unwrap(), "the shell has opened it for us");
    within(LONG, || {
        let _file = std::fs::File::open("/proc/self/status").unwrap();
        let (first, second) = (Pool::new(3).unwrap(), Pool::new(2).unwrap());
        let child = Process::new(open_descriptors, ()).start().unwrap();
        let mut all = second.map(|_: u8| open_descriptors(), 0..4).unwrap();
        all.push(first.apply(open_descriptors, ()).unwrap());
        all.push(child.join().unwrap());
        for open in all {
            let others: Vec<_> = open.iter().filter(|(number, _)| **number > 2).collect();
            assert!(others.len() <= 5, "{open:?}");
            let known = |target: &str| {
                ["pipe:", "socket:", "/memfd:procession-page"].iter().any(|kind| target.starts_with(kind))
            };
            assert!(others.iter().all(|(_, target)| known(target)), "{open:?}");
        }
    });
}

fn open_descriptors() -> BTreeMap<u32, String> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    // The directory's own descriptor is gone when it is looked at.
    let numbers: Vec<u32> =
        entries.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
    let target = |number| std::fs::read_link(format!("/proc/self/fd/{number}")).ok();
    let both = |number| Some((number, target(number)?.display().to_string()));
    numbers.into_iter().filter_map(both).collect()
}

#[test]
fn ctrl_c_ends_a_program_with_a_pool_once_and_cleanly() {
    let mut child = again("with_busy_workers").spawn().unwrap();
    let (mut stdout, mut stderr) =
        (BufReader::new(child.stdout.take().unwrap()), child.stderr.take().unwrap());
    let group = child.id();
    let (status, pids, said) = within(LONG, move || {
        let mut pids = Vec::new();
        while pids.len() < 3 {
            let mut line = String::new();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "it ended too early");
            if let Some(pid) = line.trim().strip_prefix("busy ") {
                pids.push(pid.parse::<u32>().unwrap());
            }
        }
        signal("INT", &format!("-{group}"));
        let status = child.wait().unwrap();
        // Ends with the last process that could print.
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        (status, pids, said)
    });
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2), "{status}");
    assert_eq!(said, "");
    for pid in pids {
        until("the worker is gone", || !is_running(pid));
    }
}

#[test]
// Run by `ctrl_c_ends_a_program_with_a_pool_once_and_cleanly`, as a program of its own; by itself it has nothing to show.
fn with_busy_workers() {
    if !is_again() {
        return;
    }
    let (pool, gate) = (Pool::new(3).unwrap(), Gate::new());
    let task = |gate: PathBuf, x: u64| {
        stand(gate, 0);
        // One sleeps, the others are busy.
        let end = Instant::now() + LONG;
        while x > 0 && Instant::now() < end {
            std::hint::black_box(x);
        }
        snooze(30_000)
    };
    let promise = pool.starmap_async(task, (0..3).map(|x| (gate.path(), x)).collect::<Vec<_>>());
    for _ in 0..3 {
        println!("\nbusy {}", gate.arrival().pid);
    }
    let _ = promise.get();
}

#[test]
fn a_pool_in_a_program_that_ends_leaves_nobody_behind() {
    let output = finish(&mut again("that_forgets_its_pool"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pids: Vec<u32> = text.lines().filter_map(|line| line.strip_prefix("worker ")?.parse().ok()).collect();
    assert_eq!((pids.len(), output.status.code()), (4, Some(17)), "{text}");
    for pid in pids {
        until("the worker is gone", || !is_running(pid));
    }
}

#[test]
// Run by `a_pool_in_a_program_that_ends_leaves_nobody_behind`, as a program of its own; by itself it has nothing to show.
fn that_forgets_its_pool() {
    if !is_again() {
        return;
    }
    let pool = Pool::new(4).unwrap();
    drop(pool.map_async(snooze, [60_000; 2]));
    for pid in pool.worker_pids() {
        println!("\nworker {pid}");
    }
    std::process::exit(17);
}

static CALLS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_worker_keeps_its_state_between_tasks() {
    within(LONG, || {
        let pool = Pool::new(1).unwrap();
        let count = |_: u64| CALLS.fetch_add(1, Ordering::Relaxed);
        assert_eq!(pool.map(count, 0..100).unwrap(), (0..100).collect::<Vec<_>>());
        assert_eq!(pool.apply(count, (0,)).unwrap(), 100);
        assert_eq!(CALLS.load(Ordering::Relaxed), 0);
    });
}
