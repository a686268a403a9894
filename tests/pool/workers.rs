//! What only processes can.

use super::*;

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
