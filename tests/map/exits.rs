//! Every exit code, and every error that names the next step.

use crate::support::{cells, robust};
use crate::{MINUTE, code, fed, map, numbers, text};
use std::process::{Command, Stdio};

#[test]
fn every_ending_has_its_exit_code() {
    robust(MINUTE, || {
        let table: [(&[&str], i32, &str); 14] = [
            (&["--", "true", ":::", "a", "b"], 0, ""),
            (&["--", "true"], 0, ""),
            (&["--", "sh", "-c", "exit $0", ":::", "0", "3"], 123, "1 ok, 1 failed"),
            (&["--", "sh", "-c", "kill -9 $$; #", ":::", "a"], 123, "0 ok, 1 failed"),
            (&["-t", "100ms", "--", "sleep", ":::", "1000"], 123, "1 failed"),
            (&["--deadline", "100ms", "--", "sleep", ":::", "1000"], 124, "1 not done"),
            (&["--", "/etc/passwd", ":::", "a"], 126, "chmod +x"),
            (&["--", "no-such-program", ":::", "a"], 127, "not found"),
            (&["--halt", "now,success=1", "--", "sh", "-c", "sleep $0", ":::", "0", "1000"], 0, "1 not done"),
            (&["-j1", "-e", "--", "sh", "-c", "exit $0", ":::", "1", "0"], 123, "1 failed, 1 not done"),
            (
                &[
                    "-j1",
                    "-e",
                    "--retries",
                    "9",
                    "--retry-delay",
                    "1ms",
                    "--",
                    "sh",
                    "-c",
                    "kill -9 $$; #",
                    ":::",
                    "a",
                ],
                122,
                "(1 poison)",
            ),
            (
                &["--retries", "1", "--retry-on", "fail", "--retry-delay", "1ms", "--", "false", ":::", "a"],
                123,
                "",
            ),
            (&["-l", "memory=100M", "--", "sh", "-c", "ulimit -v; #", ":::", "a"], 0, ""),
            (&["-l", "output=10K", "--", "sh", "-c", "cat /dev/zero; #", ":::", "a"], 123, ""),
        ];
        cells(table, |(words, wanted, said)| {
            let output = map(words).output().unwrap();
            let complaint = text(&output.stderr);
            assert_eq!(code(&output), *wanted, "{complaint}");
            assert!(complaint.contains(said), "{complaint}");
        });
    });
}

#[test]
fn what_contradicts_itself_or_cannot_be_is_refused_and_the_remedy_named() {
    robust(MINUTE, || {
        let table: [(&[&str], &str); 14] = [
            (&["--", "true", ":::", "a", ":::", "b", "--tag"], ""),
            (&["-a", "x", "--", "true", ":::", "a"], "leave one out"),
            (&["--mode", "lines", "-0", "--", "cat"], "--mode json"),
            (&["--mode", "lines", "--output", "raw", "--", "cat"], "leave --output out"),
            (&["--prefetch", "3", "--", "true"], "--mode lines"),
            (&["--output", "raw", "--tag", "--", "true"], "--tag has nothing to tag"),
            (&["-j", "0", "--", "true"], "type for example 4"),
            (&["-l", "memori=1G", "--", "true"], "memory, cpu-time"),
            (&["-l", "output=1K", "--output", "raw", "--", "true"], "--output group"),
            (&["--halt", "now", "--", "true"], "now,fail=1"),
            (&["--resume", "--", "true"], "--joblog"),
            (&["--timeuot", "1s", "--", "true"], "--timeout"),
            (&["-a", "/no/such/file", "--", "true"], "/no/such/file"),
            (&[":::", "a"], "no program before :::"),
        ];
        cells(&table[1..], |(words, remedy)| {
            let output = map(words).output().unwrap();
            let complaint = text(&output.stderr);
            assert_eq!(code(&output), 125, "{complaint}");
            assert!(complaint.contains(remedy), "{complaint}");
            assert!(output.stdout.is_empty());
        });
    });
}

#[test]
fn too_few_descriptors_and_limits_that_cannot_be_set_end_it_loudly() {
    robust(MINUTE, || {
        let tool = env!("CARGO_BIN_EXE_procession");
        let table = [
            (format!("ulimit -n 40; seq 100 | {tool} map -j 50 -- sleep 0.2"), "ulimit -n"),
            (format!("ulimit -c 0; {tool} map -l core=1G -- true ::: a"), "limit"),
        ];
        for (script, remedy) in table {
            // The root of a machine may raise what others cannot.
            if remedy == "limit" && nix::unistd::geteuid().is_root() {
                continue;
            }
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(code(&output), 125, "{}", text(&output.stderr));
            assert!(text(&output.stderr).contains(remedy), "{}", text(&output.stderr));
        }
    });
}

#[test]
fn a_closed_or_full_output_ends_it() {
    robust(MINUTE, || {
        let tool = env!("CARGO_BIN_EXE_procession");
        let script = format!(
            "seq 100000 | {{ {tool} map -j2 -- sh -c 'echo $0; sleep 0.01'; echo $? >&2; }} | head -1"
        );
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("1\n", "141\n"));
        let mut full = map(&["--", "echo", ":::", "a"]);
        full.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
        let output = full.stderr(Stdio::piped()).output().unwrap();
        assert_eq!(code(&output), 125);
        assert!(text(&output.stderr).contains("No space left"), "{}", text(&output.stderr));
    });
}

#[test]
fn retries_end_with_the_first_success_and_its_output_alone() {
    robust(MINUTE, || {
        let script = "echo $PROCESSION_ATTEMPT; [ $PROCESSION_ATTEMPT = 3 ] || exit 75; #";
        let words = [
            "--retries",
            "5",
            "--retry-on",
            "75",
            "--retry-delay",
            "1ms",
            "--",
            "sh",
            "-c",
            script,
            ":::",
            "a",
        ];
        let output = map(&words).output().unwrap();
        assert_eq!((code(&output), text(&output.stdout).as_str()), (0, "3\n"));
    });
}

#[test]
fn the_help_and_its_kin_are_there() {
    robust(MINUTE, || {
        let tool = || Command::new(env!("CARGO_BIN_EXE_procession"));
        let help = tool().arg("--help").output().unwrap();
        assert!(text(&help.stdout).lines().count() < 40 && text(&help.stdout).contains("123"));
        let help = tool().args(["map", "--help"]).output().unwrap();
        assert!(text(&help.stdout).contains("127") && help.status.success());
        assert_eq!(code(&tool().arg("mpa").output().unwrap()), 125);
        let shell = tool().args(["completions", "bash"]).output().unwrap();
        assert!(text(&shell.stdout).contains("--retry-delay"));
        let dir = tempfile::tempdir().unwrap();
        assert!(tool().arg("man").arg(dir.path()).status().unwrap().success());
        assert!(dir.path().join("procession-map.1").exists());
        let dry = fed(map(&["--dry-run", "--", "mv", "{}", "{}.old"]), "a b\n");
        assert_eq!(text(&dry.stdout), "mv 'a b' 'a b.old'\n");
        assert_eq!(code(&fed(map(&["--rate", "100/s", "--", "true"]), numbers(5))), 0);
    });
}

#[test]
fn the_short_help_of_each_verb_fits_a_screen_and_the_long_one_tells_all() {
    robust(MINUTE, || {
        let help = |words: &[&str]| {
            let mut tool = Command::new(env!("CARGO_BIN_EXE_procession"));
            let output = tool.args(words).env("COLUMNS", "80").output().unwrap();
            assert!(output.status.success(), "{words:?}");
            text(&output.stdout)
        };
        for verb in ["map", "run", "status", "logs", "events", "wait", "start", "stop", "restart", "scale"] {
            let (short, long) = (help(&[verb, "-h"]), help(&[verb, "--help"]));
            assert!(short.lines().count() <= 24, "{verb}: {short}");
            assert!(short.lines().all(|line| line.chars().count() <= 80), "{verb}: {short}");
            assert!(long.lines().count() >= short.lines().count(), "{verb}");
        }
        let whole = help(&["--help"]);
        assert!(
            whole.lines().count() <= 40 && whole.lines().all(|line| line.chars().count() <= 80),
            "{whole}"
        );
        for verb in ["map", "run"] {
            let (short, long) = (help(&[verb, "-h"]), help(&[verb, "--help"]));
            for code in ["122", "123", "124", "125", "126", "127", "128+n"] {
                assert!(short.contains(code) && long.contains(code), "{verb} {code}");
            }
            assert!(long.contains("Exit codes:\n") && long.contains("procession itself failed"), "{long}");
        }
        // Behind -- it is the program's.
        let output = map(&["--", "echo", "-h", ":::", "a"]).output().unwrap();
        assert_eq!(text(&output.stdout), "-h a\n");
    });
}

#[test]
fn who_mistypes_is_told_what_was_meant() {
    robust(MINUTE, || {
        let table: [(&[&str], &str); 8] = [
            (&["mpa"], "'map'"),
            (&["stauts"], "'status'"),
            (&["map", "--retrys", "3", "--", "true"], "--retries"),
            (&["map", "--job-log", "x", "--", "true"], "--joblog"),
            (&["map", "--mode", "line", "--", "true"], "'lines'"),
            (&["map", "-n", "3", "--", "true"], "--batch N"),
            (&["run", "--restart", "alway", "--", "true"], "'always'"),
            (&["status", "-o", "nmae"], "last_exit"),
        ];
        cells(table, |(words, meant)| {
            let output = Command::new(env!("CARGO_BIN_EXE_procession")).args(*words).output().unwrap();
            let said = text(&output.stderr);
            assert_eq!(code(&output), 125, "{said}");
            assert!(said.contains(meant), "{said}");
        });
    });
}
