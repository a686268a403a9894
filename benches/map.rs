//! What it costs to feed tasks to programs, by the tool itself.
//!
//! `cargo bench --bench map -- xargs` runs the rows whose names contain `xargs`; `--quick` takes fewer rounds.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use support::{Bench, Outcome, Row, expect, row, seconds, skip, timed};

/// So many programs make a round.
const PROGRAMS: u32 = 1000;
const LINES: u32 = 1_000_000;

const ROWS: [Row; 4] = [
    ("args_against_xargs", args_against_xargs),
    ("lines_against_args", lines_against_args),
    ("memory_ordered", memory_ordered),
    ("version", version),
];

fn main() -> Outcome {
    Bench::from_args().map_or(Ok(()), |bench| bench.run(&ROWS))
}

fn tool(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_procession"));
    command.args(words);
    command
}

/// Runs it with so many lines.
fn feed(mut command: Command, lines: u32) -> Outcome {
    let lines: String = (0..lines).map(|n| format!("{n}\n")).collect();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().ok_or("it was piped")?.write_all(lines.as_bytes())?;
    expect(child.wait()?.success(), true)
}

fn map_true() -> Outcome {
    feed(tool(&["map", "--progress", "none", "-j2", "/bin/true"]), PROGRAMS)
}

/// A process per task, two at a time.
fn args_against_xargs(bench: &Bench) -> Outcome {
    if Command::new("xargs").arg("--version").stdout(Stdio::null()).status().is_err() {
        skip("args_against_xargs", "there is no xargs");
        return Ok(());
    }
    let theirs = || {
        let mut xargs = Command::new("xargs");
        xargs.args(["-P2", "-n1", "/bin/true"]);
        feed(xargs, PROGRAMS)
    };
    let each = |work: &dyn Fn() -> Outcome| Ok(timed(work)? / f64::from(PROGRAMS));
    bench.compare("args_against_xargs", 15, || each(&map_true), || each(&theirs))
}

/// A line in, a line out, against a process per line: time per task.
fn lines_against_args(bench: &Bench) -> Outcome {
    let lines = || feed(tool(&["map", "--progress", "none", "-j2", "--mode", "lines", "cat"]), LINES);
    let ours = || Ok(timed(lines)? / f64::from(LINES));
    bench.compare("lines_against_args", 3, ours, || Ok(timed(map_true)? / f64::from(PROGRAMS)))
}

/// The most memory it has with a million ordered tasks, the first of which is the slowest.
fn memory_ordered(_bench: &Bench) -> Outcome {
    let script = "{ read -r first; sleep 1; echo \"$first\"; exec cat; }";
    let lines: String = (0..LINES).map(|n| format!("{n}\n")).collect();
    let words = ["map", "--progress", "none", "-j2", "--mode", "lines", "--", "sh", "-c", script];
    let mut child = tool(&words).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("it was piped")?;
    let pid = child.id();
    let feeder = std::thread::spawn(move || {
        let fed = stdin.write_all(lines.as_bytes());
        // It lives until its input ends.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        drop(stdin);
        fed.map(|()| status)
    });
    expect(child.wait()?.success(), true)?;
    let status = feeder.join().map_err(|_| "it panicked")??;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak")?;
    row("memory_ordered", peak.trim(), "-", "-");
    Ok(())
}

/// From nothing to the version.
fn version(bench: &Bench) -> Outcome {
    let mut times = Vec::new();
    for _ in 0..bench.rounds(51) {
        times.push(timed(|| expect(tool(&["--version"]).stdout(Stdio::null()).status()?.success(), true))?);
    }
    row("version", seconds(support::median(times)), "-", "-");
    Ok(())
}
