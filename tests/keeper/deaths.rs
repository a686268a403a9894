//! The deaths of owner and keeper, by SIGKILL and at any moment; and a keeper that lives and does not answer.

use crate::support::{is_gone, poll, poll_or, reap_orphan, robust, state_of};
use crate::trees::{DAEMON, all_gone, children, daemons, family, none_left};
use crate::{MINUTE, shell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::{Cause, Keeper, Loss, Program, Running, SpawnError, Stage, Stdio};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::mem::ManuallyDrop;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Makes a run of this test program an owner: of how many families.
const OWNER: &str = "PROCESSION_DRILL_OWNER";

/// In which a tree has to follow its owner. The aim is 100 ms, and a benchmark measures it; here the machine may be busy.
const SOON: Duration = Duration::from_secs(5);

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// No test by itself: the program that another starts.
#[test]
fn an_owner() {
    let Ok(count) = std::env::var(OWNER) else { return };
    let keeper = ManuallyDrop::new(Keeper::new().unwrap());
    println!("\nkeeper {}", keeper.pid());
    let mut families = ManuallyDrop::new(Vec::new());
    for _ in 0..count.parse::<usize>().unwrap() {
        let mut running = keeper.start(family(1, "trap '' TERM HUP; sleep 1000; :")).unwrap();
        let (pids, rest) = daemons(&mut running, 1);
        println!("pids {} {}", running.pid(), pids[0]);
        families.push((running, rest));
    }
    println!("done");
    loop {
        thread::park();
    }
}

fn owner(families: usize) -> (std::process::Child, u32, Vec<u32>) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "deaths::an_owner", "--nocapture"])
        .env(OWNER, families.to_string())
        .env_remove("NEXTEST")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keeper, mut pids) = (0, Vec::new());
    for line in BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap) {
        if line == "done" {
            break;
        } else if let Some(pid) = line.strip_prefix("keeper ") {
            keeper = pid.parse().unwrap();
        } else if let Some(line) = line.strip_prefix("pids ") {
            pids.extend(line.split(' ').map(|pid| pid.parse::<u32>().unwrap()));
        }
    }
    assert_eq!(pids.len(), 2 * families);
    (owner, keeper, pids)
}

fn follows(owner: &mut std::process::Child, keeper: u32, mut pids: Vec<u32>, end: impl FnOnce(u32)) {
    pids.push(keeper);
    assert!(pids.iter().all(|&pid| !is_gone(pid)));
    let start = Instant::now();
    end(owner.id());
    owner.wait().unwrap();
    all_gone(&pids, SOON);
    println!("all {} gone after {:?}", pids.len(), start.elapsed());
    reap_orphan(keeper);
}

#[test]
fn nothing_survives_an_owner_that_is_killed() {
    robust(MINUTE * 2, || {
        for families in [1, 100] {
            let (mut owner, keeper, pids) = owner(families);
            follows(&mut owner, keeper, pids, |pid| signal(pid, Signal::SIGKILL));
        }
    });
}

#[test]
fn nothing_survives_an_owner_that_is_terminated_or_is_stopped_and_killed() {
    robust(MINUTE, || {
        for first in [Signal::SIGTERM, Signal::SIGABRT, Signal::SIGSTOP] {
            let (mut owner, keeper, pids) = owner(2);
            follows(&mut owner, keeper, pids, |pid| {
                signal(pid, first);
                if first == Signal::SIGSTOP {
                    signal(pid, Signal::SIGKILL);
                }
            });
        }
    });
}

#[test]
fn a_killed_owner_is_noticed_though_another_holds_its_socket() {
    // What the owner's own fork would do: here the keeper learns it from the owner's pidfd alone.
    robust(MINUTE, || {
        let (mut owner, keeper, pids) = owner(1);
        // A stopped keeper learns it late, but learns it.
        signal(keeper, Signal::SIGSTOP);
        poll("it is stopped", MINUTE / 6, || state_of(keeper) == Some('T'));
        let mut all = pids.clone();
        all.push(keeper);
        signal(owner.id(), Signal::SIGKILL);
        owner.wait().unwrap();
        assert!(pids.iter().all(|&pid| !is_gone(pid)));
        signal(keeper, Signal::SIGCONT);
        all_gone(&all, SOON);
        reap_orphan(keeper);
    });
}

#[test]
fn nothing_survives_a_keeper_that_is_killed_and_all_are_told() {
    robust(MINUTE, || {
        let keeper = Keeper::builder().subreaper(true).build().unwrap();
        let mut families: Vec<_> =
            (0..5).map(|_| keeper.start(family(2, "trap '' TERM; sleep 1000; :")).unwrap()).collect();
        let mut pids = Vec::new();
        for running in &mut families {
            pids.push(running.pid());
            pids.extend(daemons(running, 2).0);
        }
        signal(keeper.pid(), Signal::SIGKILL);
        for running in &families {
            let ended = running.wait().unwrap();
            assert_eq!((ended.cause(), ended.exit()), (Cause::Lost(Loss::Keeper), None));
            assert_eq!(ended.cause().to_string(), "lost with its keeper");
        }
        none_left(&pids);
        assert!(!keeper.is_alive());
        let error = keeper.start(Program::new("true")).unwrap_err();
        assert!(matches!(error, SpawnError::KeeperGone(_)), "{error}");
        assert!(families[0].kill().is_ok());
    });
}

/// The limit of processes does not hold for root, so this owner is somebody else.
const FEW: &str = "PROCESSION_DRILL_FEW";

/// No test by itself: the program that the next one starts.
#[test]
fn an_owner_of_few_processes() {
    if std::env::var_os(FEW).is_none() {
        return;
    }
    let keeper = Keeper::new().unwrap();
    let mut running = Vec::new();
    let start = || keeper.start(Program::new("sleep").arg("1000"));
    let error = loop {
        match start() {
            Ok(one) => running.push(one),
            Err(error) => break error,
        }
        assert!(running.len() < 100, "there is no limit");
    };
    assert_eq!(error.cause(), Cause::Spawn { stage: Stage::Process, errno: libc::EAGAIN });
    assert!(error.is_temporary() && error.to_string().contains("ulimit -u"), "{error}");
    // One goes, and the next attempt or the one after it finds room.
    running[0].begin_stop(libc::SIGTERM).unwrap();
    running.push(start().unwrap());
    println!("\nfew {}", running.len());
}

#[test]
fn too_few_processes_is_tried_again_and_then_told() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::getuid().is_root() {
        return;
    }
    robust(MINUTE, || {
        // Where nobody else may read it, it could not be executed.
        let dir = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let copy = dir.path().join("owner");
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let output = Command::new("sh")
            .args(["-c", "ulimit -u 20 2>/dev/null || ulimit -p 20; exec \"$0\" --exact deaths::an_owner_of_few_processes --nocapture"])
            .arg(&copy)
            .env(FEW, "1")
            .env_remove("NEXTEST")
            .current_dir(dir.path())
            .uid(54_321)
            .gid(54_321)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("few "), "{said}\n{output:?}");
    });
}

/// A number from the clock: no two runs kill at the same moments.
fn some(below: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (u64::from(now.subsec_nanos()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % below
}

#[test]
fn a_keeper_may_be_killed_at_any_moment() {
    robust(MINUTE * 2, || {
        for _ in 0..20 {
            let keeper = Keeper::new().unwrap();
            let pid = keeper.pid();
            let killer = thread::spawn(move || {
                thread::sleep(Duration::from_micros(some(20_000)));
                signal(pid, Signal::SIGKILL);
            });
            let mut pids = Vec::new();
            thread::scope(|scope| {
                let starters: Vec<_> = (0..2)
                    .map(|_| {
                        scope.spawn(|| {
                            let mut running = Vec::new();
                            loop {
                                match keeper.start(family(1, "sleep 1000; :")) {
                                    Ok(one) => running.push(one),
                                    Err(SpawnError::KeeperGone(_)) => return running,
                                    Err(other) => panic!("{other}"),
                                }
                            }
                        })
                    })
                    .collect();
                for running in starters.into_iter().flat_map(|starter| starter.join().unwrap()) {
                    let ended = running.wait().unwrap();
                    assert_eq!(ended.cause(), Cause::Lost(Loss::Keeper));
                    pids.push(running.pid());
                }
            });
            killer.join().unwrap();
            none_left(&pids);
        }
    });
}

#[test]
fn a_keeper_that_is_stopped_is_a_typed_error_in_time() {
    robust(MINUTE, || {
        let patience = Duration::from_millis(200);
        let keeper = Keeper::builder().answer_timeout(patience).build().unwrap();
        let sleeper = keeper.start(Program::new("sleep").arg("1000")).unwrap();
        signal(keeper.pid(), Signal::SIGSTOP);
        poll("it is stopped", MINUTE / 6, || state_of(keeper.pid()) == Some('T'));
        let start = Instant::now();
        let error = keeper.start(Program::new("sleep").arg("1001")).unwrap_err();
        assert!(matches!(error, SpawnError::KeeperSilent(limit) if limit == patience), "{error}");
        assert_eq!(sleeper.wait_timeout(patience).unwrap(), None);
        // Asks pile up in the socket until it is full; then that, too, is told in time.
        let full = (0..10_000).find_map(|_| sleeper.signal_all(0).err()).unwrap();
        assert_eq!(full.kind(), std::io::ErrorKind::TimedOut);
        let error = keeper.start(Program::new("sleep").arg("1002")).unwrap_err();
        assert!(matches!(error, SpawnError::KeeperSilent(_)), "{error}");
        // The program itself can be signalled all the same.
        sleeper.signal(libc::SIGTERM).unwrap();
        assert!(start.elapsed() < MINUTE / 6);
        signal(keeper.pid(), Signal::SIGCONT);
        assert_eq!(sleeper.wait().unwrap().cause(), Cause::Signal { signal: libc::SIGTERM, core: false });
        // What nobody waited for is not run.
        poll_or("nobody runs", SOON, || {
            let left = children(keeper.pid());
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        assert!(keeper.start(Program::new("true")).unwrap().wait().unwrap().cause().is_ok());
    });
}

#[test]
fn dropping_a_keeper_that_is_stopped_is_bounded_and_leaves_nothing() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let mut running = keeper.start(family(1, "sleep 1000; :")).unwrap();
        let (mut pids, _open) = daemons(&mut running, 1);
        pids.push(running.pid());
        running.detach();
        signal(keeper.pid(), Signal::SIGSTOP);
        let start = Instant::now();
        drop(keeper);
        assert!(start.elapsed() < MINUTE / 4);
        none_left(&pids);
    });
}

#[test]
fn an_owner_without_descriptors_is_told_so_and_goes_on() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let mut hoard = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            hoard.push(file);
        }
        let error = keeper.start(shell("sleep 1000").stdout(Stdio::Piped)).unwrap_err();
        assert_eq!(error.cause(), Cause::Spawn { stage: Stage::Streams, errno: libc::EMFILE });
        let error = keeper.start(Program::new("sleep").arg("1000")).unwrap_err();
        assert_eq!(error.cause(), Cause::Spawn { stage: Stage::Streams, errno: libc::EMFILE });
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        assert!(Keeper::new().is_err());
        drop(hoard);
        assert!(keeper.start(Program::new("true")).unwrap().wait().unwrap().cause().is_ok());
        poll_or("nobody runs", SOON, || {
            let left = children(keeper.pid());
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    });
}

#[test]
fn a_keeper_without_descriptors_says_so_and_still_kills_everybody() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let limit = |soft: &str| {
            let mut prlimit = Command::new("prlimit");
            prlimit.args([format!("--pid={}", keeper.pid()), format!("--nofile={soft}:")]);
            prlimit.status().is_ok_and(|status| status.success())
        };
        let mut running = keeper.start(family(2, "sleep 1000; :")).unwrap();
        let (mut pids, _open) = daemons(&mut running, 2);
        pids.push(running.pid());
        running.detach();
        let numbers = || -> Vec<u32> {
            let open = std::fs::read_dir(format!("/proc/{}/fd", keeper.pid())).unwrap().flatten();
            open.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect()
        };
        // Three for standard streams, and its socket, its owner, the list of its children.
        poll("what it has sent is closed", MINUTE / 6, || numbers().len() == 6);
        let numbers = numbers();
        let open = (0_u32..).find(|number| !numbers.contains(number)).unwrap();
        if !limit(&open.to_string()) {
            return;
        }
        let quiet = || Program::new("true").stdout(Stdio::Null).stderr(Stdio::Null);
        let error = keeper.start(Program::new("true")).unwrap_err();
        assert_eq!(error.cause(), Cause::Spawn { stage: Stage::Streams, errno: libc::EMFILE });
        let error = keeper.start(quiet()).unwrap_err();
        assert_eq!(error.cause(), Cause::Spawn { stage: Stage::Process, errno: libc::EMFILE });
        limit(&(open + 1).to_string());
        assert!(keeper.start(quiet()).unwrap().wait().unwrap().cause().is_ok());
        limit(&open.to_string());
        assert!(pids.iter().all(|&pid| !is_gone(pid)));
        drop(keeper);
        none_left(&pids);
    });
}

#[test]
fn a_keeper_below_a_keeper_minds_its_own() {
    // Run as a program of the outer one.
    const INNER: &str = "PROCESSION_DRILL_INNER";
    if std::env::var_os(INNER).is_some() {
        let keeper = Keeper::new().unwrap();
        let ended = keeper.start(shell(DAEMON).stdout(Stdio::Null)).unwrap().wait().unwrap();
        assert_eq!(ended.leaked(), 1);
        let mut kept = keeper.start(family(1, "sleep 1000; :")).unwrap();
        let (pids, _open) = daemons(&mut kept, 1);
        println!("\npids {} {} {}", keeper.pid(), kept.pid(), pids[0]);
        loop {
            thread::park();
        }
    }
    robust(MINUTE, || {
        let outer = Keeper::new().unwrap();
        let other = outer.start(Program::new("sleep").arg("1000")).unwrap();
        let inner = Program::new(std::env::current_exe().unwrap())
            .args(["--exact", "deaths::a_keeper_below_a_keeper_minds_its_own", "--nocapture"])
            .env(INNER, "1")
            .env_remove("NEXTEST")
            .stdout(Stdio::Piped);
        let mut inner = outer.start(inner).unwrap();
        let lines = BufReader::new(inner.take_stdout().unwrap()).lines();
        let line = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("pids ").map(str::to_owned));
        let pids: Vec<u32> = line.unwrap().split(' ').map(|pid| pid.parse().unwrap()).collect();
        inner.signal(libc::SIGKILL).unwrap();
        // The inner keeper sees to its own, and nobody takes the outer one's.
        assert_eq!(inner.wait().unwrap().cause(), Cause::Signal { signal: libc::SIGKILL, core: false });
        all_gone(&pids, SOON);
        assert!(!is_gone(other.pid()));
    });
}

#[test]
fn a_keeper_with_a_hundred_programs_sleeps() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let sleepers: Vec<_> =
            (0..100).map(|_| keeper.start(Program::new("sleep").arg("1000")).unwrap()).collect();
        let switches = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", keeper.pid())).unwrap();
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:\t"));
            count.unwrap().parse::<u64>().unwrap()
        };
        poll("it sleeps", MINUTE / 6, || state_of(keeper.pid()) == Some('S'));
        let before = switches();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(switches(), before);
        drop(keeper);
        none_left(&sleepers.iter().map(Running::pid).collect::<Vec<_>>());
    });
}

#[test]
fn the_keepers_flag_cannot_be_typed() {
    for spec in ["", "3,1,0", "0,1,0", "nonsense", "99,1,0"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .arg(format!("--procession-keeper={spec}"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125), "{spec}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("cannot be typed"));
    }
}
