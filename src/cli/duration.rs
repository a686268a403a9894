//! Times as they are typed: `1.5s`, `200ms`, `2m`, `1h30m`; a bare number is seconds.

use std::time::Duration;

/// Nanoseconds in each unit.
const UNITS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9), ("d", 86400e9)];

/// Reads a time.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is no time; type for example 500ms, 30s, 2m, 1h30m");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refuse());
    }
    let (mut nanos, mut parts) = (0.0, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        let behind = &rest[digits..];
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let unit = match &behind[..letters] {
            "" if parts == 0 && behind.is_empty() => 1e9,
            unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?.1,
        };
        nanos += number * unit;
        parts += 1;
        rest = &behind[letters..];
    }
    Duration::try_from_secs_f64(nanos / 1e9).map_err(|_| refuse())
}

/// Says a time as briefly as it can be read.
pub(crate) fn show(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.as_millis() == 0 => format!("{}us", time.as_micros()),
        0 => format!("{}ms", time.as_millis()),
        1..10 => format!("{:.1}s", time.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_nonsense_is_refused() {
        let table = [("30", 30_000), ("1.5s", 1500), ("200ms", 200), ("1h30m", 5_400_000), ("2m", 120_000)];
        for (text, millis) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1x", "1.2.3s", "-1s", "1s2", "∞", "99999999999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(show(Duration::from_millis(61_000)), "1m01s");
    }
}
