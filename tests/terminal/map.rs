//! `procession map` on a terminal.

use crate::MINUTE;
use crate::pty::Terminal;
use crate::support::{orphans, poll, robust, state_of};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

/// So many tasks, as words behind `:::`.
fn tasks(count: u32) -> Vec<String> {
    (1..=count).map(|n| n.to_string()).collect()
}

#[test]
fn a_bar_is_drawn_and_gone_again_and_results_are_whole() {
    robust(MINUTE, || {
        let place = tempfile::tempdir().unwrap();
        let tasks = tasks(40);
        let mut words =
            vec!["map", "-j2", "--", "sh", "-c", "sleep 0.1; [ $0 != 7 ] || exit 1; echo result $0", ":::"];
        words.extend(tasks.iter().map(String::as_str));
        let terminal = Terminal::tool(&words, place.path());
        terminal.until_it("a bar", |screen| {
            let bar = screen.lines().find(|line| line.contains("/40 ok ") && line.contains("2 of 2 running"));
            bar.is_some_and(|bar| bar.contains("[=") && bar.contains("/s · ETA ") && bar.contains("failed 1"))
        });
        let (status, screen) = terminal.end();
        assert_eq!(status.code(), Some(123));
        assert!(!screen.contains("running"), "{screen}");
        let results: Vec<&str> = screen.lines().filter(|line| line.starts_with("result ")).collect();
        // The screen shows the last of them, each on a line of its own.
        assert!(results.len() > 15 && results.last() == Some(&"result 40"), "{screen}");
        assert!(screen.contains("procession: 39 ok, 1 failed"), "{screen}");
    });
}

#[test]
fn who_takes_long_is_named() {
    robust(MINUTE, || {
        let place = tempfile::tempdir().unwrap();
        let script = "[ $0 != slow ] || sleep 1000; sleep 0.05";
        let terminal =
            Terminal::tool(&["map", "-j2", "--", "sh", "-c", script, ":::", "slow", "fast"], place.path());
        terminal.until_it("a name", |screen| {
            screen.lines().any(|line| line.contains("#1 slow (pid ") && line.contains(" for 3"))
        });
        terminal.press("\x03");
        let (status, screen) = terminal.end();
        assert_eq!(status.signal(), Some(2), "{screen}");
        assert!(!screen.contains("#1 slow"), "{screen}");
    });
}

#[test]
fn no_bar_is_drawn_where_none_is_wanted() {
    robust(MINUTE, || {
        let place = tempfile::tempdir().unwrap();
        for how in ["none", "plain"] {
            let words = ["map", "--progress", how, "--", "sh", "-c", "sleep 0.6; echo $0", ":::", "a"];
            let (status, screen) = Terminal::tool(&words, place.path()).end();
            assert_eq!((status.code(), screen.trim()), (Some(0), "a"));
        }
    });
}

#[test]
fn suspended_and_brought_back_by_a_shell() {
    robust(MINUTE, || {
        let place = tempfile::tempdir().unwrap();
        let shell = Terminal::shell(place.path());
        // 2 s of work and 2 s of time for it, of which 3 s pass while it is suspended.
        shell.press("$TOOL map -t 4s -- sh -c 'echo $$ > pid; sleep 2; echo result' ::: a; echo code $?\n");
        shell.until("1 of ");
        let pid = || std::fs::read_to_string(place.path().join("pid")).ok()?.trim().parse::<u32>().ok();
        poll("the program runs", MINUTE / 4, || pid().is_some());
        shell.press("\x1a");
        shell.until_it("the shell has the terminal again", |screen| screen.contains("Stopped"));
        let pid = pid().unwrap();
        poll("the program stands still", MINUTE / 4, || state_of(pid) == Some('T'));
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(state_of(pid), Some('T'));
        shell.press("fg; echo then $?\n");
        shell.until("result");
        shell.until("then 0");
        shell.press("exit\n");
        assert_eq!(shell.end().0.code(), Some(0));
    });
}

#[test]
fn interrupted_at_the_terminal_the_prompt_is_back_at_once() {
    robust(MINUTE, || {
        let place = tempfile::tempdir().unwrap();
        let shell = Terminal::shell(place.path());
        shell.press("$TOOL map -j3 -- sleep ::: 1000 1000 1000\n");
        shell.until("3 of 3 running");
        let start = Instant::now();
        shell.press("\x03");
        shell.press("echo code $?\n");
        shell.until("code 130");
        let obedient = start.elapsed();
        shell.press("$TOOL map -j2 --stop-timeout 1h -- sh -c 'trap \"\" TERM INT; echo $0 >> deaf; sleep 1000; :' ::: 1 2\n");
        let deaf = place.path().join("deaf");
        poll("both are deaf", MINUTE / 4, || {
            std::fs::read_to_string(&deaf).is_ok_and(|text| text.lines().count() == 2)
        });
        shell.press("\x03");
        std::thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        shell.press("\x03");
        shell.press("echo again $?\n");
        shell.until("again 130");
        let killed = start.elapsed();
        // Generous: the machine may be busy with other tests.
        assert!(
            obedient < Duration::from_secs(5) && killed < Duration::from_secs(5),
            "{obedient:?} {killed:?}"
        );
        shell.press("exit\n");
        shell.end();
        assert!(orphans().is_empty());
    });
}

#[test]
fn the_quit_key_lets_what_runs_end() {
    robust(MINUTE, || {
        let place = tempfile::tempdir().unwrap();
        let words = ["map", "-j1", "--", "sh", "-c", "sleep 1; echo done $0", ":::", "1", "2", "3"];
        let terminal = Terminal::tool(&words, place.path());
        terminal.until("1 of 1 running");
        terminal.press("\x1c");
        let (status, screen) = terminal.end();
        assert!(status.code() == Some(131) || status.signal() == Some(3), "{status}");
        assert!(screen.contains("done 1") && !screen.contains("done 3"), "{screen}");
    });
}
