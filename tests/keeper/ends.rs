//! How programs end, and that nothing of them stays.

use crate::support::{is_gone, poll, robust};
use crate::trees::{DAEMON, all_gone, children, daemons, family, none_left};
use crate::{MINUTE, shell};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll as poll_fds};
use procession::{Cause, Exit, Keeper, Program, Running, Stdio};
use std::io::{BufRead, Read};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const TERM: i32 = libc::SIGTERM;

fn has_ended(running: &Running) -> bool {
    poll_fds(&mut [PollFd::new(running.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn every_end_has_its_cause() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let core = Cause::Signal { signal: libc::SIGKILL, core: false };
        for (script, cause, words) in [
            ("exit 0", Cause::Ok, "ok"),
            ("exit 3", Cause::Exit(3), "exit 3"),
            ("exit 255", Cause::Exit(255), "exit 255"),
            ("kill -9 $$", core, "killed by SIGKILL"),
            ("kill -TERM $$", Cause::Signal { signal: TERM, core: false }, "killed by SIGTERM"),
        ] {
            let ended = keeper.start(shell(script)).unwrap().wait().unwrap();
            assert_eq!((ended.cause(), ended.leaked()), (cause, 0), "{script}");
            assert_eq!(ended.cause().to_string(), words);
        }
        let busy =
            keeper.start(shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")).unwrap().wait().unwrap();
        assert!(busy.usage().user > Duration::from_millis(1) && busy.usage().max_rss > 100 << 10, "{busy:?}");
        let killed = keeper.start(Program::new("sleep").arg("1000")).unwrap();
        killed.kill().unwrap();
        let ended = killed.wait().unwrap();
        assert_eq!((ended.cause(), ended.exit()), (Cause::Killed, Some(Exit::Signal(9))));
        killed.kill().unwrap();
        killed.signal(TERM).unwrap();
        assert_eq!(killed.ended(), Some(ended));
    });
}

#[test]
fn waiting_has_a_limit_callbacks_come_once_and_threads_do_not_mind_each_other() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let sleeper = keeper.start(Program::new("sleep").arg("1000")).unwrap();
        assert_eq!(sleeper.wait_timeout(Duration::from_millis(20)).unwrap(), None);
        let (send, ends) = mpsc::channel();
        let late = send.clone();
        sleeper.on_end(move |ended| send.send(ended.cause()).unwrap());
        thread::scope(|scope| {
            let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| sleeper.wait().unwrap().cause())).collect();
            for _ in 0..20 {
                assert!(keeper.start(Program::new("true")).unwrap().wait().unwrap().cause().is_ok());
            }
            sleeper.signal(TERM).unwrap();
            for waiter in waiters {
                assert_eq!(waiter.join().unwrap(), Cause::Signal { signal: TERM, core: false });
            }
        });
        sleeper.on_end(move |ended| late.send(ended.cause()).unwrap());
        assert_eq!(ends.iter().count(), 2);
        // Nobody waits for this one but the callback.
        let (send, ends) = mpsc::channel();
        let quick = keeper.start(Program::new("true")).unwrap();
        quick.on_end(move |ended| send.send(ended.cause()).unwrap());
        assert_eq!(ends.recv(), Ok(Cause::Ok));
    });
}

#[test]
fn the_descriptor_tells_the_end_of_the_program_itself() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let mut running = keeper.start(shell("read x").stdin(Stdio::Piped)).unwrap();
        assert!(!has_ended(&running) && running.ended().is_none());
        drop(running.take_stdin());
        poll("it can be read", MINUTE / 6, || has_ended(&running));
        assert_eq!(running.wait().unwrap().cause(), Cause::Exit(1));
        // It is no child of ours, so it cannot be waited for here.
        let id = nix::sys::wait::Id::PIDFd(running.as_fd());
        assert!(nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED).is_err());
    });
}

#[test]
fn a_thousand_quick_programs_leave_nothing() {
    robust(MINUTE * 2, || {
        let keeper = Keeper::new().unwrap();
        let open = || std::fs::read_dir(format!("/proc/{}/fd", keeper.pid())).unwrap().count();
        let before = open();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        assert!(keeper.start(Program::new("true")).unwrap().wait().unwrap().cause().is_ok());
                    }
                });
            }
        });
        assert_eq!((children(keeper.pid()), keeper.running(), open()), (vec![], 0, before));
    });
}

#[test]
fn what_a_program_leaves_behind_is_killed_and_counted() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let other = keeper.start(Program::new("sleep").arg("1000")).unwrap();
        let mut faithful = keeper.start(family(1, "sleep 1000; :")).unwrap();
        let (theirs, _open) = daemons(&mut faithful, 1);
        for count in [1, 5] {
            let mut running = keeper.start(family(count, "read x; exit 4").stdin(Stdio::Piped)).unwrap();
            let (pids, mut rest) = daemons(&mut running, count);
            assert!(pids.iter().all(|&pid| !is_gone(pid)));
            drop(running.take_stdin());
            let ended = running.wait().unwrap();
            none_left(&pids);
            assert_eq!((ended.cause(), ended.leaked()), (Cause::Exit(4), u32::try_from(count).unwrap()));
            // They held the pipe; whoever reads it finds its end.
            assert_eq!(rest.fill_buf().unwrap(), b"");
        }
        // A child in the background, in the session of the program.
        let ended = keeper.start(shell("sleep 1000 & sleep 1000 &")).unwrap().wait().unwrap();
        assert_eq!((ended.cause(), ended.leaked()), (Cause::Ok, 2));
        // Another's daemon, an orphan as well, is that one's affair.
        assert!(theirs.iter().all(|&pid| !is_gone(pid)) && !has_ended(&other));
        drop(faithful);
        none_left(&theirs);
    });
}

#[test]
fn an_obedient_tree_stops_in_time_and_a_stubborn_one_after_it() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let grace = Duration::from_millis(300);
        let obedient = keeper.start(shell("sleep 1000 & sleep 1000 & wait")).unwrap();
        poll("its children are there", MINUTE / 6, || children(obedient.pid()).len() == 2);
        let below = children(obedient.pid());
        let start = Instant::now();
        let ended = obedient.stop(TERM, MINUTE).unwrap();
        assert_eq!(ended.cause(), Cause::Stopped);
        assert!(start.elapsed() < MINUTE / 6);
        none_left(&below);
        // Stopped is no excuse.
        let asleep = keeper.start(shell("kill -STOP $$")).unwrap();
        assert_eq!(asleep.stop(TERM, MINUTE).unwrap().cause(), Cause::Stopped);
        // One that tidies up, and says how it went.
        let tidy = shell("trap 'exit 7' TERM; echo; while :; do sleep 0.01; done").stdout(Stdio::Piped);
        let mut tidy = keeper.start(tidy).unwrap();
        tidy.take_stdout().unwrap().read_exact(&mut [0]).unwrap();
        let ended = tidy.stop(TERM, MINUTE).unwrap();
        assert_eq!((ended.cause(), ended.exit()), (Cause::Stopped, Some(Exit::Code(7))));
        // Deaf, with deaf daemons.
        let mut deaf =
            keeper.start(family(2, "trap '' TERM; echo deaf; while :; do sleep 1000; done")).unwrap();
        let mut pids = vec![deaf.pid()];
        let mut lines = std::io::BufReader::new(deaf.take_stdout().unwrap()).lines().map(Result::unwrap);
        pids.extend(lines.by_ref().take(3).filter_map(|line| line.parse::<u32>().ok()));
        assert_eq!(pids.len(), 3);
        let start = Instant::now();
        let ended = deaf.stop(TERM, grace).unwrap();
        assert_eq!(ended.cause(), Cause::Killed);
        assert!(start.elapsed() >= grace);
        none_left(&pids);
    });
}

/// Those who execute a file of this name.
fn running_from(path: &std::path::Path) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let name = path.to_str().unwrap();
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(name)).count()
}

#[test]
fn a_chain_of_processes_that_each_live_a_moment_is_caught() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hopper");
        std::fs::write(&path, "#!/bin/sh\nsetsid \"$0\" &\n").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let keeper = Keeper::new().unwrap();
        // It ends, and its chain is a leak.
        let ended = keeper.start(Program::new(&path)).unwrap().wait().unwrap();
        assert_eq!((ended.cause(), running_from(&path)), (Cause::Ok, 0));
        // It goes on, and is killed; and another, until its keeper goes.
        let script = format!("{0} & {0} & sleep 1000; :", path.display());
        let killed = keeper.start(shell(&script)).unwrap();
        let dropped = keeper.start(shell(&script)).unwrap();
        thread::sleep(Duration::from_millis(20));
        killed.kill().unwrap();
        assert_eq!(killed.wait().unwrap().cause(), Cause::Killed);
        dropped.detach();
        drop(keeper);
        assert_eq!(running_from(&path), 0);
    });
}

#[test]
fn a_leader_that_obeys_does_not_save_its_stubborn_grandchild() {
    // process-compose #520, circus #1044, rush #66.
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let mut running = keeper.start(family(1, "exec sleep 1000")).unwrap();
        let (pids, _open) = daemons(&mut running, 1);
        running.begin_stop(TERM).unwrap();
        poll("the leader obeys", MINUTE / 6, || has_ended(&running));
        assert_eq!(running.wait_timeout(Duration::from_millis(100)).unwrap(), None, "the tree is not gone");
        assert!(!is_gone(pids[0]), "and it has its time");
        let ended = running.stop(TERM, Duration::from_millis(50)).unwrap();
        none_left(&pids);
        assert_eq!((ended.cause(), ended.leaked()), (Cause::Stopped, 1));
    });
}

#[test]
fn a_deadline_holds_though_an_orphan_holds_the_pipe() {
    // almide #2065, boxlite #910, leoflow #1074.
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let mut running = keeper.start(family(1, "sleep 1000")).unwrap();
        let (pids, mut rest) = daemons(&mut running, 1);
        let start = Instant::now();
        assert_eq!(running.wait_timeout(Duration::from_millis(50)).unwrap(), None);
        let ended = running.stop(TERM, Duration::ZERO).unwrap();
        assert_eq!(rest.read(&mut [0]).unwrap(), 0);
        assert!(start.elapsed() < MINUTE / 6);
        assert!(matches!(ended.cause(), Cause::Killed | Cause::Stopped));
        none_left(&pids);
    });
}

#[test]
fn a_number_that_was_given_again_is_never_signalled() {
    // lionagi #3402.
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let running = keeper.start(Program::new("true")).unwrap();
        assert!(running.wait().unwrap().cause().is_ok());
        let last = running.pid() - 1;
        // Whoever may not choose numbers tries its luck all the same.
        let _ = std::fs::write("/proc/sys/kernel/ns_last_pid", last.to_string());
        let mut heir = Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
        println!("the same number: {}", heir.id() == running.pid());
        running.signal(libc::SIGKILL).unwrap();
        running.signal_all(libc::SIGKILL).unwrap();
        running.kill().unwrap();
        drop(running);
        drop(keeper);
        assert_eq!(heir.try_wait().unwrap(), None);
        heir.kill().unwrap();
        heir.wait().unwrap();
    });
}

#[test]
fn dropping_a_program_kills_its_tree_and_dropping_the_keeper_all_of_them() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let mut running = keeper.start(family(2, "sleep 1000; :")).unwrap();
        let (mut pids, _open) = daemons(&mut running, 2);
        pids.push(running.pid());
        drop(running);
        none_left(&pids);
        let mut detached = keeper.start(family(1, "sleep 1000; :")).unwrap();
        let mut kept = keeper.start(family(1, "sleep 1000; :")).unwrap();
        let (mut pids, _open) = daemons(&mut detached, 1);
        pids.extend(daemons(&mut kept, 1).0);
        pids.extend([detached.pid(), kept.pid()]);
        detached.detach();
        all_alive(&pids);
        drop(keeper);
        none_left(&pids);
        let ended = kept.wait().unwrap();
        assert_eq!((ended.cause(), ended.exit()), (Cause::Killed, None));
    });
}

fn all_alive(pids: &[u32]) {
    assert!(pids.iter().all(|&pid| !is_gone(pid)));
}

#[test]
fn signals_reach_the_leader_or_the_whole_tree() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let script = format!("{DAEMON}\ntrap 'echo got' USR1; while :; do sleep 0.01; done");
        let mut running = keeper.start(shell(&script).stdout(Stdio::Piped)).unwrap();
        let (pids, mut lines) = daemons(&mut running, 1);
        let mut line = String::new();
        // Until its trap is set the signal would end it.
        poll("its trap is set", MINUTE / 6, || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
            u64::from_str_radix(caught, 16).unwrap() >> (libc::SIGUSR1 - 1) & 1 == 1
        });
        running.signal(libc::SIGUSR1).unwrap();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "got\n");
        assert!(!is_gone(pids[0]));
        // The daemon does not ignore this one.
        running.signal_all(libc::SIGUSR1).unwrap();
        all_gone(&pids, MINUTE / 6);
        assert!(running.ended().is_none());
        assert_eq!(running.signal(4000).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    });
}
