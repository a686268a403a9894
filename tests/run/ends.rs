//! Restart policies, back-off, limits, and the exit codes they come to.

use crate::MINUTE;
use crate::support::{cells, robust};
use crate::tool::{Place, said};
use std::time::{Duration, Instant};

/// Counts the starts in a file, and does something.
fn counting(place: &Place, then: &str) -> String {
    format!("echo >> {}/starts; {then}", place.path().display())
}

fn starts(place: &Place) -> usize {
    std::fs::read_to_string(place.path().join("starts")).unwrap_or_default().lines().count()
}

#[test]
fn every_policy_and_its_exit_code() {
    robust(MINUTE, || {
        let fast = "--restart-delay 1ms --restart-limit 2";
        cells(
            [
                // Flags, what it does, exit code, starts.
                ("--restart no", "exit 0", 0, 1),
                ("--restart no", "exit 7", 7, 1),
                ("--restart no", "kill -SEGV $$", 139, 1),
                ("--restart no -n 2", "exit 7", 123, 2),
                ("--restart no -n 2", "exit 0", 0, 2),
                (fast, "exit 0", 0, 1),
                (fast, "exit 1", 122, 3),
                (fast, "kill -9 $$", 122, 3),
                ("--restart on-crash", "exit 1", 123, 1),
                ("--restart on-crash --restart-delay 1ms --restart-limit 2", "kill -ABRT $$", 122, 3),
                ("--restart always --restart-delay 1ms --restart-limit 2", "exit 0", 122, 3),
                ("--restart-delay 1ms --restart-limit 0", "exit 1", 122, 1),
                ("--restart-delay 1ms --restart-limit 3/1m", "exit 1", 122, 4),
                ("--success-exit 0,3", "exit 3", 0, 1),
                ("--success-exit 0,TERM", "kill -TERM $$", 0, 1),
                ("--fatal-exit 78", "exit 78", 123, 1),
                ("-l nofile=17 --restart no", "exit $(ulimit -n)", 17, 1),
                ("-l cpu-time=1s --restart no", "while :; do :; done", 152, 1),
                ("-C / --restart no", "test $PWD = / && exit 5", 5, 1),
                ("-C /nowhere", "exit 0", 125, 0),
                ("--env A=b --restart no", "test $A = b && exit 5", 5, 1),
                (
                    "--clean-env --env PATH=/bin:/usr/bin --restart no",
                    "test -z \"$XDG_RUNTIME_DIR\" && exit 5",
                    5,
                    1,
                ),
            ],
            |&(flags, script, code, count)| {
                let place = Place::new();
                let said = said(&place.run(flags, &counting(&place, script)));
                assert_eq!((said.code, starts(&place)), (code, count), "{said:?}");
            },
        );
    });
}

#[test]
fn what_cannot_be_is_refused_and_the_remedy_named() {
    robust(MINUTE, || {
        cells(
            [
                ("--restart-delay 5s --restart-max-delay 1s", "below restart-delay"),
                ("--restart-limit 10/1s", "can never be reached"),
                ("--success-exit 3 --fatal-exit 3", "in both"),
                ("--restart no --restart-limit 3", "--restart no"),
                ("--restart-limit 1/2/3", "no time"),
                ("--stop-signal NONSENSE", "no signal"),
                ("--tag --output raw", "--output lines"),
                ("--ready line:x --output raw", "raw"),
                ("--ready line:(", "line:("),
                ("--start-timeout 3s", "--ready"),
                ("--limit pids=3", "memory, cpu-time"),
                ("--env A", "KEY=VALUE"),
                ("--env-file /nowhere/env", "/nowhere/env"),
                ("--log-size 3M", "--log-dir"),
                ("--log-dir /dev/null/x", "/dev/null/x"),
                ("--nonsense", "--nonsense"),
            ],
            |&(flags, text)| {
                let said = said(&Place::new().run(flags, "exit 0"));
                assert!(said.code == 125 && said.err.contains(text) && said.out.is_empty(), "{said:?}");
            },
        );
    });
}

#[test]
fn what_is_not_there_or_no_program_is_told_once() {
    robust(MINUTE, || {
        let place = Place::new();
        for (program, code) in [("no-such-program", 127), ("/etc/passwd", 126), ("/etc", 126)] {
            let said = said(&place.output(&["run", "-n", "3", "--", program]));
            assert_eq!((said.code, said.err.lines().count()), (code, 1), "{said:?}");
        }
        // It passes on its own.
        let said = said(&place.output(&["run", "--restart", "no", "--", "sh", "-c", "exit 127"]));
        assert_eq!((said.code, said.err.as_str()), (127, ""));
    });
}

#[test]
fn back_off_doubles_and_is_told() {
    robust(MINUTE, || {
        let place = Place::new();
        let start = Instant::now();
        let said =
            said(&place.run("--restart-delay 40ms --restart-max-delay 80ms --restart-limit 4", "exit 3"));
        // 40 + 80 + 80 + 80 ms, less a quarter at most.
        assert!(start.elapsed() >= Duration::from_millis(210), "{:?}", start.elapsed());
        assert_eq!(said.code, 122);
        for restart in 1..=4 {
            assert!(said.err.contains(&format!("exit 3; restart {restart}/4 in ")), "{said:?}");
        }
        assert!(said.err.contains("given up"), "{said:?}");
    });
}

#[test]
fn who_was_stable_is_forgiven() {
    robust(MINUTE, || {
        let place = Place::new();
        // Three times up for longer than what counts as stable, with a limit of one in a row.
        let script =
            counting(&place, &format!("sleep 0.15; test $(wc -l < {}/starts) -ge 4", place.path().display()));
        let said = said(&place.run("--restart-delay 1ms --restart-limit 1 --stable-after 100ms", &script));
        assert_eq!((said.code, starts(&place)), (0, 4), "{said:?}");
    });
}

#[test]
fn until_any_and_on_limit_stop_the_others() {
    robust(MINUTE, || {
        let place = Place::new();
        let first = "test $PROCESSION_ID = 0 && exit 0; exec sleep 1000";
        assert_eq!(said(&place.run("-n 3 --until any", first)).code, 0);
        let first = "test $PROCESSION_ID = 0 && exit 1; exec sleep 1000";
        let said = said(&place.run("-n 3 --restart-delay 1ms --restart-limit 1 --on-limit stop", first));
        assert_eq!(said.code, 122, "{said:?}");
    });
}

#[test]
fn every_copy_knows_who_it_is() {
    robust(MINUTE, || {
        let place = Place::new();
        let script = "echo $PROCESSION_NAME $PROCESSION_ID $PROCESSION_COPIES $PROCESSION_ATTEMPT; exit $PROCESSION_ID";
        let said = said(&place.run("-n 2 --restart-delay 1ms --restart-limit 1", script));
        let mut lines: Vec<_> = said.out.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["web 0 2 1", "web 1 2 1", "web 1 2 2"]);
        let file = place.path().join("env");
        std::fs::write(&file, "# a comment\n\nA=one=two\n").unwrap();
        let said = said_of_env(&place, &file);
        assert_eq!(said, "one=two\n");
    });
}

fn said_of_env(place: &Place, file: &std::path::Path) -> String {
    said(&place.run(&format!("--env-file {}", file.display()), "echo $A")).out
}
