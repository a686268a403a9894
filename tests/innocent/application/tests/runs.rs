//! Both programs run, with everything that a program may rely on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// What a program prints on stdout, line by line; it says nothing on stderr and ends well, and soon.
#[track_caller]
fn lines(program: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id();
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    let Ok(output) = receive.recv_timeout(Duration::from_secs(60)) else {
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        panic!("{program} did not end");
    };
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert_eq!((output.status.code(), text(output.stderr)), (Some(0), String::new()), "{program}");
    text(output.stdout).lines().map(str::to_owned).collect()
}

/// A test of its own looks at that line.
fn without_whole(mut lines: Vec<String>) -> Vec<String> {
    lines.retain(|line| !line.starts_with("whole "));
    lines
}

#[test]
fn later_constructors_find_as_many_arguments_as_they_are_told() {
    assert!(lines(env!("CARGO_BIN_EXE_application"), &["one"]).contains(&"whole true true".to_owned()));
}

#[test]
fn with_init_later_constructors_find_as_many_arguments_as_they_are_told() {
    assert!(lines(env!("CARGO_BIN_EXE_application_init"), &["one"]).contains(&"whole true true".to_owned()));
}

#[test]
fn an_application_that_knows_nothing_of_processes_works() {
    for arguments in [&[][..], &["one", "--two=2", ""]] {
        assert_eq!(
            without_whole(lines(env!("CARGO_BIN_EXE_application"), arguments)),
            [
                "main",
                "sum 285",
                "far sum 285",
                "ready (42, 4711) (42, 4711)",
                // There, the late constructor ran after the library's, since the flag was gone by then.
                "flag (false, false) (true, false)",
                "arguments true",
            ]
        );
    }
}

#[test]
fn an_application_that_calls_init_works() {
    for arguments in [&[][..], &["one"]] {
        assert_eq!(
            without_whole(lines(env!("CARGO_BIN_EXE_application_init"), arguments)),
            [
                "main",
                "sum 285",
                "far sum 285",
                "ready (42, 4711) (42, 4711)",
                "flag (false, false)",
                "arguments true",
                "thread Some(\"main\")",
            ]
        );
    }
}

#[test]
fn the_workers_flag_cannot_be_typed() {
    for program in [env!("CARGO_BIN_EXE_application"), env!("CARGO_BIN_EXE_application_init")] {
        for spec in ["", "1,2,3,4,5,0", "0,1,2,3,0,1", "nonsense", "99999,99998,99997,99996,0,0"] {
            let output = Command::new(program).arg(format!("--procession-worker={spec}")).output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{spec}");
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("cannot be typed") && said.lines().count() == 1, "{said}");
            assert_eq!(output.stdout, b"");
        }
        // Anywhere but first it is an argument like any other.
        let output = Command::new(program).args(["first", "--procession-worker="]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
    }
}
