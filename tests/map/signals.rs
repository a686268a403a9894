//! What signals do to it, and that nothing is left whatever they do.

use crate::support::{cells, poll, robust};
use crate::{MINUTE, code, end, map, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::{Duration, Instant};

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// The tool at work: each of two tasks has said so in a file.
fn at_work(dir: &tempfile::TempDir, more: &[&str], script: &str) -> Child {
    let path = |n| dir.path().join(format!("{n}"));
    let _ = (fs::remove_file(path(1)), fs::remove_file(path(2)));
    let script = format!("{script}\ntouch $0; sleep 1000 & wait; wait");
    let tasks = [path(1), path(2)].map(|path| path.to_str().unwrap().to_owned());
    let words = [&["-j2"], more, &["--", "sh", "-c", &script, ":::", &tasks[0], &tasks[1]]].concat();
    let child = map(&words).spawn().unwrap();
    poll("both are at work", MINUTE / 2, || path(1).exists() && path(2).exists());
    child
}

#[test]
fn int_term_and_hup_stop_it_and_the_shell_sees_of_what() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        cells([(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)], |(signal, wanted)| {
            let child = at_work(&dir, &[], "");
            let start = Instant::now();
            send(&child, *signal);
            let output = end(child);
            assert_eq!(code(&output), *wanted, "{}", text(&output.stderr));
            assert_eq!(output.status.signal(), Some(*signal as i32), "a shell's loop must see it");
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        });
    });
}

#[test]
fn a_second_one_kills_those_who_are_deaf() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let child = at_work(&dir, &[], "trap '' TERM");
        send(&child, Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        send(&child, Signal::SIGINT);
        assert_eq!(code(&end(child)), 130);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let child = at_work(&dir, &["--stop-timeout", "100ms"], "trap '' TERM");
        send(&child, Signal::SIGTERM);
        assert_eq!(code(&end(child)), 143);
    });
}

#[test]
fn a_third_one_is_not_waited_for() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let child = at_work(&dir, &["--stop-timeout", "1h"], "trap '' INT TERM");
        for _ in 0..3 {
            send(&child, Signal::SIGINT);
            std::thread::sleep(Duration::from_millis(50));
        }
        let output = end(child);
        assert_eq!((code(&output), output.status.signal()), (130, Some(2)));
    });
}

#[test]
fn usr2_opens_the_log_anew() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let (log, moved) = (dir.path().join("log"), dir.path().join("moved"));
        let script = "touch began.$0; while ! [ -e go.$0 ]; do sleep 0.01; done";
        let words = ["-j1", "--joblog", log.to_str().unwrap(), "--", "sh", "-c", script, ":::", "1", "2"];
        let child = map(&words).current_dir(dir.path()).spawn().unwrap();
        let began = |n: u32| {
            poll("it is at work", MINUTE / 2, || dir.path().join(format!("began.{n}")).exists());
        };
        let go = |n: u32| fs::write(dir.path().join(format!("go.{n}")), "").unwrap();
        began(1);
        go(1);
        began(2);
        poll("the first is logged", MINUTE / 2, || fs::read_to_string(&log).unwrap().lines().count() == 2);
        fs::rename(&log, &moved).unwrap();
        send(&child, Signal::SIGUSR2);
        std::thread::sleep(Duration::from_millis(100));
        go(2);
        assert_eq!(code(&end(child)), 0);
        let lines = |path| fs::read_to_string(path).unwrap().lines().map(Into::into).collect::<Vec<String>>();
        let (old, new) = (lines(&moved), lines(&log));
        assert_eq!((old.len(), new.len(), &old[0]), (2, 2, &new[0]), "{old:?} {new:?}");
        assert!(new[1].starts_with("2\t"), "{new:?}");
    });
}

#[test]
fn killed_it_leaves_nobody() {
    // The proof is in `robust`: whoever is left becomes this test's child.
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            at_work(&dir, &[], "trap '' TERM INT HUP; (setsid sh -c 'trap \"\" TERM; sleep 1000; :' &)");
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn quit_lets_what_runs_end() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let go = dir.path().join("go");
        let script = "touch $0; while ! [ -e go ]; do sleep 0.01; done; echo done";
        let tasks: Vec<String> = (1..=9).map(|n| n.to_string()).collect();
        let mut words = vec!["-j2", "--", "sh", "-c", script, ":::"];
        words.extend(tasks.iter().map(String::as_str));
        let child = map(&words).current_dir(dir.path()).spawn().unwrap();
        poll("both are at work", MINUTE / 2, || {
            dir.path().join("1").exists() && dir.path().join("2").exists()
        });
        send(&child, Signal::SIGQUIT);
        std::thread::sleep(Duration::from_millis(100));
        fs::write(&go, "").unwrap();
        let output = end(child);
        assert_eq!((code(&output), text(&output.stdout).as_str()), (131, "done\ndone\n"));
        assert!(!dir.path().join("3").exists());
    });
}

#[test]
fn usr1_tells_how_it_stands_and_ttin_makes_room() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let words = ["-j1", "--", "sh", "-c", "touch $0; sleep 1000", ":::", "1", "2"];
        let child = map(&words).current_dir(dir.path()).spawn().unwrap();
        poll("one is at work", MINUTE / 2, || dir.path().join("1").exists());
        assert!(!dir.path().join("2").exists());
        send(&child, Signal::SIGTTIN);
        poll("two are at work", MINUTE / 2, || dir.path().join("2").exists());
        let look = || {
            send(&child, Signal::SIGUSR1);
            std::thread::sleep(Duration::from_millis(200));
        };
        look();
        send(&child, Signal::SIGTTOU);
        std::thread::sleep(Duration::from_millis(100));
        look();
        send(&child, Signal::SIGTERM);
        let said = text(&end(child).stderr);
        assert!(said.contains("2 of 2 running") && said.contains("#1 1 (pid"), "{said}");
        // What runs may end; then there is one place less.
        assert!(said.contains("2 of 1 running"), "{said}");
    });
}

#[test]
fn a_pause_stops_the_clocks_and_all_that_runs() {
    robust(MINUTE, || {
        let words = ["-t", "1s", "--", "sh", "-c", "sleep 0.5; echo $0", ":::", "a"];
        let child = map(&words).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        send(&child, Signal::SIGTSTP);
        let pid = child.id();
        poll("it is stopped", MINUTE / 4, || crate::support::state_of(pid) == Some('T'));
        std::thread::sleep(Duration::from_millis(1500));
        send(&child, Signal::SIGCONT);
        let output = end(child);
        assert_eq!((code(&output), text(&output.stdout).as_str()), (0, "a\n"), "{}", text(&output.stderr));
    });
}
