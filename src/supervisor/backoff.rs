//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles, up to a most; with jitter, so that those who fell together do not rise together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) most: Duration,
}

/// A small generator: jitter needs no more.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// From 0 to 1.
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from((self.0 >> 40) as u32) / f64::from(1_u32 << 24)
    }

    /// `time`, by at most such a part longer or shorter.
    pub(crate) fn around(&mut self, time: Duration, part: f64) -> Duration {
        let factor = 1.0 - part + 2.0 * part * self.roll();
        Duration::try_from_secs_f64(time.as_secs_f64() * factor).unwrap_or(time)
    }
}

/// Of a delay.
pub(crate) const JITTER: f64 = 0.25;

impl Backoff {
    /// Before the attempt after so many failed ones in a row; without jitter.
    pub(crate) fn plain(&self, failed: u32) -> Duration {
        if self.first.is_zero() {
            return Duration::ZERO;
        }
        let doubled = 1_u32.checked_shl(failed).and_then(|factor| self.first.checked_mul(factor));
        doubled.unwrap_or(self.most).min(self.most)
    }

    pub(crate) fn delay(&self, failed: u32, dice: &mut Dice) -> Duration {
        dice.around(self.plain(failed), JITTER)
    }

    /// What so many delays take at least.
    pub(crate) fn least(&self, count: u32) -> Duration {
        let full = (0..count.min(64)).map(|failed| self.plain(failed)).sum::<Duration>();
        let rest = self.most.saturating_mul(if self.first.is_zero() { 0 } else { count.saturating_sub(64) });
        full.saturating_add(rest).mul_f64(1.0 - JITTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_doubles_to_its_most_and_keeps_within_its_jitter(
            first in 0_u64..100_000, more in 0_u64..1_000_000, failed in 0_u32..200, seed: u64,
        ) {
            let most = Duration::from_millis(first + more);
            let backoff = Backoff { first: Duration::from_millis(first), most };
            let plain = backoff.plain(failed);
            prop_assert!(plain <= most && plain >= backoff.first.min(most));
            prop_assert!(backoff.plain(failed + 1) >= plain);
            let delay = backoff.delay(failed, &mut Dice::new(seed));
            let slack = Duration::from_nanos(10);
            prop_assert!(delay + slack >= plain.mul_f64(0.75) && delay <= plain.mul_f64(1.25) + slack);
        }
    }

    #[test]
    fn no_delay_stays_none() {
        let backoff = Backoff { first: Duration::ZERO, most: Duration::from_secs(30) };
        assert!((0..100).all(|failed| backoff.plain(failed).is_zero()));
        assert!(backoff.least(1000).is_zero());
    }

    #[test]
    fn dice_are_not_loaded() {
        let mut dice = Dice::new(4711);
        let (mut low, mut high) = (0, 0);
        for _ in 0..1000 {
            let roll = dice.roll();
            assert!((0.0..1.0).contains(&roll));
            low += u32::from(roll < 0.5);
            high += u32::from(roll >= 0.5);
        }
        assert!(low > 400 && high > 400, "{low} {high}");
    }
}
