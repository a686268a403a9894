//! Byte by byte: any bytes, any order of ends, no final newline, much output.

use crate::support::{repeats, robust};
use crate::{MINUTE, code, fed, map, numbers, text};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[test]
fn any_bytes_come_back_in_the_order_of_their_tasks() {
    robust(MINUTE, || {
        let mut runner = TestRunner::new(Config { cases: 8 * repeats(), ..Config::default() });
        let task = proptest::collection::vec(1..=255_u8, 0..40);
        let tasks = proptest::collection::vec(task, 1..12);
        let check = |tasks: Vec<Vec<u8>>| {
            let mut input = tasks.join(&0);
            // The last may end with its NUL or without; an empty one must.
            input.push(0);
            for unordered in [false, true] {
                let mut words = vec!["-0", "-j3"];
                words.extend(unordered.then_some("--unordered"));
                words.extend(["--", "printf", "%s|"]);
                let output = fed(map(&words), input.clone());
                prop_assert_eq!(code(&output), 0, "{}", text(&output.stderr));
                let mut wanted = tasks.clone();
                let mut said: Vec<Vec<u8>> =
                    output.stdout.split(|b| *b == b'|').map(<[u8]>::to_vec).collect();
                if tasks.iter().any(|task| task.contains(&b'|')) {
                    continue;
                }
                said.pop();
                if unordered {
                    wanted.sort();
                    said.sort();
                }
                prop_assert_eq!(said, wanted);
            }
            Ok(())
        };
        runner.run(&tasks, check).unwrap();
    });
}

#[test]
fn the_order_holds_whatever_ends_first() {
    robust(MINUTE, || {
        let script = "sleep 0.0$(( ($0 * 7919) % 97 )); echo $0; echo e$0 >&2";
        let output = fed(map(&["-j8", "--window", "9", "--", "sh", "-c", script]), numbers(100));
        assert_eq!(text(&output.stdout), numbers(100));
        assert_eq!(text(&output.stderr), numbers(100).lines().map(|n| format!("e{n}\n")).collect::<String>());
    });
}

#[test]
fn outputs_are_grouped_tagged_or_line_by_line() {
    robust(MINUTE, || {
        let script = "printf a$0; sleep 0.2; printf b; ";
        let output = map(&["-j2", "--", "sh", "-c", script, ":::", "1", "2"]).output().unwrap();
        assert_eq!(text(&output.stdout), "a1ba2b");
        let output = map(&["--tag", "--", "printf", "x\\ny", ":::", "q"]).output().unwrap();
        assert_eq!(text(&output.stdout), "q\tx\nq\ty");
        let output = map(&["--tag", "--", "echo", "{}", "{#}", ":::", "q", "r"]).output().unwrap();
        assert_eq!(text(&output.stdout), "q\tq 1\nr\tr 2\n");
        let output = map(&[
            "--tag={#}> ",
            "--output",
            "lines",
            "-j1",
            "--",
            "sh",
            "-c",
            "echo $0; printf end",
            ":::",
            "q",
        ]);
        let mut output = output;
        assert_eq!(text(&output.output().unwrap().stdout), "1> q\n1> end\n");
        let output = map(&["--output", "none", "--", "echo", ":::", "a"]).output().unwrap();
        assert_eq!((code(&output), output.stdout.len()), (0, 0));
        let output = map(&["--output", "raw", "-j1", "--", "echo", ":::", "a", "b"]).output().unwrap();
        assert_eq!(text(&output.stdout), "a\nb\n");
    });
}

#[test]
fn a_program_cannot_spoil_the_pipe_of_the_next_one() {
    robust(MINUTE, || {
        // It leaves a daemon behind that goes on to print, which must not appear with the next task.
        let script = "echo $0; (setsid sh -c 'sleep 0.05; while :; do echo x; done' &)";
        let output = fed(map(&["-j1", "--", "sh", "-c", script]), numbers(10));
        let lines: Vec<String> =
            text(&output.stdout).lines().filter(|line| *line != "x").map(Into::into).collect();
        assert_eq!(lines, numbers(10).lines().collect::<Vec<_>>());
        assert_eq!(code(&output), 0);
    });
}

#[test]
fn much_output_waits_on_disk_and_a_single_line_may_be_long() {
    robust(2 * MINUTE, || {
        // 64 MiB; a gigabyte with a larger PROCESSION_REPEAT.
        let mib = if repeats() >= 100 { 1024 } else { 64 };
        let script = "[ $0 = 1 ] && sleep 0.5; head -c $(($1 << 20)) /dev/zero | tr '\\0' \"$0\"";
        let output = map(&["-j2", "--", "sh", "-c", script, "{}", &(mib / 4).to_string(), ":::", "1", "2"])
            .output()
            .unwrap();
        assert_eq!(output.stdout.len(), (mib / 2) << 20);
        assert!(output.stdout[..(mib / 4) << 20].iter().all(|b| *b == b'1'));
        let mut line = vec![b'x'; mib << 20];
        let output = fed(map(&["--mode", "stdin", "--", "cat"]), line.clone());
        line.push(b'\n');
        assert!(output.stdout == line, "{}", output.stdout.len());
        let output = fed(map(&["--mode", "lines", "--", "cat"]), line.clone());
        assert!(output.stdout == line, "{} {}", output.stdout.len(), text(&output.stderr));
    });
}
