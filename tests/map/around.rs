//! What programs find around them, how tasks become arguments, and what is kept of them.

use crate::support::{cells, robust};
use crate::{MINUTE, code, fed, map, numbers, text};
use std::fs;

#[test]
fn directory_variables_processors_and_politeness() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        fs::write(&file, "# a comment\nA=one=two\n\nB=file\n").unwrap();
        let (dir, file) = (dir.path().canonicalize().unwrap(), file.to_str().unwrap().to_owned());
        let dir = dir.to_str().unwrap();
        let table: [(&[&str], &str, &str); 7] = [
            (&["-C", dir], "pwd; #", dir),
            (&["--env", "A=b=c", "--env", "B="], "echo \"$A|$B|\"; #", "b=c||"),
            (&["--env-file", &file, "--env", "B=line"], "echo $A $B; #", "one=two line"),
            (&["--clean-env", "--env", "PATH=/bin:/usr/bin"], "echo \"$HOME|$PROCESSION_SEQ|\"; #", "|1|"),
            (&["--nice", "3"], "nice; #", "3"),
            (&["--cpus", "0"], "nproc; #", "1"),
            (&["--cpus", "0", "--env", "X=1"], "echo $PROCESSION_SLOT; #", "1"),
        ];
        cells(table, |(words, script, said)| {
            let output = map(&[*words, &["--", "sh", "-c", script, ":::", "a"]].concat()).output().unwrap();
            assert_eq!((code(&output), text(&output.stdout).trim()), (0, *said), "{}", text(&output.stderr));
        });
        for (words, remedy) in [
            (&["--env", "A"][..], "KEY=VALUE"),
            (&["--env-file", "/nowhere"], "/nowhere"),
            (&["--cpus", "4000"], "nproc"),
            (&["--cpus", "x"], "0-3"),
            (&["-C", "/nowhere"], "directory"),
        ] {
            let output = map(&[words, &["--", "true", ":::", "a"]].concat()).output().unwrap();
            assert_eq!(code(&output), 125, "{words:?}");
            assert!(text(&output.stderr).contains(remedy), "{words:?} {}", text(&output.stderr));
        }
    });
}

#[test]
fn several_tasks_to_a_process() {
    robust(MINUTE, || {
        let said = |words: &[&str], input: &str| {
            let output = fed(map(words), input);
            assert_eq!(code(&output), 0, "{}", text(&output.stderr));
            text(&output.stdout)
        };
        assert_eq!(said(&["--batch", "2", "--", "echo"], "a b\nc\nd\n"), "a b c\nd\n");
        assert_eq!(said(&["--batch", "2", "--", "printf", "<%s>", "{}", "end"], "a b\nc\n"), "<a b><c><end>");
        assert_eq!(said(&["--batch", "3", "--", "echo", "x{}y"], "a\nb\nc\n"), "xa b cy\n");
        assert_eq!(said(&["--batch", "100", "--", "echo"], &numbers(250)).lines().count(), 3);
        let dry = said(&["--batch", "2", "--dry-run", "--", "mv", "-t", "d"], "a b\nc\nd\n");
        assert_eq!(dry, "mv -t d 'a b' c\nmv -t d d\n");
        // They fail together, and each can be fed again; they are known together by the log.
        let dir = tempfile::tempdir().unwrap();
        let (log, failed) = (dir.path().join("log"), dir.path().join("failed"));
        let (log, failed) = (log.to_str().unwrap(), failed.to_str().unwrap());
        let words = ["--batch", "2", "--joblog", log, "--failed", failed];
        let output = fed(map(&[&words[..], &["--", "sh", "-c", "[ $0 != c ]"]].concat()), "a\nb\nc\nd\n");
        assert_eq!(code(&output), 123);
        assert_eq!(fs::read_to_string(failed).unwrap(), "c\nd\n");
        let again = [&words[..4], &["--retry-failed", "--", "echo"]].concat();
        assert_eq!(text(&map(&again).output().unwrap().stdout), "c d\n");
    });
}

#[test]
fn a_shells_script_has_the_task_as_its_argument() {
    robust(MINUTE, || {
        let output = fed(map(&["--sh", "echo {} {#} | tr a-z A-Z"]), "a  b\n$(touch pwned)\n'\";\n");
        assert_eq!(text(&output.stdout), "A  B 1\n$(TOUCH PWNED) 2\n'\"; 3\n", "{}", text(&output.stderr));
        assert!(!std::path::Path::new("pwned").exists());
        let output = map(&["-I", "@", "--sh", "echo @", ":::", "a b"]).output().unwrap();
        assert_eq!(text(&output.stdout), "a b\n");
        let output = fed(map(&["--mode", "stdin", "--sh", "cat; echo {#}"]), "a\n");
        assert_eq!(text(&output.stdout), "a\n1\n");
        let output = map(&["--sh", "true", "--", "echo", ":::", "a"]).output().unwrap();
        assert!(code(&output) == 125 && text(&output.stderr).contains("leave PROG out"));
    });
}

#[test]
fn results_are_kept_in_files() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let results = dir.path().join("r");
        let script = "printf \"out $0\"; echo err >&2; exit $0";
        let output = fed(map(&["--results", results.to_str().unwrap(), "--", "sh", "-c", script]), "0\n3\n");
        assert_eq!((code(&output), text(&output.stdout).as_str()), (123, "out 0out 3"));
        let kept = |name: &str| fs::read_to_string(results.join(name)).unwrap();
        assert_eq!(
            [kept("1/stdout"), kept("2/stdout"), kept("2/stderr"), kept("2/task")],
            ["out 0", "out 3", "err\n", "3"]
        );
        let output = map(&["--results", "/dev/null/x", "--", "true", ":::", "a"]).output().unwrap();
        assert!(code(&output) == 125 && text(&output.stderr).contains("/dev/null/x"));
    });
}

#[test]
fn a_hundred_thousand_lines_killed_and_resumed_are_each_done_once_by_the_log() {
    robust(5 * MINUTE, || {
        let count = 100_000;
        let dir = tempfile::tempdir().unwrap();
        let (log, input) = (dir.path().join("j.tsv"), dir.path().join("in"));
        fs::write(&input, numbers(count)).unwrap();
        let words =
            ["-j2", "--mode", "lines", "--joblog", log.to_str().unwrap(), "-a", input.to_str().unwrap()];
        let run = |more: &[&str]| {
            let mut tool = map(&[&words[..], more, &["--", "cat"]].concat());
            tool.stdout(std::process::Stdio::null()).spawn().unwrap()
        };
        let size = || fs::metadata(&log).map_or(0, |file| file.len());
        for more in [&[][..], &["--resume"], &["--resume"]] {
            let before = size();
            let mut tool = run(more);
            // Some thousands of lines.
            crate::support::poll("more is done", MINUTE, || size() > before + 200_000);
            tool.kill().unwrap();
            tool.wait().unwrap();
        }
        let done = fs::read_to_string(&log).unwrap().lines().count();
        assert!(done < count as usize, "it was killed in the middle: {done}");
        assert_eq!(code(&crate::end(run(&["--resume"]))), 0);
        let mut counts = std::collections::BTreeMap::<String, u32>::new();
        for line in fs::read_to_string(&log).unwrap().lines().skip(1) {
            let columns: Vec<&str> = line.split('\t').collect();
            assert_eq!((columns.len(), columns[6], columns[7]), (10, "0", "0"), "{line}");
            *counts.entry(columns[9].to_owned()).or_default() += 1;
        }
        assert!(counts.len() == count as usize && counts.values().all(|times| *times == 1));
    });
}
