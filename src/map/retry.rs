//! When a task is tried again, and when.

use crate::cause::Cause;
use std::time::Duration;

/// What a task may fail of, so that it is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOn {
    /// It was ended by a signal, used up a limit, or was lost.
    pub crash: bool,
    /// It ran over its time.
    pub timeout: bool,
    /// It was killed for want of memory.
    pub oom: bool,
    /// It exited with any code but 0.
    pub fail: bool,
    /// These exit codes, too.
    pub codes: Vec<i32>,
}

impl Default for RetryOn {
    /// Crashes, timeouts and want of memory: what may go better the next time.
    fn default() -> Self {
        Self { crash: true, timeout: true, oom: true, fail: false, codes: Vec::new() }
    }
}

impl RetryOn {
    fn covers(&self, cause: Cause) -> bool {
        match cause {
            Cause::Exit(code) => self.fail || self.codes.contains(&code),
            Cause::Timeout => self.timeout,
            Cause::Oom(_) => self.oom,
            _ => is_crash(cause) && self.crash,
        }
    }
}

/// Did it take its process along, by no wish of ours?
pub(crate) const fn is_crash(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Signal { .. }
            | Cause::Oom(_)
            | Cause::CpuTime
            | Cause::FileSize
            | Cause::OutputLimit
            | Cause::Lost(_)
    )
}

/// The rules of trying again.
#[derive(Debug, Clone)]
pub(crate) struct Retry {
    /// Attempts after the first.
    pub(crate) extra: u32,
    /// Before the first of them; doubled for each further one.
    pub(crate) delay: Duration,
    pub(crate) on: RetryOn,
    /// So many crashes of one task are enough.
    pub(crate) crash_limit: u32,
}

/// No pause is longer, unless it was asked for.
const LONGEST: Duration = Duration::from_secs(30);

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sequel {
    /// Once more, after so long.
    Again(Duration),
    /// It has killed too many.
    Poison,
    Final,
}

impl Retry {
    /// After so many attempts, of which so many crashed. `dice` spreads those that failed together.
    pub(crate) fn judge(&self, cause: Cause, attempts: u32, crashes: u32, dice: u64) -> Sequel {
        if self.on.covers(cause) { self.again(cause, attempts, crashes, dice) } else { Sequel::Final }
    }

    /// The same of what is worth trying again.
    pub(crate) fn again(&self, cause: Cause, attempts: u32, crashes: u32, dice: u64) -> Sequel {
        if attempts > self.extra {
            return Sequel::Final;
        }
        if is_crash(cause) && crashes >= self.crash_limit {
            return Sequel::Poison;
        }
        let doubled = self.delay.saturating_mul(1 << (attempts - 1).min(20)).min(LONGEST.max(self.delay));
        // From three quarters to five quarters.
        let spread = u32::try_from(mix(dice.wrapping_add(attempts.into())) % 512).unwrap_or(0);
        Sequel::Again(doubled * (768 + spread) / 1024)
    }
}

/// Any number, well stirred.
const fn mix(seed: u64) -> u64 {
    let stirred =
        (seed ^ (seed >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    stirred ^ (stirred >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_again_and_how_long_after() {
        let second = Duration::from_secs(1);
        let retry = Retry { extra: 10, delay: second, on: RetryOn::default(), crash_limit: 3 };
        let crash = Cause::Signal { signal: 11, core: false };
        assert_eq!(retry.judge(Cause::Exit(1), 1, 0, 7), Sequel::Final);
        assert_eq!(retry.judge(crash, 3, 3, 7), Sequel::Poison);
        assert_eq!(retry.judge(Cause::Timeout, 11, 0, 7), Sequel::Final);
        for attempts in 1..=10 {
            let Sequel::Again(pause) = retry.judge(Cause::Timeout, attempts, 0, attempts.into()) else {
                panic!()
            };
            let base = second * (1 << (attempts - 1)).min(30);
            assert!(pause >= base * 3 / 4 && pause <= base * 5 / 4, "{attempts} {pause:?}");
        }
        let picky = RetryOn { codes: vec![75], crash: false, ..RetryOn::default() };
        let retry = Retry { on: picky, ..retry };
        assert!(matches!(retry.judge(Cause::Exit(75), 1, 0, 0), Sequel::Again(_)));
        assert_eq!([retry.judge(Cause::Exit(7), 1, 0, 0), retry.judge(crash, 1, 1, 0)], [Sequel::Final; 2]);
    }
}
