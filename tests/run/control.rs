//! Talking to a running one.

use crate::MINUTE;
use crate::support::{is_gone, poll_or, robust};
use crate::tool::{Place, code, said};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

const OBEDIENT: &str = "exec sleep 1000";

#[test]
fn status_in_every_form_and_its_codes() {
    robust(MINUTE, || {
        let place = Place::new();
        let nobody = said(&place.output(&["status", "web"]));
        assert!(nobody.code == 4 && nobody.err.contains("web does not run"), "{nobody:?}");
        assert_eq!(said(&place.output(&["status"])).code, 4);
        let tool = place.start("-n 2", OBEDIENT);
        let rows = place.until(&["running"; 2]);
        assert_eq!(
            rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect::<Vec<_>>(),
            [("web", "0"), ("web", "1")]
        );
        let socket = place.path().join("procession/web.sock");
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
        for at in [vec!["status"], vec!["status", "web:*"], vec!["status", "-s", socket.to_str().unwrap()]] {
            let found = said(&place.output(&at));
            assert_eq!((found.code, found.out.lines().count()), (0, 3), "{at:?} {found:?}");
        }
        let json = said(&place.output(&["status", "--json", "web:1"])).out;
        let row: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (row["id"].as_u64(), row["state"].as_str(), row["restarts"].as_u64()),
            (Some(1), Some("running"), Some(0))
        );
        assert!(row["rss"].as_u64().unwrap() > 10_000);
        let none = said(&place.output(&["status", "web:7"]));
        assert!(none.code == 1 && none.err.contains("no copy 7"), "{none:?}");
        let again = said(&place.run("", OBEDIENT));
        assert!(again.code == 125 && again.err.contains("web runs already"), "{again:?}");
        assert_eq!(tool.stop().code, 0);
        assert!(!socket.exists());
    });
}

#[test]
fn stop_start_restart_scale_and_signal() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start("-n 2", OBEDIENT);
        place.until(&["running"; 2]);
        let does = |args: &[&str]| assert_eq!(said(&place.output(args)).code, 0, "{args:?}");
        does(&["stop", "web:0"]);
        place.until(&["stopped", "running"]);
        assert_eq!(said(&place.output(&["status"])).code, 3);
        does(&["start", "web:0"]);
        place.until(&["running"; 2]);
        does(&["scale", "web", "4"]);
        place.until(&["running"; 4]);
        does(&["scale", "1"]);
        place.until(&["running"]);
        let before = place.pids();
        does(&["restart", "web"]);
        poll_or("it was replaced", MINUTE / 4, || {
            let (now, states) = (place.pids(), place.status());
            if now != before && states[0][3] == "running" { Ok(()) } else { Err(format!("{states:?}")) }
        });
        assert!(before.into_iter().all(is_gone));
        does(&["signal", "KILL", "web:0"]);
        poll_or("it was killed, and started again", MINUTE / 4, || {
            let row = place.status().remove(0);
            if row[8] == "killed by SIGKILL" && row[3] == "running" {
                Ok(())
            } else {
                Err(format!("{row:?}"))
            }
        });
        assert_eq!(said(&place.output(&["signal", "NONSENSE", "web"])).code, 125);
        assert_eq!(said(&place.output(&["scale", "web", "many"])).code, 125);
        assert_eq!(said(&place.output(&["scale", "web", "20000"])).code, 1);
        assert_eq!(tool.stop().code, 0);
    });
}

#[test]
fn restart_is_one_after_the_other() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start("-n 3", OBEDIENT);
        place.until(&["running"; 3]);
        let mut events = place.tool(&["events", "web"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
        place.output(&["wait", "--ready", "web"]);
        // The watcher must be listening: it hears of a signal's consequences.
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(said(&place.output(&["restart", "web"])).code, 0);
        let mut heard = Vec::new();
        while heard.len() < 9 {
            let event: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            heard.push((event["ev"].as_str().unwrap().to_owned(), event["id"].as_u64().unwrap()));
        }
        let expected: Vec<_> =
            (0..3).flat_map(|id| ["stop", "exit", "spawn"].map(|word| (word.to_owned(), id))).collect();
        assert_eq!(heard, expected);
        assert_eq!(tool.stop().code, 0);
        drop(lines);
        assert!([0, 141].contains(&code(events.wait().unwrap())));
    });
}

#[test]
fn stop_says_who_holds_it_up() {
    robust(MINUTE, || {
        let place = Place::new();
        let script = "test $PROCESSION_ID = 1 && trap '' TERM; echo set; while :; do sleep 1000; done";
        let tool = place.start("-n 2 --stop-timeout 2s", script);
        place.until(&["running"; 2]);
        place.until_said(2);
        let stop = said(&place.output(&["stop", "web"]));
        assert_eq!(stop.code, 0, "{stop:?}");
        assert!(stop.err.contains("waiting for web:1 (pid ") && stop.err.contains("SIGKILL in "), "{stop:?}");
        assert!(!stop.err.contains("web:0"), "{stop:?}");
        assert_eq!(tool.end().code, 123);
    });
}

#[test]
fn who_is_too_large_or_too_old_is_replaced() {
    robust(MINUTE, || {
        let place = Place::new();
        for flags in ["--max-age 100ms", "--max-rss 100K"] {
            let tool = place.start(flags, OBEDIENT);
            poll_or("it was replaced twice", MINUTE / 2, || {
                let rows = place.status();
                let restarts = rows.first().map_or(0, |row| row[5].parse::<u32>().unwrap());
                if restarts >= 2 { Ok(()) } else { Err(format!("{rows:?}")) }
            });
            assert_eq!(tool.stop().code, 0);
        }
    });
}
