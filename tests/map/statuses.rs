//! Every cause of death, in the words that never change, through JSON, both job logs and the list of failed tasks.

use crate::support::{cells, robust};
use crate::{MINUTE, code, fed, map, text};
use serde_json::Value;
use std::fs;

/// The records of one run, with its exit code.
fn records(words: &[&str], input: &str) -> (i32, Vec<Value>) {
    let output = fed(map(&[&["--json"], words].concat()), input);
    let records = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (code(&output), records)
}

#[test]
fn every_cause_has_its_word() {
    robust(2 * MINUTE, || {
        let sh = |script: &'static str| ["-j1", "--", "sh", "-c", script];
        let table: [(Vec<&str>, &str, Value, Value); 13] = [
            (sh("exit 0; #").to_vec(), "ok", 0.into(), Value::Null),
            (sh("exit 3; #").to_vec(), "exit", 3.into(), Value::Null),
            (sh("kill -9 $$; #").to_vec(), "signal", Value::Null, 9.into()),
            (sh("kill -SEGV $$; #").to_vec(), "signal", Value::Null, 11.into()),
            ([&["-t", "100ms"][..], &sh("exec sleep 1000; #")].concat(), "timeout", Value::Null, Value::Null),
            (
                [&["-l", "cpu-time=1s"][..], &sh("while :; do :; done; #")].concat(),
                "cpu-time",
                Value::Null,
                Value::Null,
            ),
            (
                [&["-l", "fsize=1K"][..], &sh("exec dd if=/dev/zero of=$0.big bs=2048 count=1; #")].concat(),
                "file-size",
                Value::Null,
                Value::Null,
            ),
            ([&["-l", "output=1K"][..], &sh("yes; #")].concat(), "output-limit", Value::Null, Value::Null),
            (
                [
                    &["-t", "100ms", "--stop-timeout", "100ms"][..],
                    &sh("trap '' TERM; sleep 1000; sleep 1000; #"),
                ]
                .concat(),
                "timeout",
                Value::Null,
                Value::Null,
            ),
            (vec!["--mode", "json", "--", "cat"], "lost", Value::Null, Value::Null),
            (vec!["--mode", "lines", "--", "sh", "-c", "exit 5"], "exit", 5.into(), Value::Null),
            (vec!["--", "./{}"], "spawn", Value::Null, Value::Null),
            (
                [&["--retries", "5", "--retry-delay", "1ms"][..], &sh("kill -9 $$; #")].concat(),
                "poison",
                Value::Null,
                Value::Null,
            ),
        ];
        cells(table, |(words, status, exit, signal)| {
            let dir = tempfile::tempdir().unwrap();
            let (log, ndjson) = (dir.path().join("log"), dir.path().join("log.ndjson"));
            for log in [&log, &ndjson] {
                let words = [&["--joblog", log.to_str().unwrap()][..], words].concat();
                let mut tool = map(&[&["--json"], &words[..]].concat());
                tool.current_dir(dir.path());
                let output = fed(tool, "no-such-task\n");
                let said = text(&output.stdout);
                let record: Value = serde_json::from_str(said.lines().next().unwrap_or_default())
                    .unwrap_or_else(|_| panic!("{said} {}", text(&output.stderr)));
                assert_eq!(
                    (&record["status"], &record["exit"], &record["signal"]),
                    (&Value::from(*status), exit, signal),
                    "{record}"
                );
                assert_eq!(code(&output), if *status == "ok" { 0 } else { 123 });
            }
            let table = fs::read_to_string(&log).unwrap();
            let columns: Vec<&str> = table.lines().nth(1).unwrap().split('\t').collect();
            let well = columns[6] == "0" && columns[7] == "0";
            assert_eq!(well, *status == "ok", "{table}");
            let line: Value = serde_json::from_str(fs::read_to_string(&ndjson).unwrap().trim()).unwrap();
            assert_eq!(line["status"], *status, "{line}");
        });
    });
}

#[test]
fn what_was_stopped_with_the_run_is_not_its_own_failure() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let words = ["--deadline", "300ms", "-j2", "--joblog", log.to_str().unwrap(), "--", "sleep"];
        let (code, records) = records(&words, "0\n1000\n1000\n");
        let statuses: Vec<&str> = records.iter().map(|record| record["status"].as_str().unwrap()).collect();
        assert_eq!((code, statuses[0]), (124, "ok"));
        assert!(statuses[1..].iter().all(|status| ["stopped", "killed"].contains(status)), "{statuses:?}");
        // The log knows nothing of them: they are to be done when it is resumed.
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 2);
    });
}

#[test]
fn a_json_worker_may_say_that_trying_again_is_vain() {
    robust(MINUTE, || {
        let script = r#"while IFS= read -r line; do
            id=${line#*:}; id=${id%%,*}; attempt=${line##*:}; attempt=${attempt%\}}
            case $line in
                *vain*) echo "{\"id\":$id,\"error\":\"no\",\"retry\":false}";;
                *hope*) [ $attempt = 3 ] && echo "{\"id\":$id,\"ok\":$attempt}" \
                    || echo "{\"id\":$id,\"error\":\"later\",\"retry\":true}";;
                *) echo "{\"id\":$id,\"error\":\"perhaps\"}";;
            esac
        done"#;
        let words = |on: &'static str| {
            let retry = ["--retries", "4", "--retry-delay", "1ms", "--retry-on", on];
            [&["-j1", "--mode", "json"], &retry[..], &["--", "sh", "-c", script]].concat()
        };
        let attempts = |on| {
            let (_, records) = records(&words(on), "vain\nhope\nelse\n");
            records.iter().map(|record| record["attempts"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        // It knows better than the list; where it says nothing, the list counts.
        assert_eq!(attempts("fail"), [1, 3, 5]);
        assert_eq!(attempts("crash"), [1, 3, 1]);
    });
}
