//! The log of jobs: what is in it is not done again, kill -9 or not.

use crate::support::{repeats, robust};
use crate::{MINUTE, code, end, fed, map, numbers, text};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often each task went well, by the log.
fn well(path: &Path) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for line in fs::read_to_string(path).unwrap().lines().skip(1) {
        let columns: Vec<_> = line.split('\t').collect();
        assert_eq!(columns.len(), 10, "{line}");
        if columns[6] == "0" && columns[7] == "0" {
            *counts.entry(columns[9].to_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn killed_and_resumed_each_task_goes_well_exactly_once_by_the_log() {
    robust(5 * MINUTE, || {
        let count = if repeats() > 1 { 100_000 } else { 3000 };
        let dir = tempfile::tempdir().unwrap();
        let (log, input) = (dir.path().join("j.tsv"), dir.path().join("in"));
        fs::write(&input, numbers(count)).unwrap();
        let words = ["-j2", "--joblog", log.to_str().unwrap(), "-a", input.to_str().unwrap()];
        let run = |more: &[&str]| map(&[&words[..], more, &["--", "/bin/true"]].concat()).spawn().unwrap();
        for more in [&[][..], &["--resume"], &["--resume"]] {
            let mut tool = run(more);
            thread::sleep(Duration::from_millis(400));
            tool.kill().unwrap();
            tool.wait().unwrap();
        }
        assert!(well(&log).len() < count as usize, "it was killed in the middle");
        assert_eq!(code(&end(run(&["--resume"]))), 0);
        let counts = well(&log);
        assert_eq!(counts.len(), count as usize);
        assert!(counts.values().all(|times| *times == 1));
    });
}

#[test]
fn tasks_are_known_by_what_they_are_and_equal_ones_are_counted() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        for name in ["j.tsv", "j.ndjson"] {
            let log = dir.path().join(name);
            let log = log.to_str().unwrap();
            let run = |more: &[&str], input: &str| {
                let script = "echo \"$0\"; [ \"$0\" != bad ] || [ -e fixed ]; #";
                let mut tool = map(&[&["-j1", "--joblog", log], more, &["--", "sh", "-c", script]].concat());
                tool.current_dir(dir.path());
                let output = fed(tool, input);
                (code(&output), text(&output.stdout))
            };
            assert_eq!(run(&[], "a\nbad\na\n"), (123, "a\nbad\na\n".into()));
            // In another order, with one more of each.
            assert_eq!(run(&["--resume"], "x\na\na\na\nbad\n"), (0, "x\na\n".into()));
            assert_eq!(run(&["--resume-failed"], "bad\na\na\na\nx\n"), (123, "bad\n".into()));
            fs::write(dir.path().join("fixed"), "").unwrap();
            assert_eq!(run(&["--retry-failed"], "ignored\n").0, 0);
            assert_eq!(run(&["--retry-failed"], ""), (0, String::new()));
            fs::remove_file(dir.path().join("fixed")).unwrap();
        }
    });
}

#[test]
fn what_failed_can_be_fed_again_and_json_tells_all() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let failed = dir.path().join("failed");
        let words =
            ["--failed", failed.to_str().unwrap(), "--json", "--", "sh", "-c", "printf \"$0\\377\"; exit $0"];
        let output = fed(map(&words), "0\n3\n");
        assert_eq!(fs::read_to_string(&failed).unwrap(), "3\n");
        let records: Vec<serde_json::Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&records[0]["status"], &records[0]["exit"]), (&"ok".into(), &0.into()));
        assert_eq!((&records[1]["status"], &records[1]["exit"]), (&"exit".into(), &3.into()));
        assert_eq!((&records[1]["task"], &records[1]["out_b64"]), (&"3".into(), &"M/8=".into()));
        assert!(records.iter().all(|record| record["v"] == 1 && record["pid"].as_u64() > Some(1)));
    });
}

#[test]
fn a_full_disk_below_the_log_ends_it() {
    robust(MINUTE, || {
        let output = map(&["--joblog", "/dev/full", "--", "true", ":::", "a"]).output().unwrap();
        assert_eq!(code(&output), 125);
        assert!(text(&output.stderr).contains("job log"), "{}", text(&output.stderr));
    });
}
