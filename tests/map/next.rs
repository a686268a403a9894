//! Short tasks: the next one of a slot begins by itself when the one before it is over, and is nobody's prisoner.

use crate::support::{cells, poll, robust};
use crate::{MINUTE, code, end, fed, map, numbers, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

/// Makes a slot swift: tasks that are over at once.
const SHORT: [&str; 8] = ["true"; 8];

#[test]
fn one_that_follows_a_long_task_is_taken_back_by_an_idle_slot() {
    robust(2 * MINUTE, || {
        for _ in 0..10 {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("done");
            // It ends when all that come after it have: whoever is its prisoner hangs it all.
            let long = format!("until [ $(wc -l <{0}) = 9 ]; do sleep 0.01; done", file.display());
            let later = format!("echo >>{}", file.display());
            let tasks: Vec<&str> =
                SHORT.into_iter().chain([long.as_str()]).chain([later.as_str(); 9]).collect();
            for order in ["--unordered", "-k"] {
                fs::write(&file, "").unwrap();
                let words = [&["-j2", order, "--", "sh", "-c", "{}", ":::"], &tasks[..]].concat();
                let output = end(map(&words).spawn().unwrap());
                assert_eq!(code(&output), 0, "{}", text(&output.stderr));
            }
        }
    });
}

#[test]
fn what_two_in_a_row_say_never_mixes() {
    robust(2 * MINUTE, || {
        for _ in 0..3 {
            let said: String = (1..=400).map(|n| format!("{n} out\n{n} more\n")).collect();
            for print in ["group", "lines"] {
                let words = [
                    "-j2",
                    "--output",
                    print,
                    "--",
                    "sh",
                    "-c",
                    "echo $0 out; echo $0 err >&2; echo $0 more",
                ];
                let output = fed(map(&words), numbers(400));
                assert_eq!(code(&output), 0, "{}", text(&output.stderr));
                let mut lines: Vec<_> = text(&output.stdout).lines().map(str::to_owned).collect();
                if print == "lines" {
                    // Line by line they come as they are said, each whole.
                    lines.sort_by_key(|line| line.split(' ').next().unwrap().parse::<u32>().unwrap());
                }
                assert_eq!(lines, said.lines().collect::<Vec<_>>());
            }
        }
    });
}

#[test]
fn failures_among_them_are_told_of_the_right_ones() {
    robust(MINUTE, || {
        let words = ["-j3", "--json", "--", "sh", "-c", "exit $(($0 % 3))"];
        let output = fed(map(&words), numbers(300));
        let reports = text(&output.stdout);
        assert_eq!(reports.lines().count(), 300, "{reports}");
        for report in reports.lines() {
            let report: serde_json::Value = serde_json::from_str(report).unwrap();
            let task: u64 = report["task"].as_str().unwrap().parse().unwrap();
            assert_eq!(report["exit"].as_u64(), Some(task % 3), "{report}");
        }
    });
}

#[test]
fn none_of_them_begins_after_the_end() {
    robust(2 * MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let begun = dir.path().join("begun");
        cells([(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGQUIT, 131)], |(signal, wanted)| {
            for _ in 0..3 {
                let _ = fs::remove_file(&begun);
                let script = format!("echo $0 >>{}", begun.display());
                let (reader, mut writer) = std::io::pipe().unwrap();
                let child = map(&["-j2", "--", "sh", "-c", &script]).stdin(reader).spawn().unwrap();
                let feeder = std::thread::spawn(move || {
                    use std::io::Write;
                    // Until nobody reads any more.
                    (0_u64..).take_while(|n| writeln!(writer, "{n}").is_ok()).count()
                });
                poll("they run", MINUTE / 2, || fs::metadata(&begun).is_ok_and(|file| file.len() > 200));
                kill(Pid::from_raw(child.id().cast_signed()), *signal).unwrap();
                assert_eq!(code(&end(child)), *wanted);
                let at_the_end = fs::read(&begun).unwrap();
                feeder.join().unwrap();
                assert_eq!(fs::read(&begun).unwrap(), at_the_end);
            }
        });
    });
}

#[test]
fn what_is_due_to_one_does_not_hit_the_next() {
    robust(MINUTE, || {
        // It prints too much and ends at once, before it can be killed for it; the next one has begun by then.
        let loud = "head -c 4000 /dev/zero";
        let tasks: Vec<&str> =
            SHORT.into_iter().chain([loud, "sleep 0.3", "true", loud, "sleep 0.3"]).collect();
        let words =
            [&["-j1", "--json", "-l", "output=1k", "--", "sh", "-c", "{}", ":::"], &tasks[..]].concat();
        let output = end(map(&words).spawn().unwrap());
        for report in text(&output.stdout).lines() {
            let report: serde_json::Value = serde_json::from_str(report).unwrap();
            let wanted = if report["task"] == loud { "output-limit" } else { "ok" };
            assert_eq!(report["status"], wanted, "{report}");
        }
        assert_eq!(text(&output.stdout).lines().count(), tasks.len());
    });
}

#[test]
fn a_wide_run_needs_no_more_descriptors_later_than_at_its_start() {
    robust(2 * MINUTE, || {
        let mut shell = std::process::Command::new("sh");
        let tool = env!("CARGO_BIN_EXE_procession");
        shell.args([
            "-c",
            "ulimit -n 200; seq 200 | \"$0\" map --progress none -j 30 -- sh -c 'sleep 0.1'",
            tool,
        ]);
        let output = shell.output().unwrap();
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    });
}
