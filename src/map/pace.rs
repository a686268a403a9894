//! How long tasks take.

use std::time::Duration;

/// A time limit for each attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    Fixed(Duration),
    /// So many percent of what is typical, once that is known.
    Percent(u32),
}

/// So many samples make a habit.
const HABIT: usize = 3;
const SAMPLES: usize = 255;
/// A worker is given what it can do in so long.
const AHEAD: Duration = Duration::from_millis(4);
const DEEPEST: usize = 4096;
const LEAST_DEEP: usize = 2;

/// What was seen of it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    samples: Vec<Duration>,
    oldest: usize,
    since: Option<Duration>,
    answers: u32,
    depth: usize,
}

impl Pace {
    /// One took so long.
    pub(crate) fn sample(&mut self, took: Duration) {
        if self.samples.len() < SAMPLES {
            self.samples.push(took);
        } else {
            self.samples[self.oldest] = took;
            self.oldest = (self.oldest + 1) % SAMPLES;
        }
    }

    fn median(&self) -> Option<Duration> {
        if self.samples.len() < HABIT {
            return None;
        }
        let mut sorted = self.samples.clone();
        let middle = sorted.len() / 2;
        Some(*sorted.select_nth_unstable(middle).1)
    }

    /// It begins to work.
    pub(crate) const fn begin(&mut self, now: Duration) {
        if self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// It has answered once more.
    pub(crate) fn note(&mut self, now: Duration) {
        self.answers += 1;
        let elapsed = now.saturating_sub(self.since.unwrap_or(now));
        if elapsed >= AHEAD / 2 || self.answers as usize >= self.depth() {
            let each = elapsed / self.answers;
            let fits = AHEAD.as_nanos() / each.as_nanos().max(1);
            let fits = usize::try_from(fits).unwrap_or(DEEPEST);
            self.depth = fits.min(4 * self.depth()).clamp(LEAST_DEEP, DEEPEST);
            (self.since, self.answers) = (Some(now), 0);
        }
    }

    /// So many tasks may be with it: one that it works on, and what it can do in a moment.
    pub(crate) fn depth(&self) -> usize {
        self.depth.max(LEAST_DEEP)
    }
}

impl Limit {
    /// For how long an attempt may run.
    pub(crate) fn after(self, typical: &Pace) -> Option<Duration> {
        match self {
            Self::Fixed(limit) => Some(limit),
            // Not less than a moment: a busy machine is no reason to kill.
            Self::Percent(percent) => {
                typical.median().map(|median| (median * percent / 100).max(Duration::from_millis(10)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_workers_are_given_more_and_slow_ones_two() {
        let (mut quick, mut slow) = (Pace::default(), Pace::default());
        quick.begin(Duration::ZERO);
        slow.begin(Duration::ZERO);
        for n in 1..20_000 {
            quick.note(Duration::from_micros(n));
        }
        for n in 1..20 {
            slow.note(Duration::from_millis(10 * n));
        }
        assert!(quick.depth() > 1000, "{}", quick.depth());
        assert_eq!(slow.depth(), 2);
    }

    #[test]
    fn a_percentage_is_of_the_median_once_there_is_one() {
        let mut typical = Pace::default();
        let limit = Limit::Percent(200);
        for seconds in [1, 100, 3] {
            assert_eq!(limit.after(&typical), None);
            typical.sample(Duration::from_secs(seconds));
        }
        assert_eq!(limit.after(&typical), Some(Duration::from_secs(6)));
    }
}
