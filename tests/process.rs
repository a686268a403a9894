//! What one process does, from its description to its end.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::exit,
    reason = "tests, and tasks that end their process on purpose"
)]

mod again;

use again::{
    Gate, LONG, again, again_after, finish, has, is_again, is_running, note, notes, open_files, signal,
    stand, succeeds, until, within,
};
use procession::{
    Child, Exit, Half, Process, Run, SpawnError, Stdio, TaskError, active_children, current_process,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn double(x: u64) -> u64 {
    2 * x
}

fn sleep_long() {
    std::thread::sleep(Duration::from_secs(60));
}

fn exit_with(code: i32) {
    std::process::exit(code)
}

/// A process that waits at a gate, and is there.
fn standing(gate: &Gate, ticket: u32) -> (Child<u32>, again::Arrival) {
    let child = Process::new(stand, (gate.path(), ticket)).start().unwrap();
    let arrival = gate.arrival();
    assert_eq!(arrival.pid, child.pid());
    (child, arrival)
}

/// `join`, with a limit.
#[track_caller]
fn join<R: Serialize + serde::de::DeserializeOwned + Send + 'static>(
    child: Child<R>,
) -> Result<R, TaskError> {
    within(LONG, || child.join())
}

#[track_caller]
fn wait<R>(child: &Child<R>) -> Exit {
    child.wait_timeout(LONG).unwrap().expect("it ends")
}

// ---- names -------------------------------------------------------------------------------------------------------

#[test]
fn every_description_counts_for_the_default_name() {
    succeeds(again("with_fresh_counters"));
}

#[test]
// Run by `every_description_counts_for_the_default_name`, as a program of its own; by itself it has nothing to show.
fn with_fresh_counters() {
    if !is_again() {
        return;
    }
    assert_eq!(current_process().name(), "MainProcess");
    let first = Process::new(double, (1,)).start().unwrap();
    assert_eq!(first.name(), "Process-1");
    let named = Process::new(double, (1,)).name("bob").start().unwrap();
    assert_eq!(named.name(), "bob");
    drop(Process::new(double, (1,)));
    let fourth = Process::new(double, (1,)).start().unwrap();
    assert_eq!(fourth.name(), "Process-4", "named or not, started or not");
    let nested = || {
        let own = current_process().name().to_owned();
        let first = Process::new(|| current_process().name().to_owned(), ()).start().unwrap();
        let inner = || {
            let child = Process::new(|| current_process().name().to_owned(), ()).start().unwrap();
            child.join().unwrap()
        };
        let second = Process::new(inner, ()).start().unwrap();
        (own, first.join().unwrap(), second.join().unwrap())
    };
    let names = join(Process::new(nested, ()).start().unwrap()).unwrap();
    assert_eq!(names, ("Process-5".into(), "Process-5:1".into(), "Process-5:2:1".into()));
    for child in [first, named, fourth] {
        assert_eq!(join(child).unwrap(), 2);
    }
}

#[test]
fn a_child_knows_itself_and_its_parent() {
    let look = || {
        let me = current_process();
        let parent = me.parent().unwrap();
        (
            me.name().to_owned(),
            me.pid(),
            me.is_worker(),
            (parent.name().to_owned(), parent.pid(), parent.is_alive()),
        )
    };
    let child = Process::new(look, ()).name("explorer").start().unwrap();
    let pid = child.pid();
    let (name, own, is_worker, parent) = join(child).unwrap();
    assert_eq!((name.as_str(), own, is_worker), ("explorer", pid, true));
    assert_eq!(parent, ("MainProcess".into(), std::process::id(), true));
    let me = current_process();
    assert_eq!((me.name(), me.pid(), me.is_worker()), ("MainProcess", std::process::id(), false));
    assert!(me.parent().is_none());
}

#[test]
fn a_childs_child_knows_its_parent() {
    let nested = || {
        let look =
            || current_process().parent().map(|parent| (parent.name().to_owned(), parent.pid())).unwrap();
        (std::process::id(), Process::new(look, ()).start().unwrap().join().unwrap())
    };
    let (own, (name, pid)) = join(Process::new(nested, ()).name("middle").start().unwrap()).unwrap();
    assert_eq!((name.as_str(), pid), ("middle", own));
}

// ---- its world ---------------------------------------------------------------------------------------------------

#[test]
fn environment_is_set_taken_away_and_otherwise_inherited() {
    let look = |keys: Vec<String>| keys.iter().map(|key| std::env::var(key).ok()).collect::<Vec<_>>();
    let keys = || vec!["PROCESSION_TEST_A".to_owned(), "CARGO_MANIFEST_DIR".to_owned(), "PATH".to_owned()];
    let child =
        Process::new(look, (keys(),)).env("PROCESSION_TEST_A", "a=b").env_remove("CARGO_MANIFEST_DIR");
    let seen = join(child.start().unwrap()).unwrap();
    assert_eq!(seen, [Some("a=b".into()), None, std::env::var("PATH").ok()]);
    assert!(std::env::var_os("PROCESSION_TEST_A").is_none(), "ours is ours");
    // The last word counts.
    let child = Process::new(look, (keys(),)).env("PATH", "x").env_remove("PATH").env("PATH", "y").start();
    assert_eq!(join(child.unwrap()).unwrap()[2].as_deref(), Some("y"));
}

#[test]
fn an_environment_that_cannot_be_is_an_error_at_once() {
    let error = Process::new(double, (1,)).env("A", "with\0nul").start().unwrap_err();
    assert!(matches!(error, SpawnError::System { .. }) && error.to_string().contains("NUL"), "{error}");
}

#[test]
fn it_works_where_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let child = Process::new(|| std::env::current_dir().unwrap(), ()).current_dir(dir.path()).start();
    assert_eq!(join(child.unwrap()).unwrap(), dir.path().canonicalize().unwrap());
    let here = Process::new(|| std::env::current_dir().unwrap(), ()).start().unwrap();
    assert_eq!(join(here).unwrap(), std::env::current_dir().unwrap());
}

#[test]
fn a_directory_that_does_not_exist_is_a_typed_error() {
    let child = Process::new(double, (1,)).current_dir("/nonexistent/place").start().unwrap();
    let error = join(child).unwrap_err();
    let TaskError::Spawn(SpawnError::Birth { stage, text, .. }) = &error else { panic!("{error:?}") };
    assert!(stage.contains("changing directory") && text.contains("/nonexistent/place"), "{error}");
}

#[test]
fn a_process_that_does_not_come_to_life_in_time_is_a_typed_error() {
    let child = Process::new(double, (1,)).birth_timeout(Duration::ZERO).start().unwrap();
    // It may have been quicker than the clock.
    if let Err(error) = join(child) {
        assert!(matches!(error, TaskError::Spawn(SpawnError::Birth { .. })), "{error:?}");
    }
}

// ---- its streams -------------------------------------------------------------------------------------------------

fn where_do_they_lead() -> Vec<PathBuf> {
    (0..3).map(|number| std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap()).collect()
}

#[test]
fn it_reads_from_nowhere_and_prints_where_its_parent_does() {
    let theirs = join(Process::new(where_do_they_lead, ()).start().unwrap()).unwrap();
    let ours = where_do_they_lead();
    assert_eq!(theirs, [PathBuf::from("/dev/null"), ours[1].clone(), ours[2].clone()]);
    let read = || std::io::read_to_string(std::io::stdin()).unwrap().len();
    assert_eq!(join(Process::new(read, ()).start().unwrap()).unwrap(), 0);
}

#[test]
fn all_streams_can_be_piped() {
    let shout = || {
        let text = std::io::read_to_string(std::io::stdin()).unwrap();
        println!("{}", text.to_uppercase());
        eprintln!("{} bytes", text.len());
    };
    let process = Process::new(shout, ()).stdin(Stdio::Piped).stdout(Stdio::Piped).stderr(Stdio::Piped);
    let mut child = process.start().unwrap();
    let mut input = child.take_stdin().unwrap();
    assert!(child.take_stdin().is_none(), "once");
    input.write_all(b"hello").unwrap();
    drop(input);
    let (out, err) = (child.take_stdout().unwrap(), child.take_stderr().unwrap());
    let (out, err) =
        within(LONG, move || (std::io::read_to_string(out).unwrap(), std::io::read_to_string(err).unwrap()));
    assert_eq!((out.as_str(), err.as_str()), ("HELLO\n", "5 bytes\n"));
    join(child).unwrap();
}

#[test]
fn streams_can_go_to_files_and_to_nowhere() {
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(b"from a file").unwrap();
    input.rewind().unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let copy = || {
        let text = std::io::read_to_string(std::io::stdin()).unwrap();
        print!("{text} to a file");
        eprintln!("nobody reads this");
        std::fs::read_link("/proc/self/fd/2").unwrap()
    };
    let process = Process::new(copy, ()).stdin(input).stdout(output.try_clone().unwrap()).stderr(Stdio::Null);
    assert_eq!(join(process.start().unwrap()).unwrap(), PathBuf::from("/dev/null"));
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "from a file to a file", "flushed at exit, though nobody ended the line");
}

#[test]
fn a_stream_may_be_one_of_the_parents_own() {
    // The parent's stderr as the child's stdout, and the other way round.
    let own = |number: u32| File::options().write(true).open(format!("/proc/self/fd/{number}"));
    if let (Ok(out), Ok(err)) = (own(1), own(2)) {
        let ours = where_do_they_lead();
        let child = Process::new(where_do_they_lead, ()).stdout(err).stderr(out).start().unwrap();
        let theirs = join(child).unwrap();
        assert_eq!(theirs[1..], [ours[2].clone(), ours[1].clone()]);
    }
}

#[test]
fn join_does_not_stick_when_nobody_reads_what_is_piped() {
    let flood = || {
        print!("{}", "x".repeat(1 << 20));
        eprint!("{}", "y".repeat(1 << 20));
        7_u8
    };
    let child = Process::new(flood, ()).stdout(Stdio::Piped).stderr(Stdio::Piped).start().unwrap();
    assert_eq!(join(child).unwrap(), 7);
}

#[test]
fn join_closes_an_input_that_was_not_taken() {
    let read = || std::io::read_to_string(std::io::stdin()).unwrap();
    let child = Process::new(read, ()).stdin(Stdio::Piped).start().unwrap();
    assert_eq!(join(child).unwrap(), "");
}

// ---- life and end ------------------------------------------------------------------------------------------------

#[test]
fn a_life_in_order() {
    let gate = Gate::new();
    let (child, held) = standing(&gate, 3);
    assert!(child.is_alive() && child.exit().is_none());
    assert_eq!(child.wait_timeout(Duration::from_millis(1)).unwrap(), None);
    drop(held);
    assert_eq!(wait(&child), Exit::Code(0));
    assert_eq!(child.wait().unwrap(), Exit::Code(0), "as often as you like");
    assert_eq!(child.exit(), Some(Exit::Code(0)));
    assert!(!child.is_alive());
    assert_eq!(join(child).unwrap(), 3, "and the result has waited");
}

#[test]
fn signals_end_it_and_are_told() {
    let gate = Gate::new();
    type End = fn(&Child<u32>) -> std::io::Result<()>;
    let ends: [(End, i32, &str); 3] = [
        (Child::terminate, 15, "killed by signal 15 (SIGTERM)"),
        (Child::kill, 9, "killed by signal 9 (SIGKILL)"),
        (Child::interrupt, 2, "killed by signal 2 (SIGINT)"),
    ];
    for (end, number, words) in ends {
        let (child, _held) = standing(&gate, 0);
        end(&child).unwrap();
        let exit = wait(&child);
        assert_eq!((exit, exit.signal(), exit.code()), (Exit::Signal(number), Some(number), None));
        assert_eq!(exit.to_string(), words);
        end(&child).expect("one that has ended needs no signal any more");
        let pid = child.pid();
        let error = join(child).unwrap_err();
        let TaskError::Lost(lost) = &error else { panic!("{error}") };
        assert_eq!((lost.exit(), lost.pid(), lost.index()), (exit, pid, None));
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn exits_are_told_in_words() {
    for (code, words) in [(0, "exited with code 0"), (3, "exited with code 3"), (255, "exited with code 255")]
    {
        let child = Process::new(exit_with, (code,)).name("quitter").start().unwrap();
        let exit = wait(&child);
        assert_eq!((exit, exit.to_string().as_str()), (Exit::Code(code), words));
        assert_eq!(exit.success(), code == 0);
        let error = join(child).unwrap_err();
        assert!(matches!(&error, TaskError::Lost(lost) if lost.exit() == exit), "{error}: never a success");
        assert!(error.to_string().contains(words) && error.to_string().contains("quitter"), "{error}");
    }
    assert_eq!(Exit::Signal(64).to_string(), "killed by signal 64");
}

#[test]
fn exit_0_in_a_task_is_no_success_and_says_what_to_do() {
    let error = join(Process::new(exit_with, (0,)).start().unwrap()).unwrap_err();
    assert!(error.to_string().contains("return instead"), "{error}");
}

#[test]
fn a_panic_is_told_with_message_place_and_stack() {
    fn unlucky(x: u32) -> u32 {
        assert!(x != 13, "{x} is unlucky");
        x
    }
    let child = Process::new(unlucky, (13,)).stderr(Stdio::Piped).start();
    let mut child = child.unwrap();
    let stderr = child.take_stderr().unwrap();
    assert_eq!(wait(&child), Exit::Code(101), "as a Rust program's main would have ended");
    assert_eq!(
        within(LONG, || std::io::read_to_string(stderr).unwrap()),
        "",
        "told to the caller, printed nowhere"
    );
    let error = join(child).unwrap_err();
    let TaskError::Panicked(panic) = &error else { panic!("{error}") };
    assert_eq!(panic.message(), "13 is unlucky");
    assert!(panic.location().unwrap().starts_with(file!()), "{error}");
    let refused = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value == "0");
    assert!(refused || panic.backtrace().contains("unlucky"), "{}", panic.backtrace());
    let child = Process::new(unlucky, (13,)).env("RUST_BACKTRACE", "0").env_remove("RUST_LIB_BACKTRACE");
    let TaskError::Panicked(panic) = join(child.start().unwrap()).unwrap_err() else { panic!("it panicked") };
    assert_eq!(panic.backtrace(), "");
}

#[test]
fn several_threads_may_wait_for_one_child() {
    let gate = Gate::new();
    let (child, held) = standing(&gate, 1);
    let ends = std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|n| {
                let child = &child;
                scope.spawn(move || if n % 2 == 0 { wait(child) } else { child.wait().unwrap() })
            })
            .collect();
        drop(held);
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(ends, [Exit::Code(0); 8]);
    assert_eq!(join(child).unwrap(), 1);
}

#[test]
fn its_descriptor_is_a_pidfd_that_tells_the_end() {
    let gate = Gate::new();
    let (child, held) = standing(&gate, 0);
    let number = child.as_fd().as_raw_fd();
    let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
    assert!(link.to_str().unwrap().contains("pidfd"), "{}", link.display());
    let pid_there = || {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().to_owned();
        pid.parse::<i64>().unwrap()
    };
    assert_eq!(pid_there(), i64::from(child.pid()));
    drop(held);
    wait(&child);
    assert_eq!(pid_there(), -1, "reaped, and no other process can be mistaken for it");
}

#[test]
fn a_detached_child_goes_on_and_is_still_reaped() {
    let gate = Gate::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("done");
    let task = |gate: PathBuf, path: PathBuf| {
        stand(gate, 0);
        note(&path, "done");
    };
    let child = Process::new(task, (gate.path(), path.clone())).name("loner").start().unwrap();
    let pid = child.pid();
    let held = gate.arrival();
    child.detach();
    assert!(active_children().iter().any(|child| child.pid() == pid && child.name() == "loner"));
    drop(held);
    until("it is done", || notes(&path) == ["done"]);
    until("it is reaped", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    until("it is forgotten", || active_children().iter().all(|child| child.pid() != pid));
}

#[test]
fn drop_kills_and_reaps() {
    let gate = Gate::new();
    let (child, _held) = standing(&gate, 0);
    let pid = child.pid();
    let start = Instant::now();
    drop(child);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "not even a zombie");
}

#[test]
fn kill_takes_what_the_task_has_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let task = |path: PathBuf| {
        let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        note(&path, sleep.id());
        sleep.wait().unwrap();
    };
    for by_drop in [false, true] {
        let child = Process::new(task, (path.clone(),)).start().unwrap();
        until("the grandchild runs", || !notes(&path).is_empty());
        let pid: u32 = notes(&path)[0].parse().unwrap();
        if by_drop {
            drop(child);
        } else {
            child.kill().unwrap();
            assert_eq!(wait(&child), Exit::Signal(9));
        }
        until("the grandchild is gone", || !is_running(pid));
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn active_children_lists_and_forgets() {
    let gate = Gate::new();
    let (child, held) = standing(&gate, 0);
    let pid = child.pid();
    let listed = || active_children().into_iter().find(|child| child.pid() == pid);
    assert_eq!(listed().unwrap().name(), child.name());
    drop(held);
    wait(&child);
    assert!(listed().is_none());
    join(child).unwrap();
}

// ---- from anywhere -----------------------------------------------------------------------------------------------

#[test]
fn twenty_threads_may_start_processes_at_once() {
    within(2 * LONG, || {
        std::thread::scope(|scope| {
            for n in 0..20 {
                scope.spawn(move || {
                    for m in 0..3 {
                        let child = Process::new(|a: u64, b: u64| a * b, (n, m)).start().unwrap();
                        assert_eq!(child.join().unwrap(), n * m);
                    }
                });
            }
        });
    });
}

#[test]
fn the_thread_that_started_a_process_may_end_before_it() {
    let gate = Gate::new();
    let path = gate.path();
    let starter = std::thread::spawn(move || Process::new(stand, (path, 5)).start().unwrap());
    let child = starter.join().unwrap();
    let held = gate.arrival();
    // Were the child tied to that thread, the kernel would have killed it by now, or would do so here.
    assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
    drop(held);
    assert_eq!(join(child).unwrap(), 5);
}

#[test]
fn a_process_may_start_processes() {
    fn tree(depth: u32) -> u32 {
        if depth == 0 {
            return 1;
        }
        let children: Vec<_> = (0..2).map(|_| Process::new(tree, (depth - 1,)).start().unwrap()).collect();
        children.into_iter().map(|child| child.join().unwrap()).sum()
    }
    assert_eq!(join(Process::new(tree, (3,)).start().unwrap()).unwrap(), 8);
}

#[test]
fn processes_die_with_their_parent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pids");
    let task = |path: PathBuf| {
        let inner = |path: PathBuf| {
            note(&path, std::process::id());
            sleep_long();
        };
        let _child = Process::new(inner, (path.clone(),)).start().unwrap();
        note(&path, std::process::id());
        sleep_long();
    };
    let child = Process::new(task, (path.clone(),)).start().unwrap();
    until("both run", || notes(&path).len() == 2);
    // Alone, not its group: only the kernel and the lifeline are left to tell the grandchild.
    signal("KILL", &child.pid().to_string());
    assert_eq!(wait(&child), Exit::Signal(9));
    for pid in notes(&path) {
        until("it is gone", || !is_running(pid.parse().unwrap()));
    }
}

// ---- what travels ------------------------------------------------------------------------------------------------

#[derive(Debug, Serialize, Deserialize)]
struct Account {
    owner: String,
    entries: Vec<i64>,
}

impl Run for Account {
    type Output = (String, i64);

    fn run(mut self) -> Self::Output {
        self.entries.push(1);
        (format!("{} in {}", self.owner, current_process().name()), self.entries.iter().sum())
    }
}

#[test]
fn an_object_with_a_state_of_its_own_can_run() {
    let account = Account { owner: "bob".into(), entries: vec![10, -3] };
    let child = Process::of(account).name("bank").start().unwrap();
    assert_eq!(join(child).unwrap(), ("bob in bank".into(), 8));
}

#[test]
fn sixty_four_mebibytes_travel_both_ways() {
    let upper = |mut text: String| {
        text.make_ascii_uppercase();
        text
    };
    let text: String = ('a'..='z').cycle().take(64 << 20).collect();
    let expected = upper(text.clone());
    let child = Process::new(upper, (text,)).start().unwrap();
    assert!(within(2 * LONG, || child.join().unwrap()) == expected);
}

#[test]
fn a_large_vector_travels_both_ways() {
    let flip = |mut bytes: Vec<u8>| {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        bytes
    };
    // Byte by byte through the codec, which takes its time when it is not optimized.
    let len = if cfg!(debug_assertions) { 4 << 20 } else { 64 << 20 };
    let bytes: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[1]).collect();
    let child = Process::new(flip, (bytes.clone(),)).start().unwrap();
    let back = within(2 * LONG, || child.join().unwrap());
    assert_eq!(back.len(), bytes.len());
    assert!(back.iter().zip(&bytes).all(|(a, b)| *a == !b));
}

#[test]
fn a_large_argument_that_nobody_reads_holds_nobody_up() {
    // The child dies before it has read half of it.
    let child = Process::new(|text: String| text.len(), ("x".repeat(64 << 20),)).current_dir("/nonexistent");
    let start = Instant::now();
    let child = child.start().unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "start does not wait for the reader");
    assert!(matches!(join(child).unwrap_err(), TaskError::Spawn(SpawnError::Birth { .. })));
}

/// Refuses, in one direction or both.
#[derive(Debug)]
struct Stubborn {
    to_go: bool,
    to_come: bool,
}

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.to_go {
            return Err(serde::ser::Error::custom("will not go"));
        }
        self.to_come.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if bool::deserialize(deserializer)? {
            return Err(serde::de::Error::custom("will not come"));
        }
        Ok(Self { to_go: false, to_come: false })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    map: BTreeMap<String, u8>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
}

#[test]
fn arguments_that_cannot_be_encoded_are_told_at_the_start() {
    let take = |_: Stubborn| ();
    let error = Process::new(take, (Stubborn { to_go: true, to_come: false },)).start().unwrap_err();
    let SpawnError::Encode(codec) = &error else { panic!("{error:?}") };
    assert_eq!((codec.half(), codec.message()), (Half::Arguments, "will not go"));
    assert_eq!(error.to_string(), "cannot encode the arguments: will not go");
    let flat = Flat { map: BTreeMap::from([("a".into(), 1)]) };
    let error = Process::new(|flat: Flat| flat.map.len(), (flat,)).start().unwrap_err();
    assert!(error.to_string().contains("unknown length"), "{error}");
}

#[test]
fn arguments_that_cannot_be_decoded_are_a_typed_error() {
    let child = Process::new(|_: Stubborn| (), (Stubborn { to_go: false, to_come: true },)).start().unwrap();
    let error = join(child).unwrap_err();
    let TaskError::Decode(codec) = &error else { panic!("{error:?}") };
    assert_eq!((codec.half(), codec.message()), (Half::Arguments, "will not come"));
    let error = join(Process::new(|_: Untagged| (), (Untagged::Number(1),)).start().unwrap()).unwrap_err();
    let TaskError::Decode(codec) = &error else { panic!("{error:?}") };
    assert_eq!(codec.half(), Half::Arguments);
    assert!(codec.message().contains("untagged"), "the text says why: {error}");
}

#[test]
fn results_that_cannot_be_encoded_or_decoded_are_typed_errors() {
    let give = |to_go: bool| Stubborn { to_go, to_come: true };
    let error = join(Process::new(give, (true,)).start().unwrap()).unwrap_err();
    let TaskError::Encode(codec) = &error else { panic!("{error:?}") };
    assert_eq!((codec.half(), codec.message()), (Half::Result, "will not go"));
    let error = join(Process::new(give, (false,)).start().unwrap()).unwrap_err();
    let TaskError::Decode(codec) = &error else { panic!("{error:?}") };
    assert_eq!((codec.half(), codec.message()), (Half::Result, "will not come"));
    let error = join(Process::new(|| Flat { map: BTreeMap::new() }, ()).start().unwrap()).unwrap_err();
    assert!(matches!(&error, TaskError::Encode(codec) if codec.half() == Half::Result), "{error:?}");
    let error = join(Process::new(|| Untagged::Number(1), ()).start().unwrap()).unwrap_err();
    assert!(matches!(&error, TaskError::Decode(codec) if codec.half() == Half::Result), "{error:?}");
}

impl Serialize for Explosive {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(!current_process().is_worker(), "in serialize");
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Explosive {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer)?;
        assert!(!current_process().is_worker(), "in deserialize");
        Ok(Self)
    }
}

/// Panics where a worker encodes or decodes it.
#[derive(Debug)]
struct Explosive;

#[test]
fn a_panic_of_the_codec_is_the_tasks_panic() {
    let error = join(Process::new(|_: Explosive| (), (Explosive,)).start().unwrap()).unwrap_err();
    assert!(matches!(&error, TaskError::Panicked(panic) if panic.message() == "in deserialize"), "{error}");
    let error = join(Process::new(|| Explosive, ()).start().unwrap()).unwrap_err();
    assert!(matches!(&error, TaskError::Panicked(panic) if panic.message() == "in serialize"), "{error}");
}

// ---- in a strange world ------------------------------------------------------------------------------------------

#[test]
fn a_program_that_ignores_sigchld_still_sees_its_processes_end() {
    if has("env", &["--ignore-signal=CHLD", "true"]) {
        // Not by `trap`: dash undoes that at exec.
        succeeds(again_after("exec env --ignore-signal=CHLD \"$0\" \"$@\"", "with_sigchld_ignored"));
    }
}

#[test]
// Run by `a_program_that_ignores_sigchld_still_sees_its_processes_end`, as a program of its own; by itself it has nothing to show.
fn with_sigchld_ignored() {
    if !is_again() {
        return;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    assert_ne!(u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 << 16, 0, "env has seen to it");
    assert_eq!(join(Process::new(double, (4,)).start().unwrap()).unwrap(), 8);
    let child = Process::new(exit_with, (3,)).start().unwrap();
    wait(&child);
    assert!(matches!(join(child).unwrap_err(), TaskError::Lost(_)), "the kernel keeps no code to tell");
    let child = Process::new(sleep_long, ()).start().unwrap();
    let pid = child.pid();
    drop(child);
    assert!(!is_running(pid));
    let pool = procession::Pool::new(2).unwrap();
    assert_eq!(pool.map(double, 0..100).unwrap().len(), 100);
    assert!(pool.join_timeout(LONG));
}

#[test]
fn a_program_without_standard_streams_can_start_processes() {
    // Nothing can be said there, so the exit code has to do.
    let mut command = again_after("exec <&- >&- 2>&-", "with_closed_streams");
    assert_eq!(finish(&mut command).status.code(), Some(77));
}

#[test]
// Run by `a_program_without_standard_streams_can_start_processes`, as a program of its own; by itself it has nothing to show.
fn with_closed_streams() {
    if !is_again() {
        return;
    }
    let leads = join(Process::new(where_do_they_lead, ()).start().unwrap()).unwrap();
    let fine = leads.iter().all(|path| path.starts_with("/dev/null"));
    let pool = procession::Pool::new(2).unwrap();
    let pooled = pool.apply(where_do_they_lead, ()).unwrap().iter().all(|path| path.starts_with("/dev/null"));
    std::process::exit(if fine && pooled { 77 } else { 1 });
}

#[test]
fn too_few_descriptors_is_a_typed_error() {
    succeeds(again_after("ulimit -n 30", "with_thirty_descriptors"));
}

#[test]
// Run by `too_few_descriptors_is_a_typed_error`, as a program of its own; by itself it has nothing to show.
fn with_thirty_descriptors() {
    if !is_again() {
        return;
    }
    drop(Process::new(double, (1,)).start().unwrap());
    let before = open_files();
    let mut files = Vec::new();
    // Whatever is missing, it is told, and nothing leaks.
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    while files.pop().is_some() {
        match Process::new(double, (21,)).start() {
            Ok(child) => {
                assert_eq!(join(child).unwrap(), 42);
                break;
            }
            Err(error) => {
                assert!(error.is_temporary(), "{error:?}");
                assert!(error.to_string().contains("ulimit -n"), "{error}");
            }
        }
    }
    drop(files);
    assert_eq!(open_files(), before);
    assert!(active_children().is_empty());
}
