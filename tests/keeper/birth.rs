//! How a program is born, and every way that fails.

use crate::support::{cells, robust};
use crate::{MINUTE, said, shell};
use procession::{Cause, Keeper, Limit, Program, SpawnError, Stage, Stdio};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_program_is_born_with_what_it_was_given_and_nothing_else() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new().unwrap();
        assert_eq!(said(&keeper, shell("echo \"$1\" \"$2\"").args(["sh", "a b", "*"])), "a b *\n");
        assert_eq!(
            said(&keeper, Program::new("env").env_clear().env("A", "1").env("B", "2").env_remove("B")),
            "A=1\n"
        );
        assert_eq!(said(&keeper, shell("echo $HOME")), format!("{}\n", std::env::var("HOME").unwrap()));
        let path = dir.path().canonicalize().unwrap();
        assert_eq!(said(&keeper, Program::new("pwd").current_dir(&path)), format!("{}\n", path.display()));
        assert_eq!(
            said(&keeper, Program::new("pwd")),
            format!("{}\n", std::env::current_dir().unwrap().display())
        );
        assert_eq!(said(&keeper, Program::new("cat")), "", "it reads from /dev/null");
        // A session of its own, whose leader it is, and no terminal.
        let words = said(&keeper, shell("cut -d' ' -f1,5,6,7 /proc/$$/stat"));
        let words: Vec<_> = words.split_whitespace().collect();
        assert!(words[0] == words[1] && words[1] == words[2] && words[3] == "0", "{words:?}");
        // `ls` has the directory open.
        let open = said(&keeper, Program::new("ls").arg("/proc/self/fd"));
        assert_eq!(open.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
        let status = said(&keeper, Program::new("cat").arg("/proc/self/status"));
        for (key, value) in [("SigBlk", 0), ("SigIgn", 0), ("SigCgt", 0)] {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            assert_eq!(
                u64::from_str_radix(line.trim_start_matches([':', '\t']), 16).unwrap(),
                value,
                "{key}"
            );
        }
        assert_eq!(keeper.running(), 0);
    });
}

#[test]
fn streams_and_descriptors_go_where_they_were_sent() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new().unwrap();
        let program = shell("cat; echo no >&2").stdin(Stdio::Piped).stdout(Stdio::Piped).stderr(Stdio::Piped);
        let mut running = keeper.start(program).unwrap();
        running.take_stdin().unwrap().write_all(b"through").unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        running.take_stdout().unwrap().read_to_string(&mut out).unwrap();
        running.take_stderr().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("through", "no\n"));
        assert!(running.wait().unwrap().cause().is_ok());
        // Numbers that cross: each other's, and the sources'.
        let file = |name: &str| -> OwnedFd {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            File::open(path).unwrap().into()
        };
        let numbers = [9, 4, 5, 3, 7];
        let program = numbers.iter().fold(
            shell("for n in 3 4 5 7 9; do cat <&$n; done; ls /proc/self/fd | wc -w"),
            |program, number| program.pass(file(&number.to_string()), *number),
        );
        assert_eq!(said(&keeper, program), "345799\n", "five, three, and that of ls");
    });
}

#[test]
fn a_program_is_found_as_shells_find_it() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        make("first/tool", "not this one", 0o644);
        make("second/tool", "#!/bin/sh\necho second $1\n", 0o755);
        make("second/plain", "echo plain $0 $1\n", 0o755);
        let path = |dirs: &[&str]| {
            let dirs: Vec<_> = dirs.iter().map(|name| dir.path().join(name)).collect();
            std::env::join_paths(dirs).unwrap()
        };
        let keeper = Keeper::new().unwrap();
        let tool =
            |name: &str| Program::new(name).arg("x").env("PATH", path(&["nowhere", "first", "second"]));
        assert_eq!(said(&keeper, tool("tool")), "second x\n");
        let plain = dir.path().join("second/plain");
        assert_eq!(
            said(&keeper, tool("plain")),
            format!("plain {} x\n", plain.display()),
            "without #!, by the shell"
        );
        assert_eq!(
            said(&keeper, Program::new("./plain").current_dir(dir.path().join("second"))),
            "plain ./plain\n"
        );
        let denied = keeper.start(Program::new("tool").env("PATH", path(&["first", "nowhere"]))).unwrap_err();
        assert_eq!(denied.cause(), Cause::Spawn { stage: Stage::Exec, errno: libc::EACCES });
        assert_eq!(said(&keeper, Program::new("echo").env_clear().arg("default")), "default\n");
    });
}

#[test]
fn each_failure_names_its_stage_and_leaves_nothing() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, "x").unwrap();
        let lost = dir.path().join("lost");
        fs::write(&lost, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&lost, fs::Permissions::from_mode(0o755)).unwrap();
        let keeper = Keeper::new().unwrap();
        let endless = "x".repeat(200_000);
        let table: Vec<(&str, Program, Stage, i32, i32, &str)> = vec![
            ("not found", Program::new("no-such-program"), Stage::Exec, libc::ENOENT, 127, "not found"),
            ("no such path", Program::new("/no/such/program"), Stage::Exec, libc::ENOENT, 127, "not found"),
            ("no interpreter", Program::new(&lost), Stage::Exec, libc::ENOENT, 127, "not found"),
            ("below a file", Program::new(plain.join("x")), Stage::Exec, libc::ENOTDIR, 127, "not found"),
            ("no name", Program::new(""), Stage::Exec, libc::ENOENT, 127, "not found"),
            ("not executable", Program::new(&plain), Stage::Exec, libc::EACCES, 126, "not executable"),
            ("a directory", Program::new(dir.path()), Stage::Exec, libc::EACCES, 126, "not executable"),
            (
                "too long",
                Program::new("true").arg(&endless),
                Stage::Exec,
                libc::E2BIG,
                126,
                "shorter arguments",
            ),
            (
                "far too long",
                Program::new("true").args((0..50).map(|_| &endless)),
                Stage::Exec,
                libc::E2BIG,
                126,
                "shorter arguments",
            ),
            ("a NUL", Program::new("true").arg("a\0b"), Stage::Asking, libc::EINVAL, 125, "NUL"),
            (
                "no directory",
                Program::new("true").current_dir("/no/where"),
                Stage::Directory,
                libc::ENOENT,
                125,
                "directory",
            ),
            (
                "a bad number",
                Program::new("true").pass(File::open("/dev/null").unwrap(), 1),
                Stage::Streams,
                libc::EINVAL,
                125,
                "3 up",
            ),
        ];
        for (what, program, stage, errno, code, word) in table {
            let error = keeper.start(program).expect_err(what);
            assert_eq!(error.cause(), Cause::Spawn { stage, errno }, "{what}: {error}");
            assert_eq!(error.cause().exit_code(), code, "{what}");
            assert!(error.to_string().contains(word), "{what}: {error}");
        }
        assert!(crate::trees::children(keeper.pid()).is_empty());
        assert!(keeper.start(Program::new("true")).unwrap().wait().unwrap().cause().is_ok());
    });
}

#[test]
fn a_limit_that_cannot_be_set_is_refused() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let above = u64::MAX / 2;
        let limits = [(Limit::OpenFiles(above), Stage::OpenFiles), (Limit::Memory(4096), Stage::Exec)];
        cells(limits, |&(limit, stage)| {
            // What is too small to be executed with is told by execve, or by the kernel's SIGKILL or SIGSEGV behind it.
            match keeper.start(Program::new("true").limit(limit)) {
                Err(SpawnError::Program { stage: found, .. }) => assert_eq!(found, stage),
                Ok(running) => {
                    assert_eq!(stage, Stage::Exec);
                    assert!(matches!(
                        running.wait().unwrap().cause(),
                        Cause::Signal { .. } | Cause::Exit(127)
                    ));
                }
                Err(other) => panic!("{other}"),
            }
        });
    });
}

#[test]
fn long_arguments_and_environments_arrive_whole() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let long = "y".repeat(100_000);
        let program = (0..8).fold(shell("echo $# ${#8} ${#LONG}").arg("sh"), |program, _| program.arg(&long));
        assert_eq!(said(&keeper, program.env("LONG", &long)), "8 100000 100000\n");
    });
}
