//! One copy's place: it stays, whoever sits there.

use super::intensity::Intensity;
use super::policy::{Policy, RestartLimit};
use crate::cause::Cause;
use std::fmt;
use std::time::{Duration, Instant};

/// What comes after a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Rest,
    Again,
    Leave,
    /// It was not ready in time, and is judged for that.
    Judge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Backoff {
        until: Instant,
    },
    Starting {
        since: Instant,
        until: Option<Instant>,
    },
    Up {
        since: Instant,
        due: Option<Instant>,
    },
    /// Without `until` it was killed.
    Stopping {
        until: Option<Instant>,
        then: Then,
    },
    Done {
        well: bool,
    },
    Stopped,
}

/// How a copy fares, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PlaceState {
    /// It waits for its next start.
    Backoff,
    /// It was started, and has not yet said that it is ready.
    Starting,
    /// It runs, and nobody asked it to say when it is ready.
    Running,
    /// It has said that it is ready.
    Ready,
    /// It was asked to end.
    Stopping,
    /// It has ended well, for good.
    Done,
    /// It has ended badly, for good.
    Failed,
    /// It was stopped on request.
    Stopped,
}

impl PlaceState {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Backoff => "backoff",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for PlaceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(super) phase: Phase,
    /// Of the process that lives.
    pub(crate) pid: Option<u32>,
    /// So many starts so far.
    pub(crate) attempts: u32,
    /// Without ever being stable.
    pub(super) in_a_row: u32,
    window: Option<Intensity>,
    pub(crate) last: Option<(Cause, Instant)>,
}

impl Seat {
    pub(super) fn new(policy: &Policy, now: Instant) -> Self {
        let window = match policy.limit {
            RestartLimit::Within(count, window) => Some(Intensity::new(count as usize, window)),
            _ => None,
        };
        Self { phase: Phase::Backoff { until: now }, pid: None, attempts: 0, in_a_row: 0, window, last: None }
    }

    /// Is somebody there?
    pub(crate) const fn lives(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Up { .. } | Phase::Stopping { .. })
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done { .. })
    }

    /// When it has been up long enough, what was is forgiven.
    pub(super) fn forgive(&mut self, policy: &Policy, now: Instant) {
        if let Phase::Up { since, .. } = self.phase
            && now.saturating_duration_since(since) >= policy.stable_after
        {
            self.in_a_row = 0;
        }
    }

    /// Is it to be tried once more?
    pub(super) fn may_restart(&mut self, policy: &Policy, now: Instant) -> bool {
        match (policy.limit, &mut self.window) {
            (RestartLimit::InARow(most), _) => self.in_a_row < most,
            (RestartLimit::Within(..), Some(window)) => window.allows(now),
            _ => true,
        }
    }

    pub(super) fn amnesty(&mut self) {
        self.in_a_row = 0;
        if let Some(window) = &mut self.window {
            window.forgive();
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Backoff { until } => Some(until),
            Phase::Starting { until, .. } | Phase::Stopping { until, .. } => until,
            Phase::Up { due, .. } => due,
            Phase::Done { .. } | Phase::Stopped => None,
        }
    }

    /// In one word.
    pub(crate) const fn state(&self, policy: &Policy) -> PlaceState {
        match self.phase {
            Phase::Backoff { .. } => PlaceState::Backoff,
            Phase::Starting { .. } => PlaceState::Starting,
            Phase::Up { .. } if policy.ready_within.is_some() => PlaceState::Ready,
            Phase::Up { .. } => PlaceState::Running,
            Phase::Stopping { .. } => PlaceState::Stopping,
            Phase::Done { well: true } => PlaceState::Done,
            Phase::Done { well: false } => PlaceState::Failed,
            Phase::Stopped => PlaceState::Stopped,
        }
    }

    /// How long it has been in its state: up, or starting.
    pub(crate) fn up_for(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Starting { since, .. } | Phase::Up { since, .. } => {
                Some(now.saturating_duration_since(since))
            }
            _ => None,
        }
    }

    /// How long until something is done about it: its next start, or its end by force.
    pub(crate) fn due_in(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Backoff { until } | Phase::Stopping { until: Some(until), .. } => {
                Some(until.saturating_duration_since(now))
            }
            _ => None,
        }
    }

    /// Starts beyond the first.
    pub(crate) const fn restarts(&self) -> u32 {
        self.attempts.saturating_sub(1)
    }
}
