//! What the kernel knows of a process.
#![allow(dead_code, reason = "all benchmarks share it, and none of them needs all of it")]

use crate::support::Outcome;
use std::fs::{read_dir, read_to_string};

/// A process, not to be taken for a later one with its number.
pub(crate) struct Identity {
    pid: u32,
    start: String,
}

impl Identity {
    /// Of a process that lives.
    pub(crate) fn of(pid: u32) -> Outcome<Self> {
        let (_, start) = state_and_start(pid).ok_or_else(|| format!("{pid} is dead"))?;
        Ok(Self { pid, start })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A zombie is dead.
    pub(crate) fn is_alive(&self) -> bool {
        state_and_start(self.pid)
            .is_some_and(|(state, start)| start == self.start && state != 'Z' && state != 'X')
    }
}

fn state_and_start(pid: u32) -> Option<(char, String)> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.to_owned()))
}

/// How often its threads have left a processor.
pub(crate) fn switches(process: &Identity) -> Outcome<u64> {
    let mut sum = 0;
    for task in read_dir(format!("/proc/{}/task", process.pid))? {
        let status = read_to_string(task?.path().join("status"))?;
        for line in status.lines().filter(|line| line.contains("ctxt_switches:")) {
            sum += line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// The bytes of this process that are in memory.
pub(crate) fn resident() -> Outcome<f64> {
    let status = read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}
