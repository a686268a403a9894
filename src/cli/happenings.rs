//! What happens to the copies, in words.

use super::{duration, say, size};
use crate::supervise::{Happening, HappeningKind};
use crate::supervisor::RestartLimit;
use std::collections::HashMap;

/// Says on stderr what an operator wants to know.
pub(super) struct Teller {
    quiet: bool,
    verbose: bool,
    limit: RestartLimit,
    pids: HashMap<u32, u32>,
}

impl Teller {
    pub(super) fn new(quiet: bool, verbose: bool, limit: RestartLimit) -> Self {
        Self { quiet, verbose, limit, pids: HashMap::new() }
    }

    pub(super) fn into_ear(mut self) -> impl FnMut(&Happening) + Send {
        move |happening| {
            if let Some(text) = self.line(happening) {
                say(text);
            }
        }
    }

    fn line(&mut self, happening: &Happening) -> Option<String> {
        if let HappeningKind::Spawn { pid } = happening.kind {
            self.pids.insert(happening.id, pid);
        }
        if let HappeningKind::Warning(text) = &happening.kind {
            return Some(text.clone());
        }
        // That it was killed by us it would not tell itself.
        if self.quiet && happening.kind != HappeningKind::Verbose {
            return None;
        }
        let who = match self.pids.get(&happening.id) {
            Some(pid) => format!("{}:{} (pid {pid})", happening.name, happening.id),
            None => format!("{}:{}", happening.name, happening.id),
        };
        Some(match &happening.kind {
            HappeningKind::Backoff { cause, delay, count } => {
                let of = match self.limit {
                    RestartLimit::InARow(most) => format!("/{most}"),
                    _ => String::new(),
                };
                format!("{who} {cause}; restart {count}{of} in {}", duration::show(*delay))
            }
            HappeningKind::GaveUp { cause } => {
                format!("{who} {cause}; given up: that was its last restart (--restart-limit)")
            }
            HappeningKind::Failed { cause } => format!("{who} {cause}; not started again"),
            HappeningKind::Late => format!("{who} is not ready in time (--start-timeout)"),
            HappeningKind::Killing => format!("{who} has not ended in time, and is killed"),
            HappeningKind::Leak { count } => format!("{who} left {count} processes behind; they were killed"),
            HappeningKind::TooLarge { rss } => {
                format!("{who} has {} of memory, and is replaced", size::show(*rss))
            }
            HappeningKind::Verbose => {
                format!("{who} has printed more than it may, and is killed (-l output=)")
            }
            HappeningKind::Spawn { .. } if self.verbose => format!("{who} started"),
            HappeningKind::Ready if self.verbose => format!("{who} is ready"),
            HappeningKind::Exit { cause } if self.verbose => format!("{who} has ended: {cause}"),
            HappeningKind::Stopping if self.verbose => format!("{who} is being stopped"),
            _ => return None,
        })
    }
}
