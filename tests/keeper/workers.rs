//! Workers below a keeper: all that they start is found, wherever it has gone, and otherwise they are as any others.

use crate::MINUTE;
use crate::support::{cells, poll, robust};
use crate::trees::{DAEMON, all_gone, none_left};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::drill::{self, Fault, echo};
use procession::{Exit, Pool, Process, SpawnError, TaskError, current_process};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

const PARENT: &str = "PROCESSION_KEEPER_PARENT";

/// A daemon's number; it holds no pipe of its starter's.
fn daemon() -> u32 {
    let mut shell = Command::new("sh").args(["-c", DAEMON]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    shell.wait().unwrap();
    line.trim().parse().unwrap()
}

/// Starts a daemon, makes its number known, and never ends.
fn linger(to: procession::Handle<std::io::PipeWriter>) {
    use std::io::Write;
    let mut to = to.into_inner();
    writeln!(to, "{}", daemon()).unwrap();
    drill::spin();
}

fn pool() -> Pool {
    Pool::builder().workers(2).keeper(true).build().unwrap()
}

#[test]
fn a_process_is_as_any_other() {
    robust(MINUTE, || {
        let start = |process: Process<u64>| process.keeper(true).start().unwrap();
        let child = start(Process::new(drill::call, (None::<Fault>, 7)).name("kept").env("A", "b"));
        assert_eq!((child.name().to_owned(), child.join().unwrap()), ("kept".into(), 7));
        let parent = Process::new(|| current_process().parent().map(|parent| parent.pid()), ()).keeper(true);
        assert_eq!(parent.start().unwrap().join().unwrap(), Some(std::process::id()));
        let name = Process::new(|| current_process().name().to_owned(), ()).name("me").keeper(true);
        assert_eq!(name.start().unwrap().join().unwrap(), "me");
        let mut loud = Process::new(|| println!("said"), ())
            .stdout(procession::Stdio::Piped)
            .keeper(true)
            .start()
            .unwrap();
        let mut said = String::new();
        loud.take_stdout().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.ends_with("said\n"), "{said:?}");
        loud.join().unwrap();
        cells([(Fault::ExitThree, Exit::Code(3)), (Fault::Kill, Exit::Signal(9))], |&(fault, wanted)| {
            let child = start(Process::new(drill::call, (Some(fault), 7)));
            assert_eq!(child.wait().unwrap(), wanted);
            assert!(matches!(child.join(), Err(TaskError::Lost(lost)) if lost.exit() == wanted));
        });
        let child = Process::new(drill::spin, ()).keeper(true).start().unwrap();
        child.terminate().unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Signal(15));
        drop(Process::new(drill::spin, ()).keeper(true).start().unwrap());
        Process::new(echo::<u64>, (1,)).keeper(true).start().unwrap().detach();
        poll("the detached one has ended", MINUTE / 6, || procession::active_children().is_empty());
    });
}

#[test]
fn a_pool_is_as_any_other() {
    robust(MINUTE, || {
        let pool = pool();
        assert_eq!(pool.map(echo::<u64>, 0..1000).unwrap(), (0..1000).collect::<Vec<_>>());
        cells([Fault::Kill, Fault::Segfault, Fault::ExitZero], |&fault| {
            let told = pool.apply(drill::call, (Some(fault), 1));
            assert!(matches!(told, Err(TaskError::Lost(_))), "{told:?}");
        });
        assert_eq!(pool.apply(echo::<u64>, (5,)).unwrap(), 5);
        pool.close();
        pool.join();
    });
}

#[test]
fn what_a_task_has_started_dies_with_it_even_in_a_session_of_its_own() {
    robust(MINUTE, || {
        // The task ends, and its worker lives: the daemon may stay, and goes with the pool.
        let pool = pool();
        let stays = pool.apply(daemon, ()).unwrap();
        assert!(!crate::support::is_gone(stays));
        drop(pool);
        none_left(&[stays]);
        // The worker is killed for its time.
        let (reader, writer) = std::io::pipe().unwrap();
        let pool =
            Pool::builder().workers(1).keeper(true).task_timeout(Duration::from_secs(2)).build().unwrap();
        let told = pool.apply(linger, (procession::Handle(writer),));
        assert!(matches!(told, Err(TaskError::TimedOut(_))), "{told:?}");
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        all_gone(&[line.trim().parse().unwrap()], MINUTE / 6);
        assert_eq!(pool.apply(echo::<u64>, (5,)).unwrap(), 5);
        // A process is killed, and one ends by itself.
        let (reader, writer) = std::io::pipe().unwrap();
        let child = Process::new(linger, (procession::Handle(writer),)).keeper(true).start().unwrap();
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        none_left(&[line.trim().parse().unwrap()]);
        let left = Process::new(daemon, ()).keeper(true).start().unwrap().join().unwrap();
        none_left(&[left]);
    });
}

/// No test by itself: the program that the next one kills.
#[test]
fn a_parent() {
    if std::env::var_os(PARENT).is_none() {
        return;
    }
    let pool = std::mem::ManuallyDrop::new(pool());
    let pids = pool.map(|_: u32| (std::process::id(), daemon()), 0..2).unwrap();
    let pids: Vec<_> =
        pids.iter().flat_map(|(worker, daemon)| [worker.to_string(), daemon.to_string()]).collect();
    println!("\npids {}", pids.join(" "));
    loop {
        std::thread::park();
    }
}

#[test]
fn nothing_survives_a_parent_that_is_killed() {
    robust(MINUTE, || {
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::a_parent", "--nocapture"])
            .env(PARENT, "1")
            .env_remove("NEXTEST")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
        let line = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("pids ").map(str::to_owned));
        let pids: Vec<u32> = line.unwrap().split(' ').map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), 4);
        parent.kill().unwrap();
        parent.wait().unwrap();
        all_gone(&pids, MINUTE / 6);
    });
}

#[test]
fn a_killed_keeper_costs_its_workers_and_the_next_ones_have_another() {
    robust(MINUTE, || {
        let pool = pool();
        let keeper_of = || std::os::unix::process::parent_id();
        let keeper = pool.apply(keeper_of, ()).unwrap();
        assert_ne!(keeper, std::process::id());
        let (reader, writer) = std::io::pipe().unwrap();
        let lost = pool.apply_async(linger, (procession::Handle(writer),));
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        let daemon = line.trim().parse().unwrap();
        kill(Pid::from_raw(keeper.cast_signed()), Signal::SIGKILL).unwrap();
        let told = lost.get();
        assert!(matches!(&told, Err(TaskError::Lost(lost)) if lost.exit() == Exit::Signal(9)), "{told:?}");
        none_left(&[daemon]);
        let next = pool.apply(keeper_of, ()).unwrap();
        assert!(next != keeper && next != std::process::id());
        drop(pool);
        poll("it is gone", MINUTE / 6, || crate::support::is_gone(next));
        // Still as good as new.
        let child = Process::new(echo::<u64>, (1,)).keeper(true).start();
        assert!(!matches!(child, Err(SpawnError::KeeperGone(_))));
        assert_eq!(child.unwrap().join().unwrap(), 1);
    });
}
