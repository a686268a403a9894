//! Too little of what the system has: processes, descriptors, memory, disk.

use crate::support::{few_processes, repeats, robust};
use crate::{MINUTE, code, fed, map, numbers, text};
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The tool, where everybody may execute it.
fn public(dir: &tempfile::TempDir) -> Command {
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("procession");
    if !path.exists() {
        fs::copy(env!("CARGO_BIN_EXE_procession"), &path).unwrap();
    }
    let mut tool = Command::new(path);
    tool.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tool
}

#[test]
fn too_few_processes_cost_time_and_nothing_else() {
    robust(2 * MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let mut tool = public(&dir);
        tool.args(["map", "--progress", "none", "-j", "60", "--", "sh", "-c", "echo $0; exec sleep 0.02"]);
        // Its own threads and its keeper take some seven.
        few_processes(&mut tool, 20);
        let output = fed(tool, numbers(200));
        assert_eq!((code(&output), text(&output.stdout)), (0, numbers(200)), "{}", text(&output.stderr));
    });
}

#[test]
fn no_processes_at_all_are_told_as_what_they_are() {
    robust(2 * MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let mut tool = public(&dir);
        tool.args(["map", "--progress", "none", "-j", "2", "--", "true", ":::", "a"]);
        few_processes(&mut tool, 1);
        let output = tool.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(code(&output), 125, "{said}");
        assert!(said.contains("Resource temporarily unavailable") || said.contains("EAGAIN"), "{said}");
    });
}

/// Writes so much of one line, without an end.
fn endless(mut to: impl Write, bytes: u64) {
    let part = vec![b'x'; 1 << 20];
    for _ in 0..bytes >> 20 {
        if to.write_all(&part).is_err() {
            return;
        }
    }
}

/// The most memory that a process has had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

#[test]
fn a_single_line_without_end_passes_in_little_memory() {
    robust(5 * MINUTE, || {
        let bytes = if repeats() > 1 { 1_u64 << 30 } else { 96 << 20 };
        for output in ["group", "lines"] {
            let script = format!("head -c {bytes} /dev/zero; #");
            let mut tool = map(&["--output", output, "--", "sh", "-c", &script, ":::", "a"]).spawn().unwrap();
            let mut out = tool.stdout.take().unwrap();
            let (mut part, mut count, mut most) = (vec![0; 1 << 16], 0, 0);
            loop {
                let n = out.read(&mut part).unwrap();
                if n == 0 {
                    break;
                }
                count += n as u64;
                most = most.max(peak(tool.id()));
            }
            // By lines it gets the end that it never had.
            assert_eq!(count, bytes + u64::from(output == "lines"));
            assert!(most < 48 << 20, "{output}: {most} bytes of memory");
            assert!(tool.wait().unwrap().success());
        }
    });
}

#[test]
fn a_reader_that_takes_nothing_costs_no_memory() {
    robust(MINUTE, || {
        for output in ["group", "lines"] {
            let words = ["--output", output, "-j2", "--", "sh", "-c", "yes $0 | head -c 20000000", ":::"];
            let tasks: Vec<String> = (1..=40).map(|n| n.to_string()).collect();
            let words = [&words[..], &tasks.iter().map(String::as_str).collect::<Vec<_>>()].concat();
            let mut tool = map(&words).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_secs(3));
            let most = peak(tool.id());
            assert!(most < 64 << 20, "{output}: {most} bytes of memory");
            // And it can be stopped all the same.
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(tool.id().cast_signed()),
                nix::sys::signal::Signal::SIGTERM,
            )
            .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(300));
            drop(tool.stdout.take());
            assert!(!tool.wait().unwrap().success());
        }
    });
}

#[test]
fn a_task_longer_than_an_argument_may_be_fails_alone() {
    robust(MINUTE, || {
        let mut tool = map(&["-j1", "--", "printf", "%.3s\\n"]);
        let mut child = tool.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || {
            stdin.write_all(b"one\n").unwrap();
            endless(&mut stdin, 64 << 20);
            stdin.write_all(b"\nthree\n").unwrap();
        });
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        assert_eq!((code(&output), text(&output.stdout).as_str()), (123, "one\nthr\n"));
    });
}

#[test]
fn a_full_disk_below_what_waits_ends_it_loudly() {
    robust(MINUTE, || {
        // A file for what waits cannot be made; and where it can, it may not grow.
        let big =
            ["-j2", "--", "sh", "-c", "[ $0 = 2 ] || sleep 0.2; head -c 9000000 /dev/zero", ":::", "1", "2"];
        let nowhere = map(&big).env("TMPDIR", "/nowhere").output().unwrap();
        assert_eq!(code(&nowhere), 125, "{}", text(&nowhere.stderr));
        assert!(text(&nowhere.stderr).contains("/nowhere"), "{}", text(&nowhere.stderr));
        for flag in ["--joblog", "--failed"] {
            let output = map(&[flag, "/dev/full", "--", "false", ":::", "a"]).output().unwrap();
            assert_eq!(code(&output), 125);
            assert!(text(&output.stderr).contains("No space left"), "{}", text(&output.stderr));
        }
        let full = || File::options().write(true).open("/dev/full").unwrap();
        for words in [&["--json"][..], &["--tag"], &["--output", "lines"]] {
            let words = [words, &["--", "echo", ":::", "a"]].concat();
            assert_eq!(code(&map(&words).stdout(full()).output().unwrap()), 125, "{words:?}");
        }
        // Nobody has to hear complaints.
        assert_eq!(
            code(&map(&["--", "sh", "-c", "echo $0 >&2", ":::", "a"]).stderr(full()).output().unwrap()),
            0
        );
    });
}

#[test]
fn it_runs_below_a_program_that_has_closed_everything() {
    robust(MINUTE, || {
        let tool = env!("CARGO_BIN_EXE_procession");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {tool} map --progress none -- sh -c 'echo $0 >&2' ::: a <&- >&-")]);
        let output = shell.arg0("sh").stderr(Stdio::piped()).output().unwrap();
        // Its own output is closed: nothing was lost, since nothing was printed there.
        assert!([0, 125].contains(&code(&output)), "{}", text(&output.stderr));
    });
}
