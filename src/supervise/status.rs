//! How the copies fare: what is known of each, and what the system says of its processes.

use crate::cause::Cause;
use crate::exit::Exit;
use crate::supervisor::{PlaceState, Verdict, What};
use procession_worker::sys::tree;
use std::collections::HashSet;
use std::fs;
use std::time::Duration;

/// How one copy fares.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlaceStatus {
    /// Of all copies.
    pub name: String,
    /// Of this one, from 0.
    pub id: u32,
    /// Of its process, while there is one.
    pub pid: Option<u32>,
    /// In one word.
    pub state: PlaceState,
    /// For so long.
    pub up: Option<Duration>,
    /// Starts beyond the first.
    pub restarts: u32,
    /// In so long it will be started, or killed if it is being stopped.
    pub due: Option<Duration>,
    /// How it ended last, and how long ago.
    pub last: Option<(Cause, Duration)>,
    /// What it says of itself (`STATUS=` of sd_notify).
    pub text: Option<String>,
    /// Memory of all its processes together, in bytes.
    pub rss: Option<u64>,
    /// Processor time that its living processes have used.
    pub cpu: Option<Duration>,
}

/// Something that happened to a copy.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Happening {
    /// Of all copies.
    pub name: String,
    /// Of this one.
    pub id: u32,
    /// What.
    pub kind: HappeningKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum HappeningKind {
    /// Its process was started.
    Spawn {
        /// Its number.
        pid: u32,
    },
    /// It has said that it is ready.
    Ready,
    /// It has ended, with all that it had started.
    Exit {
        /// Why.
        cause: Cause,
    },
    /// It had left processes behind; they were killed.
    Leak {
        /// So many.
        count: u32,
    },
    /// It will be started again.
    Backoff {
        /// Why it ended.
        cause: Cause,
        /// In so long.
        delay: Duration,
        /// The how-manieth restart in a row.
        count: u32,
    },
    /// It has reached its limit of restarts.
    GaveUp {
        /// How it ended last.
        cause: Cause,
    },
    /// It has ended badly, for good.
    Failed {
        /// Why.
        cause: Cause,
    },
    /// It was asked to end.
    Stopping,
    /// It did not end in time, and is killed.
    Killing,
    /// It did not say in time that it is ready.
    Late,
    /// It has more memory than it may have, and is replaced.
    TooLarge {
        /// So many bytes.
        rss: u64,
    },
    /// It has printed more than it may, and is killed.
    Verbose,
    /// Something else; in words.
    Warning(String),
}

impl HappeningKind {
    /// In one word, which never changes: for machines.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Spawn { .. } => "spawn",
            Self::Ready => "ready",
            Self::Exit { .. } => "exit",
            Self::Leak { .. } => "leak",
            Self::Backoff { .. } => "backoff",
            Self::GaveUp { .. } => "limit",
            Self::Failed { .. } => "failed",
            Self::Stopping => "stop",
            Self::Killing => "kill",
            Self::Late => "late",
            Self::TooLarge { .. } => "max-rss",
            Self::Verbose => "output-limit",
            Self::Warning(_) => "warning",
        }
    }
}

impl From<What> for HappeningKind {
    fn from(what: What) -> Self {
        match what {
            What::Spawn { pid } => Self::Spawn { pid },
            What::Ready => Self::Ready,
            What::Exit { cause } => Self::Exit { cause },
            What::Backoff { cause, delay, count } => Self::Backoff { cause, delay, count },
            What::Failed { cause } => Self::Failed { cause },
            What::GaveUp { cause } => Self::GaveUp { cause },
            What::Stopping => Self::Stopping,
            What::Killing => Self::Killing,
            What::Late => Self::Late,
        }
    }
}

/// How it all went, when it is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) reason: Option<String>,
}

impl Outcome {
    /// Did every copy end well, or on request and in time?
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        !self.verdict.gave_up && !self.verdict.failed && self.verdict.never_ran.is_none()
    }

    /// Did one reach its limit of restarts, or never get ready?
    #[must_use]
    pub const fn gave_up(&self) -> bool {
        self.verdict.gave_up
    }

    /// Did one end badly, for good, or have to be killed?
    #[must_use]
    pub const fn failed(&self) -> bool {
        self.verdict.failed
    }

    /// Why nothing ever ran, if so; and in words.
    #[must_use]
    pub fn never_ran(&self) -> Option<(Cause, &str)> {
        Some((self.verdict.never_ran?, self.reason.as_deref().unwrap_or_default()))
    }

    /// How the last one ended.
    #[must_use]
    pub const fn last(&self) -> Option<(Cause, Option<Exit>)> {
        self.verdict.last
    }
}

/// Memory in bytes and processor time of a process and all below it.
pub(super) fn measure(pid: u32) -> Option<(u64, Duration)> {
    let (mut seen, mut all, mut at) = (HashSet::from([pid]), vec![pid], 0);
    while let Some(&one) = all.get(at) {
        let before = all.len();
        tree::children(one, &mut all);
        let mut fresh = all.split_off(before);
        fresh.retain(|child| seen.insert(*child));
        all.append(&mut fresh);
        at += 1;
    }
    let found: Vec<_> = all.into_iter().filter_map(measure_one).collect();
    let first = !found.is_empty();
    first.then(|| found.iter().fold((0, Duration::ZERO), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
}

fn measure_one(pid: u32) -> Option<(u64, Duration)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let words: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    // Ticks are hundredths of a second in all that /proc says.
    let cpu = Duration::from_millis(10 * (number(11)? + number(12)?));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = rss.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    // A zombie has none.
    Some((kilobytes.unwrap_or(0) * 1024, cpu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_size() {
        let (rss, _) = measure(std::process::id()).expect("it is there");
        assert!(rss > 100_000 && rss < 1 << 40, "{rss}");
        assert_eq!(measure(u32::MAX), None);
    }
}
