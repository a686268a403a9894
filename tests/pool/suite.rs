//! What processes and threads promise in the same words.

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
