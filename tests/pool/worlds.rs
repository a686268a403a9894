//! The same program in another world: other limits, signals, descriptors, endings.

use super::*;

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
    let mut command = again("worlds::with_eight_processors");
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
    succeeds(again_after("ulimit -n 40", "worlds::with_forty_descriptors"));
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
    succeeds(again_after("ulimit -n 64", "worlds::with_a_hundred_thousand_tasks"));
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
    succeeds(again_after("trap '' INT HUP QUIT TERM CHLD USR1", "worlds::with_signals_ignored"));
    succeeds(again("worlds::with_signals_ignored"));
    if has("env", &["--block-signal=INT", "true"]) {
        let shell = "exec env --block-signal \"$0\" \"$@\"";
        succeeds(again_after(shell, "worlds::with_signals_ignored"));
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
    succeeds(again_after("exec 7</dev/null 9>/dev/null", "worlds::with_stray_descriptors"));
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
    let mut child = again("worlds::with_busy_workers").spawn().unwrap();
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
    let output = finish(&mut again("worlds::that_forgets_its_pool"));
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
