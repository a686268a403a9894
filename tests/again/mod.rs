//! This test program run again as a program of its own, a gate that tasks wait at, and limits for everything that waits.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Far more than anything here takes, and far less than a person waits.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Says to a test that it is the one run again.
const AGAIN: &str = "PROCESSION_TEST_AGAIN";

/// Runs `body` on a thread of its own; panics if it takes longer than `limit`.
#[track_caller]
pub(crate) fn within<R: Send + 'static>(limit: Duration, body: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || send.send(body()));
    match receive.recv_timeout(limit) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("not done within {limit:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(_) => unreachable!("the thread sends before it ends"),
        },
    }
}

/// Looks until `done`, for what gives no event; panics if that takes longer than [`LONG`].
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The test `name` of this program, as a program of its own in a process group of its own.
pub(crate) fn again(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    prepare(&mut command, name);
    command
}

/// The same, started by a shell that says something first: a limit, a trap, a descriptor.
pub(crate) fn again_after(shell: &str, name: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell}\nexec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    prepare(&mut command, name);
    command
}

fn prepare(command: &mut Command, name: &str) {
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(AGAIN, name)
        // nextest's own, which would change how the inner run behaves.
        .env_remove("NEXTEST")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

/// Is this the run that [`again`] started?
pub(crate) fn is_again() -> bool {
    std::env::var_os(AGAIN).is_some()
}

/// Runs a program to its end, which must be a good one.
#[track_caller]
pub(crate) fn succeeds(mut command: Command) -> String {
    let output = finish(&mut command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Runs a program to its end; kills its group if there is none.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Output {
    let child = command.process_group(0).spawn().unwrap();
    let group = child.id();
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    match receive.recv_timeout(2 * LONG) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            signal("KILL", &format!("-{group}"));
            let output = receive.recv_timeout(LONG);
            panic!("{command:?} did not end; so far {output:?}");
        }
    }
}

/// Sends a signal by name, to a pid or (with a minus) to a group.
pub(crate) fn signal(name: &str, to: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), "--", to]).status().unwrap();
    assert!(status.success(), "kill -{name} {to}");
}

/// Is there a process of this number that is no zombie?
pub(crate) fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything.
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The children of a process by what the kernel says, zombies included.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(parent.to_string().as_str())
    };
    numbers.filter(is_child).collect()
}

/// How many descriptors this process has open, once that has come to rest: the reactor's thread may still be putting away
/// what belonged to a child that has just been dropped.
pub(crate) fn open_files() -> usize {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = count();
    loop {
        std::thread::sleep(Duration::from_millis(30));
        let now = count();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// Where tasks wait until the test lets them go, and where the test learns that they have come.
#[derive(Debug)]
pub(crate) struct Gate {
    path: PathBuf,
    arrivals: mpsc::Receiver<Arrival>,
    _dir: tempfile::TempDir,
}

/// A task that stands at the gate; dropping this lets it go.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) pid: u32,
    pub(crate) ticket: u32,
    _stream: UnixStream,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate");
        let listener = UnixListener::bind(&path).unwrap();
        let (send, arrivals) = mpsc::channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut words = [0; 8];
                if stream.read_exact(&mut words).is_err() {
                    return;
                }
                let (pid, ticket) = words.split_at(4);
                let number = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
                let arrival = Arrival { pid: number(pid), ticket: number(ticket), _stream: stream };
                if send.send(arrival).is_err() {
                    return;
                }
            }
        });
        Self { path, arrivals, _dir: dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Waits until a task has come.
    #[track_caller]
    pub(crate) fn arrival(&self) -> Arrival {
        self.arrivals.recv_timeout(LONG).expect("a task comes to the gate")
    }

    /// Lets everybody go who is there or comes.
    pub(crate) fn open(self) {
        std::thread::spawn(move || while self.arrivals.recv_timeout(LONG).is_ok() {});
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Wakes the listening thread, which then finds nobody to tell.
        let _ = UnixStream::connect(&self.path);
    }
}

/// The task: waits at the gate, and gives its ticket back.
pub(crate) fn stand(gate: PathBuf, ticket: u32) -> u32 {
    let mut stream = UnixStream::connect(gate).unwrap();
    let words = [std::process::id().to_ne_bytes(), ticket.to_ne_bytes()].concat();
    stream.write_all(&words).unwrap();
    let _ = stream.read(&mut [0]);
    ticket
}

/// Appends a line to a file; who does so at the same time harms nobody.
pub(crate) fn note(path: &Path, text: impl std::fmt::Display) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// The lines of such a file.
pub(crate) fn notes(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(Into::into).collect()
}

/// Is there such a command here?
pub(crate) fn has(command: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    Command::new(command).args(arguments).output().is_ok_and(|output| output.status.success())
}
