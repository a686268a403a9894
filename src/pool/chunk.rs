//! How many items to send at a time: pure arithmetic on measured time.

/// A chunk should keep its worker busy for about so long: long against the cost of handing it over, short against what
/// a person notices.
const TARGET_NANOS: f64 = 2_000_000.0;
/// Nothing is known of the first items, so chunks grow no faster than this.
const GROWTH: u32 = 16;
/// Until the last so many chunks per worker, a chunk is cut from what is left: guided, so that no long tail remains.
const GUIDE: u64 = 2;

/// What has been learnt of one job's items.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    mean_nanos: Option<f64>,
    largest: u32,
}

impl Pace {
    /// Learns from a finished chunk.
    #[expect(clippy::cast_precision_loss, reason = "a mean of times needs no more than 52 bits")]
    pub(crate) fn learn(&mut self, items: u32, nanos: u64) {
        if items > 0 {
            let now = nanos as f64 / f64::from(items);
            // Costs drift along the input (seed 0's grow with the number), so the last chunks count most.
            self.mean_nanos = Some(self.mean_nanos.map_or(now, |before| 0.5 * before + 0.5 * now));
        }
    }

    /// How many items to send next, of `left` that are left, to one of `workers`; at least 1.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
    pub(crate) fn next(&mut self, left: u64, workers: usize) -> u32 {
        let by_time = self.mean_nanos.map_or(1, |mean| (TARGET_NANOS / mean.max(1.0)) as u32);
        let by_growth =
            self.largest.max(1).saturating_mul(if self.mean_nanos.is_some() { GROWTH } else { 1 });
        let by_guide = u32::try_from(left.div_ceil(GUIDE * workers.max(1) as u64)).unwrap_or(u32::MAX);
        let size = by_time.min(by_growth).min(by_guide).max(1);
        self.largest = self.largest.max(size);
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_items_go_by_the_thousand_and_long_ones_alone() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(1_000_000, 4), 1, "nothing is known yet");
        pace.learn(1, 100);
        let sizes: Vec<u32> = (0..5).map(|_| pace.next(1_000_000, 4)).collect();
        assert!(sizes.windows(2).all(|pair| pair[1] <= 16 * pair[0]) && sizes[4] > 10_000, "{sizes:?}");
        for _ in 0..20 {
            pace.learn(1, 50_000_000);
        }
        assert_eq!(pace.next(1_000_000, 4), 1);
    }

    #[test]
    fn the_last_chunks_shrink() {
        let mut pace = Pace { mean_nanos: Some(10.0), largest: 100_000 };
        let (mut left, mut last) = (100_000_u64, u32::MAX);
        while left > 0 {
            let size = pace.next(left, 4);
            assert!(size <= last && u64::from(size) <= left.div_ceil(8));
            (left, last) = (left - u64::from(size), size);
        }
    }
}
