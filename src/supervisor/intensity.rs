//! Keeping many children as specified: policy only, pure. How often may something be started again?

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many restarts are allowed within a period; more of them mean that restarting does not help. The words are
/// Erlang's.
#[derive(Debug, Clone)]
pub(crate) struct Intensity {
    limit: usize,
    period: Duration,
    restarts: VecDeque<Instant>,
}

impl Intensity {
    pub(crate) const fn new(limit: usize, period: Duration) -> Self {
        Self { limit, period, restarts: VecDeque::new() }
    }

    /// Notes one more restart; false if that is one too many.
    #[must_use]
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        while self.restarts.front().is_some_and(|&then| now.duration_since(then) > self.period) {
            self.restarts.pop_front();
        }
        self.restarts.push_back(now);
        self.restarts.len() <= self.limit
    }

    /// Something has gone well: the count begins anew.
    pub(crate) fn forgive(&mut self) {
        self.restarts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_over_the_limit_is_refused_and_a_slow_drip_is_not() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut intensity = Intensity::new(3, 5 * second);
        assert!((0..3).all(|_| intensity.allows(start)));
        assert!(!intensity.allows(start));
        let mut intensity = Intensity::new(3, 5 * second);
        assert!((0..100).all(|n| intensity.allows(start + 2 * n * second)));
    }

    #[test]
    fn success_is_forgiveness() {
        let now = Instant::now();
        let mut intensity = Intensity::new(1, Duration::from_secs(5));
        assert!(intensity.allows(now));
        intensity.forgive();
        assert!(intensity.allows(now));
        assert!(!intensity.allows(now));
    }
}
