//! `procession run` on a terminal, and what shows how it fares.

use crate::MINUTE;
use crate::pty::Terminal;
use crate::support::{is_gone, poll, robust};
use std::process::Command;

#[test]
fn lines_are_tagged_and_the_key_that_stops_says_what_comes() {
    robust(MINUTE, || {
        let place = tempfile::tempdir().unwrap();
        let script = "echo hello; exec sleep 1000";
        let terminal =
            Terminal::tool(&["run", "-n", "2", "--name", "web", "--", "sh", "-c", script], place.path());
        terminal
            .until_it("both", |screen| screen.contains("web:0 | hello") && screen.contains("web:1 | hello"));
        terminal.press("\x03");
        let (status, screen) = terminal.end();
        assert_eq!(status.code(), Some(0), "{screen}");
        assert!(screen.contains("stopping, for 10s at most; Ctrl-C again kills"), "{screen}");
    });
}

#[test]
fn suspended_with_all_its_copies() {
    robust(MINUTE, || {
        let place = tempfile::tempdir().unwrap();
        let shell = Terminal::shell(place.path());
        shell.press("$TOOL run --name web -- sh -c 'echo $$ > pid; exec sleep 1000'\n");
        let pid = || std::fs::read_to_string(place.path().join("pid")).ok()?.trim().parse::<u32>().ok();
        poll("the copy runs", MINUTE / 4, || pid().is_some());
        let pid = pid().unwrap();
        shell.press("\x1a");
        shell.until("Stopped");
        poll("the copy stands still", MINUTE / 4, || crate::support::state_of(pid) == Some('T'));
        shell.press("fg\n");
        poll("it goes on", MINUTE / 4, || crate::support::state_of(pid) == Some('S'));
        shell.press("\x03");
        shell.press("echo code $?\n");
        shell.until("code 0");
        assert!(is_gone(pid));
        shell.press("exit\n");
        shell.end();
    });
}

#[test]
fn status_is_drawn_again_as_it_changes() {
    robust(MINUTE, || {
        let place = tempfile::tempdir().unwrap();
        let tool = |words: &[&str]| {
            let mut tool = Command::new(env!("CARGO_BIN_EXE_procession"));
            tool.args(words).env("XDG_RUNTIME_DIR", place.path());
            tool
        };
        let run = Terminal::tool(&["run", "--name", "web", "--", "sleep", "1000"], place.path());
        poll("it is up", MINUTE / 4, || tool(&["status", "web"]).output().unwrap().status.success());
        let watch = Terminal::tool(&["status", "-w", "web"], place.path());
        watch.until("RESTARTS");
        watch.until("web   0");
        assert!(tool(&["scale", "web", "3"]).status().unwrap().success());
        watch.until("web   2");
        assert!(tool(&["stop", "web"]).status().unwrap().success());
        assert_eq!(run.end().0.code(), Some(0));
        assert_eq!(watch.end().0.code(), Some(4));
    });
}
