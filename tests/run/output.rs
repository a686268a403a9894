//! What the copies print: byte for byte, by lines, into logs, and when nobody reads it.

use crate::MINUTE;
use crate::support::{poll, robust};
use crate::tool::{Place, code, said};
use std::io::Read;
use std::process::Stdio;

#[test]
fn bytes_are_as_they_were() {
    robust(MINUTE, || {
        let place = Place::new();
        let file = place.path().join("random");
        let mut bytes = vec![0; 3 << 20];
        std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        // No newline for more than a line may be long, and none at the end.
        bytes[1 << 19..2 << 20].iter_mut().for_each(|byte| *byte |= 1 << 7);
        *bytes.last_mut().unwrap() = b'x';
        std::fs::write(&file, &bytes).unwrap();
        for mode in ["lines", "raw"] {
            let flags = format!("--restart no --output {mode}");
            let output = place.run(&flags, &format!("cat {}", file.display()));
            assert!(output.stdout == bytes && output.stderr.is_empty(), "{mode}: {}", output.stdout.len());
        }
        let none = place.run("--restart no --output none", "echo out; echo err >&2");
        assert!(none.stdout.is_empty() && none.stderr.is_empty());
        let last = said(&place.run("--restart no", "printf 'no end'"));
        assert_eq!(last.out, "no end");
    });
}

#[test]
fn lines_of_several_stay_whole_and_bear_their_tags() {
    robust(MINUTE, || {
        let place = Place::new();
        let script = "i=0; while [ $i -lt 200 ]; do printf 'a%s' $i; echo ' b'; i=$((i+1)); done; printf end";
        let said = said(&place.run("-n 3 --tag={id}>{name}: --restart no", script));
        for id in 0..3 {
            let tag = format!("{id}>web:");
            let mine: Vec<&str> = said.out.lines().filter_map(|line| line.strip_prefix(&tag)).collect();
            let mut expected: Vec<String> = (0..200).map(|i| format!("a{i} b")).collect();
            expected.push("end".into());
            assert_eq!(mine, expected);
        }
        assert_eq!(said.out.lines().count(), 603);
    });
}

#[test]
fn what_is_printed_last_is_not_lost_though_somebody_holds_the_pipe() {
    robust(MINUTE, || {
        let place = Place::new();
        // It would hold the pipe for long: the end of the copy is not the end of the pipe.
        let said = said(&place.run("--restart no", "(setsid sleep 1000 &); echo last; exit 4"));
        assert_eq!((said.code, said.out.as_str()), (4, "last\n"));
    });
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    robust(MINUTE, || {
        let place = Place::new();
        let mut tool = place.tool(&["run", "-n", "2", "--", "sh", "-c", "while :; do echo line; done"]);
        let mut child = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 5];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut first).unwrap();
        drop(out);
        assert_eq!((&first, code(child.wait().unwrap())), (b"line\n", 141));
    });
}

#[test]
fn a_full_disk_at_stdout_ends_it_and_a_closed_stderr_does_not() {
    robust(MINUTE, || {
        let place = Place::new();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let loud = ["run", "--", "sh", "-c", "while :; do echo line; sleep 0.01; done"];
        let said_full = said(&place.tool(&loud).stdout(full).output().unwrap());
        assert!(said_full.code == 125 && said_full.err.contains("cannot write to stdout"), "{said_full:?}");
        let mut tool =
            place.tool(&["run", "--", "sh", "-c", "for i in 1 2 3; do echo line >&2; sleep 0.02; done"]);
        let mut child = tool.stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(code(child.wait().unwrap()), 0);
    });
}

#[test]
fn logs_never_grow_beyond() {
    robust(MINUTE, || {
        let place = Place::new();
        let logs = place.path().join("logs");
        let flags = format!("-n 2 --restart no --log-dir {} --log-size 1K --log-keep 2", logs.display());
        let script = "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done";
        let said = said(&place.run(&flags, script));
        assert_eq!((said.code, said.out.as_str()), (0, ""));
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&logs).unwrap().map(Result::unwrap) {
            assert!(entry.metadata().unwrap().len() <= 1024, "{entry:?}");
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        let of = |id: u32| ["", ".1", ".2"].map(|older| format!("web.{id}.log{older}"));
        assert_eq!(names, [of(0), of(1)].concat());
        let newest = std::fs::read_to_string(logs.join("web.1.log")).unwrap();
        assert!(newest.ends_with("line 999\n") && newest.starts_with("line "), "{newest}");
    });
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    robust(MINUTE, || {
        // A limit of the tool's own files stands for a disk without room.
        let place = Place::new();
        let logs = place.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        std::os::unix::fs::symlink("/dev/full", logs.join("web.0.log")).unwrap();
        let said = said(&place.run(
            &format!("--restart no -v --log-dir {}", logs.display()),
            "echo one; sleep 0.1; echo two; exit 5",
        ));
        assert_eq!(said.code, 5, "{said:?}");
        assert_eq!(said.err.matches("lines are lost").count(), 1, "told once: {said:?}");
    });
}

#[test]
fn the_last_lines_and_those_to_come() {
    robust(MINUTE, || {
        let place = Place::new();
        let script = "seq 1 20; while ! test -e go; do sleep 0.01; done; echo more; exec sleep 1000";
        let tool = place.start(&format!("-C {}", place.path().display()), script);
        poll("it has printed", MINUTE / 4, || said(&place.output(&["logs", "web", "-n", "1"])).out == "20\n");
        assert_eq!(said(&place.output(&["logs", "web:0", "-n", "3"])).out, "18\n19\n20\n");
        let mut follower =
            place.tool(&["logs", "-f", "web", "-n", "1"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut followed = follower.stdout.take().unwrap();
        let mut first = [0; 3];
        followed.read_exact(&mut first).unwrap();
        std::fs::write(place.path().join("go"), "").unwrap();
        let mut more = [0; 5];
        followed.read_exact(&mut more).unwrap();
        assert_eq!((&first, &more), (b"20\n", b"more\n"));
        tool.stop();
        assert_eq!(code(follower.wait().unwrap()), 0, "it ends with what it follows");
    });
}
