//! What gets runners into trouble: a leader that obeys and a grandchild that does not, an orphan that holds the pipe. Both by the
//! tool; the library's are in `tests/keeper/ends.rs`, with the number that was given again.

use crate::support::{is_gone, poll, robust};
use crate::{MINUTE, code, end, map, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

/// Forked twice, in a session of its own, deaf to all that can be ignored; it writes down its number and holds the pipe.
const DEAF: &str = "(setsid sh -c 'trap \"\" TERM INT HUP QUIT; echo $$ > deaf; exec sleep 1000' &)";

fn deaf(dir: &tempfile::TempDir) -> Option<u32> {
    fs::read_to_string(dir.path().join("deaf")).ok()?.strip_suffix('\n')?.parse().ok()
}

#[test]
fn a_leader_that_obeys_does_not_save_its_stubborn_grandchild() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("{DEAF}; exec sleep 1000; #");
        let words = ["--stop-timeout", "100ms", "--", "sh", "-c", &script, ":::", "a"];
        let child = map(&words).current_dir(dir.path()).spawn().unwrap();
        poll("it has a grandchild", MINUTE / 2, || deaf(&dir).is_some());
        let start = Instant::now();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(code(&end(child)), 143);
        assert!(start.elapsed() >= Duration::from_millis(100), "the grandchild had its time, too");
        assert!(is_gone(deaf(&dir).unwrap()));
    });
}

#[test]
fn a_deadline_holds_though_an_orphan_holds_the_pipe() {
    robust(MINUTE, || {
        for flags in [["-t", "300ms"], ["--deadline", "300ms"]] {
            let dir = tempfile::tempdir().unwrap();
            let script = format!("{DEAF}; echo said; exec sleep 1000; #");
            let words =
                [&flags[..], &["--stop-timeout", "50ms", "--", "sh", "-c", &script, ":::", "a"]].concat();
            let start = Instant::now();
            let output = map(&words).current_dir(dir.path()).output().unwrap();
            assert_eq!(code(&output), if flags[0] == "-t" { 123 } else { 124 }, "{}", text(&output.stderr));
            assert_eq!(text(&output.stdout), "said\n");
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
            assert!(deaf(&dir).is_none_or(is_gone));
        }
    });
}

#[test]
fn what_a_task_leaves_behind_does_not_hold_up_its_end() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("{DEAF}; while ! [ -s deaf ]; do sleep 0.01; done; echo said; exit 3; #");
        let words = ["--json", "--", "sh", "-c", &script, ":::", "a"];
        let output = map(&words).current_dir(dir.path()).output().unwrap();
        let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&record["exit"], &record["out"]), (&3.into(), &"said\n".into()), "{record}");
        assert!(record["leaked"].as_u64() >= Some(1), "{record}");
        assert!(is_gone(deaf(&dir).unwrap()));
    });
}
