//! Options that say how output looks, where events go, and whom a stop reaches.

use crate::MINUTE;
use crate::support::{cells, is_gone, poll, robust};
use crate::tool::{Place, said};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

#[test]
fn too_much_output_ends_a_copy_and_is_told() {
    robust(MINUTE, || {
        cells(
            [
                // Flags, what it does, exit code, bytes.
                ("-l output=10K --restart no", "yes", 137, 10240),
                ("-l output=10K --restart no", "yes | head -c 20000; exit 0", 137, 10240),
                ("-l output=10K --restart no", "yes | head -c 10240; exit 3", 3, 10240),
                ("-l output=1K --restart no --output none", "yes", 137, 0),
                ("-l output=1K --restart no", "yes >&2 & sleep 1000", 137, 0),
                ("-l output=1K --restart-delay 1ms --restart-limit 2", "yes", 122, 3072),
                ("-l output=1K --restart on-crash --restart-delay 1ms --restart-limit 1", "yes", 122, 2048),
            ],
            |&(flags, script, code, bytes)| {
                let said = said(&Place::new().run(flags, script));
                assert_eq!((said.code, said.out.len()), (code, bytes), "{}", said.err);
                assert_eq!(said.err.contains("printed more than it may"), code > 3, "{}", said.err);
            },
        );
        let refused = said(&Place::new().run("-l output=1K --output raw", "exit 0"));
        assert!(refused.code == 125 && refused.err.contains("passes through us"), "{refused:?}");
        let place = Place::new();
        let tool = place.start("-l output=1K --restart-limit none --restart-delay 1h", "echo up; yes");
        place.until(&["backoff"]);
        assert_eq!(place.status()[0][8], "output limit");
        tool.stop();
    });
}

#[test]
fn lines_as_json_and_with_the_time() {
    robust(MINUTE, || {
        let place = Place::new();
        let script = "echo out; printf '\\377' >&2";
        let printed = said(&place.run("--restart no --json", script));
        let mut rows: Vec<serde_json::Value> =
            printed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        rows.sort_by_key(|row| row["stream"].as_str().unwrap().to_owned());
        assert_eq!(
            (&rows[0]["hex"], &rows[1]["text"], &rows[1]["name"]),
            (&"ff".into(), &"out".into(), &"web".into())
        );
        assert!(printed.err.is_empty());
        let stamped = said(&place.run("--restart no --timestamps --tag={id}:", "echo a; echo b")).out;
        for (line, text) in stamped.lines().zip(["0:a", "0:b"]) {
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(time.len() == 24 && time.ends_with('Z') && rest == text, "{stamped}");
        }
        let colored = said(&place.run("--restart no --color always --tag={id}:", "echo a")).out;
        assert_eq!(colored, "\u{1b}[36m0:\u{1b}[0ma\n");
        assert_eq!(said(&place.run("--restart no --tag={id}:", "echo a")).out, "0:a\n");
        let refused = said(&place.run("--json --output raw", "exit 0"));
        assert!(refused.code == 125 && refused.err.contains("--output"), "{refused:?}");
    });
}

#[test]
fn events_and_the_pid_are_in_files() {
    robust(MINUTE, || {
        let place = Place::new();
        let (events, pid) = (place.path().join("events"), place.path().join("pid"));
        let flags = format!("--events {} --pidfile {}", events.display(), pid.display());
        let tool = place.start(&flags, "exec sleep 1000");
        place.until(&["running"]);
        assert_eq!(std::fs::read_to_string(&pid).unwrap().trim(), tool.child.id().to_string());
        assert_eq!(tool.stop().code, 0);
        assert!(!pid.exists());
        let text = std::fs::read_to_string(&events).unwrap();
        let words: Vec<String> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["ev"].as_str().unwrap().into()
            })
            .collect();
        assert_eq!(words, ["spawn", "stop", "exit"]);
        let mut shell = std::process::Command::new("sh");
        let script = "exec 3>$1; exec $0 run --restart no --events fd:3 -- true";
        let by_number = place.path().join("by-number");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_procession"), by_number.to_str().unwrap()]);
        assert!(shell.env("XDG_RUNTIME_DIR", place.path()).status().unwrap().success());
        assert_eq!(std::fs::read_to_string(by_number).unwrap().lines().count(), 2);
        let refused = said(&place.run("--events /nowhere/x", "exit 0"));
        assert!(refused.code == 125 && refused.err.contains("/nowhere/x"), "{refused:?}");
    });
}

#[test]
fn a_mixed_stop_asks_the_copy_and_kills_the_rest() {
    robust(MINUTE, || {
        let place = Place::new();
        let script = "(trap 'echo asked >> asked' TERM; echo up > up; while :; do sleep 0.05; done) & trap 'exit 0' TERM; wait; wait";
        let flags = format!("--kill-mode mixed --stop-timeout 1h -C {}", place.path().display());
        let tool = place.start(&flags, script);
        place.until(&["running"]);
        poll("both listen", MINUTE / 4, || place.path().join("up").exists());
        let pids = place.pids();
        let start = Instant::now();
        tool.signal(Signal::SIGTERM);
        let said = tool.end();
        assert_eq!(said.code, 0, "{said:?}");
        assert!(start.elapsed() < Duration::from_secs(5) && pids.into_iter().all(is_gone));
        assert!(!place.path().join("asked").exists(), "the signal was for the copy alone");
    });
}

#[test]
fn columns_of_status_and_a_reload_that_reads_variables_again() {
    robust(MINUTE, || {
        let place = Place::new();
        let file = place.path().join("env");
        std::fs::write(&file, "A=one\n").unwrap();
        let tool = place.start(&format!("--env-file {}", file.display()), "echo $A; exec sleep 1000");
        place.until(&["running"]);
        place.until_said(1);
        let status = |args: &[&str]| said(&place.output(&[&["status", "web"], args].concat())).out;
        assert_eq!(status(&["-o", "state,name"]), "state\tname\nrunning\tweb\n");
        assert_eq!(status(&["--plain", "-o", "ID"]), "id\n0\n");
        let row: serde_json::Value = serde_json::from_str(&status(&["--json", "-o", "name,id"])).unwrap();
        assert_eq!(row, serde_json::json!({ "name": "web", "id": 0 }));
        std::fs::write(&file, "A=two\n").unwrap();
        assert_eq!(said(&place.output(&["reload", "web"])).code, 0);
        poll("it was started anew", MINUTE / 4, || said(&place.output(&["logs", "web"])).out == "one\ntwo\n");
        // What cannot be read does not take away what was.
        std::fs::remove_file(&file).unwrap();
        assert_eq!(said(&place.output(&["reload", "web"])).code, 0);
        poll("it was started anew", MINUTE / 4, || {
            said(&place.output(&["logs", "web"])).out == "one\ntwo\ntwo\n"
        });
        let said = tool.stop();
        assert!(said.code == 0 && said.err.contains("cannot read --env-file"), "{said:?}");
    });
}

#[test]
fn the_third_interrupt_waits_for_nothing() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start("--stop-timeout 1h", "trap '' TERM; echo deaf; while :; do sleep 1000; done");
        place.until(&["running"]);
        place.until_said(1);
        for _ in 0..3 {
            tool.signal(Signal::SIGINT);
            std::thread::sleep(Duration::from_millis(30));
        }
        assert_eq!(tool.end().code, 123);
    });
}
