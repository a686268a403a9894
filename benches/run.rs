//! What `procession run` takes to replace a copy, to end, and to do nothing.
//!
//! `cargo bench --bench run -- crash` runs the rows whose names contain `crash`; `--quick` takes fewer rounds.

mod support;

#[path = "support/vitals.rs"]
mod vitals;

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::{Bench, Outcome, Row, expect, median, row, seconds};
use tempfile::TempDir;
use vitals::{Identity, switches};

const COPIES: usize = 100;

const ROWS: [Row; 6] = [
    ("crash_to_replacement", crash_to_replacement),
    ("crash_to_replacement_of_100", crash_of_many),
    ("ctrl_c_to_end_of_100", ctrl_c),
    ("second_ctrl_c_to_end_of_100", second_ctrl_c),
    ("killed_with_100_daemons", killed),
    ("idle_100_copies", idle),
];

fn main() -> Outcome {
    Bench::from_args().map_or(Ok(()), |bench| bench.run(&ROWS))
}

/// The tool, with its copies; each says its number when it is executed.
struct Tool {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _place: TempDir,
}

impl Tool {
    fn start(copies: usize, script: &str) -> Outcome<Self> {
        let place = tempfile::tempdir()?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_procession"))
            .args([
                "run",
                "-q",
                "-n",
                &copies.to_string(),
                "--restart-delay",
                "0s",
                "--restart-limit",
                "none",
                "--stop-timeout",
                "1h",
            ])
            .args(["--", "sh", "-c", script])
            .env("XDG_RUNTIME_DIR", place.path())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("it was piped")?).lines();
        Ok(Self { child, lines, _place: place })
    }

    fn next(&mut self) -> Outcome<u32> {
        Ok(self.lines.next().ok_or("it has ended")??.parse()?)
    }

    fn pids(&mut self, count: usize) -> Outcome<Vec<u32>> {
        (0..count).map(|_| self.next()).collect()
    }

    fn signal(&self, signal: &str) -> Outcome {
        send(self.child.id(), signal)
    }

    fn end(&mut self) -> Outcome<f64> {
        let start = Instant::now();
        self.child.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(pid: u32, signal: &str) -> Outcome {
    use nix::sys::signal::{Signal, kill};
    kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), signal.parse::<Signal>()?)?;
    Ok(())
}

fn replacement(bench: &Bench, name: &str, copies: usize) -> Outcome {
    // A shell needs a millisecond of its own to say its number: what it takes is measured from outside.
    let mut tool = Tool::start(copies, "echo $$; exec sleep 1000")?;
    let mut last = *tool.pids(copies)?.first().ok_or("there are copies")?;
    let mut times = Vec::new();
    for _ in 0..bench.rounds(101) {
        let start = Instant::now();
        send(last, "SIGKILL")?;
        last = tool.next()?;
        times.push(start.elapsed().as_secs_f64());
    }
    row(name, seconds(median(times)), "-", "-");
    Ok(())
}

/// From SIGKILL for the copy until its replacement, a shell, has said a line that has come through the tool.
fn crash_to_replacement(bench: &Bench) -> Outcome {
    replacement(bench, "crash_to_replacement", 1)
}

fn crash_of_many(bench: &Bench) -> Outcome {
    replacement(bench, "crash_to_replacement_of_100", COPIES)
}

/// From SIGINT until the prompt is back, with copies that obey.
fn ctrl_c(bench: &Bench) -> Outcome {
    let mut times = Vec::new();
    for _ in 0..bench.rounds(9) {
        let mut tool = Tool::start(COPIES, "echo $$; exec sleep 1000")?;
        tool.pids(COPIES)?;
        thread::sleep(Duration::from_millis(200));
        tool.signal("SIGINT")?;
        times.push(tool.end()?);
    }
    row("ctrl_c_to_end_of_100", seconds(median(times)), "-", "-");
    Ok(())
}

/// From the second SIGINT, with copies that do not obey.
fn second_ctrl_c(bench: &Bench) -> Outcome {
    let mut times = Vec::new();
    for _ in 0..bench.rounds(9) {
        let mut tool = Tool::start(COPIES, "trap '' TERM; echo $$; exec sleep 1000")?;
        tool.pids(COPIES)?;
        tool.signal("SIGINT")?;
        thread::sleep(Duration::from_millis(500));
        tool.signal("SIGINT")?;
        times.push(tool.end()?);
    }
    row("second_ctrl_c_to_end_of_100", seconds(median(times)), "-", "-");
    Ok(())
}

/// From SIGKILL for the tool until none is left of its copies and their daemons, which ignore all they can.
fn killed(bench: &Bench) -> Outcome {
    let script = "(setsid sh -c 'trap \"\" TERM INT HUP; echo $$; exec sleep 1000' &)\ntrap '' TERM; echo $$; exec sleep 1000";
    let mut times = Vec::new();
    for _ in 0..bench.rounds(9) {
        let mut tool = Tool::start(COPIES, script)?;
        let all = tool.pids(2 * COPIES)?.into_iter().map(Identity::of).collect::<Outcome<Vec<_>>>()?;
        let start = Instant::now();
        tool.child.kill()?;
        while all.iter().any(Identity::is_alive) {
            if start.elapsed() > Duration::from_secs(10) {
                return Err("somebody lives on".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        times.push(start.elapsed().as_secs_f64());
    }
    row("killed_with_100_daemons", seconds(median(times)), "-", "-");
    Ok(())
}

/// How often the tool and its keeper wake up in five seconds.
fn idle(_bench: &Bench) -> Outcome {
    let mut tool = Tool::start(COPIES, "echo $$; exec sleep 1000")?;
    let pids = tool.pids(COPIES)?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pids[0]))?;
    let keeper: u32 = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(1))
        .ok_or("no parent")?
        .parse()?;
    expect(keeper != tool.child.id(), true)?;
    let both = [Identity::of(tool.child.id())?, Identity::of(keeper)?];
    thread::sleep(Duration::from_secs(1));
    let count = || both.iter().map(switches).sum::<Outcome<u64>>();
    let before = count()?;
    thread::sleep(Duration::from_secs(5));
    row("idle_100_copies", count()? - before, "-", "-");
    Ok(())
}
