//! On which processors things run. A wake-up across processors costs several times one on the same, and the scheduler
//! sticks to what it has chosen, perhaps one thing for us and another for the baseline. So the rows that are all wake-ups
//! are also measured where there is no choice.

use crate::peer::again;
use crate::support::{Bench, Outcome, expect, skip};
use std::process::{Command, Stdio};

/// The first and the last processor that may be used.
pub(crate) fn allowed() -> Outcome<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).ok_or("no list")?;
    let mut cpus = list.trim().split([',', '-']).map(str::parse);
    let first = cpus.next().ok_or("no processor")??;
    Ok((first, cpus.next_back().unwrap_or(Ok(first))?))
}

/// Plays a part that moves processes, itself among them, and prints the line of this name.
pub(crate) fn confined(bench: &Bench, name: &str, part: &str) -> Outcome {
    if let Err(error) = Command::new("taskset").arg("--version").stdout(Stdio::null()).status() {
        skip(name, format_args!("taskset: {error}"));
        return Ok(());
    }
    let mut this = again(part)?;
    this.arg("--bench").args(bench.quick.then_some("--quick"));
    expect(this.status()?.success(), true)
}

/// Moves a process, with all its threads, to a processor of its own.
pub(crate) fn move_to(cpu: u32, pid: u32) -> Outcome {
    let mut taskset = Command::new("taskset");
    taskset.args(["-a", "-p", "-c", &cpu.to_string(), &pid.to_string()]).stdout(Stdio::null());
    expect(taskset.status()?.success(), true)
}
