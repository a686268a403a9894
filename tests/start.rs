//! Workers start without ceremony, and nobody else can start one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod again;

use again::{LONG, again, finish, is_again, succeeds, within};
use procession::{Pool, Process, TaskError};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn the_workers_flag_cannot_be_typed() {
    for spec in ["", "3,4,5,6,7,0", "0,1,2,0,0,1", "nonsense", "-1,-1,-1,-1,0,0", "3,4,5,6,7,0,8"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg(format!("--procession-worker={spec}"))
            .arg("--list")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let output = finish(&mut command);
        assert_eq!(output.status.code(), Some(125), "{spec}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("procession: ") && said.contains("cannot be typed"), "{said}");
        assert_eq!(output.stdout, b"", "main has not run");
    }
}

#[test]
fn a_task_sees_the_programs_own_arguments() {
    let arguments =
        || std::env::args_os().map(|argument| argument.into_string().unwrap()).collect::<Vec<_>>();
    within(LONG, move || {
        let child = Process::new(arguments, ()).start().unwrap();
        assert_eq!(child.join().unwrap(), arguments());
        assert_eq!(Pool::new(1).unwrap().apply(arguments, ()).unwrap(), arguments());
        // And its kernel's view of them names the worker.
        let line = || std::fs::read_to_string("/proc/self/cmdline").unwrap();
        let line = Process::new(line, ()).start().unwrap().join().unwrap();
        assert!(line.contains("--procession-worker="), "{line}");
    });
}

#[test]
fn the_program_may_be_gone_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let inner = again("whose_file_is_removed");
    let mut command = Command::new("sh");
    // It removes itself when it is asked to, so that no time passes between.
    command.args(["-c", "exec \"$0\" \"$@\""]).arg(&copy).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    succeeds(command);
    assert!(!copy.exists());
}

#[test]
// Run by `the_program_may_be_gone_from_the_disk`, as a program of its own; by itself it has nothing to show.
fn whose_file_is_removed() {
    if !is_again() {
        return;
    }
    let own = std::env::current_exe().unwrap();
    assert_eq!(own.file_name().unwrap(), "program");
    std::fs::remove_file(own).unwrap();
    within(LONG, || {
        assert_eq!(Process::new(|x: u8| x + 1, (1,)).start().unwrap().join().unwrap(), 2);
        assert_eq!(Pool::new(2).unwrap().map(|x: u64| x + 1, 0..3).unwrap(), [1, 2, 3]);
    });
}

#[test]
fn a_worker_has_the_main_threads_stack() {
    // More than a spawned thread has, and well within the usual 8 MiB of a main thread.
    fn dive(top: usize) -> u32 {
        let block = std::hint::black_box([0_u8; 4096]);
        let here = block.as_ptr().addr();
        if top == 0 {
            return dive(here);
        }
        let deeper = if top - here < 5 << 20 { dive(top) } else { 0 };
        deeper + 1 + u32::from(block[0])
    }
    let levels = within(LONG, || Process::new(dive, (0,)).start().unwrap().join().unwrap());
    assert!(levels > 100, "{levels}");
}

/// A crate of its own, built with `panic = "abort"`, which is a setting of a whole build.
fn program_that_aborts() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aborting");
    std::fs::create_dir_all(dir.join("src")).unwrap();
    let library = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The same versions as ours, so that nothing has to be fetched.
    std::fs::copy(library.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    let manifest = format!(
        "[package]\nname = \"aborting\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
         [dependencies]\nprocession = {{ path = {library:?} }}\n\n\
         [profile.dev]\npanic = \"abort\"\n\n[workspace]\n"
    );
    std::fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(dir.join("src/main.rs"), ABORTING).unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--offline", "--quiet", "--manifest-path"])
        .arg(dir.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(dir.join("target"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir.join("target/debug/aborting")
}

const ABORTING: &str = r#"
use procession::{Exit, Pool, Process, TaskError};

fn picky(x: u64) -> u64 {
    assert!(x != 7, "{x} is not wanted");
    x + 1
}

fn is_panic(error: &TaskError) -> bool {
    matches!(error, TaskError::Panicked(panic) if panic.message() == "7 is not wanted"
        && panic.location().is_some_and(|place| place.contains("main.rs")))
}

fn main() {
    let pool = Pool::new(1).unwrap();
    let before = pool.worker_pids();
    let error = pool.apply(picky, (7,)).unwrap_err();
    assert!(is_panic(&error), "{error:?}");
    assert_eq!(pool.apply(picky, (8,)).unwrap(), 9);
    assert_ne!(pool.worker_pids(), before, "an aborted worker is replaced");
    let results: Vec<_> = pool.imap(picky, 0..1000).collect();
    for (x, result) in (0..).zip(&results) {
        match result {
            Ok(y) => assert_eq!(*y, x + 1),
            Err(error) => assert!(x == 7 && is_panic(error) && error.index() == Some(7), "{error:?}"),
        }
    }
    assert_eq!(results.len(), 1000);
    let child = Process::new(picky, (7,)).start().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Signal(6));
    let error = child.join().unwrap_err();
    assert!(is_panic(&error), "{error:?}");
    println!("all is well");
}
"#;

#[test]
fn with_panic_abort_the_message_still_arrives_and_the_worker_is_replaced() {
    let program = within(10 * LONG, program_that_aborts);
    let mut command = Command::new(program);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    assert_eq!(succeeds(command), "all is well\n");
}

#[test]
fn a_task_that_aborts_by_itself_is_lost_and_no_panic() {
    let abort = |x: u8| {
        if x > 0 {
            std::process::abort()
        }
    };
    let error = within(LONG, move || Pool::new(1).unwrap().apply(abort, (1,)).unwrap_err());
    assert!(matches!(&error, TaskError::Lost(lost) if lost.exit().signal() == Some(6)), "{error}");
}
