//! When enough is enough, in GNU parallel's words: `now,fail=1`, `soon,fail=10%`, `now,success=1`, `soon,done=100`.

use std::fmt;
use std::str::FromStr;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Fail,
    Success,
    Done,
}

/// A reason to end before the input does.
///
/// ```
/// use procession::map::Halt;
/// assert!("now,fail=1".parse::<Halt>().is_ok());
/// assert!("later,fail=1".parse::<Halt>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halt {
    now: bool,
    what: What,
    count: u64,
    percent: bool,
}

/// With a percentage, so many must have come to that at least: the first failure is not 100 %.
const AT_LEAST: u64 = 3;

impl Halt {
    /// At the first failure, and what runs is stopped.
    pub const FIRST_FAILURE: Self = Self { now: true, what: What::Fail, count: 1, percent: false };

    /// Is what runs to be stopped, too?
    pub(crate) const fn is_now(&self) -> bool {
        self.now
    }

    /// Is it time?
    pub(crate) const fn is_reached(&self, ok: u64, failed: u64) -> bool {
        let done = ok + failed;
        let came = match self.what {
            What::Fail => failed,
            What::Success => ok,
            What::Done => done,
        };
        if self.percent { came >= AT_LEAST && came * 100 >= self.count * done } else { came >= self.count }
    }
}

/// A text that is no [`Halt`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoHalt(String);

impl fmt::Display for NoHalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no reason to halt; type for example now,fail=1 or soon,fail=10% or now,success=1 (or never)",
            self.0
        )
    }
}

impl std::error::Error for NoHalt {}

impl FromStr for Halt {
    type Err = NoHalt;

    fn from_str(text: &str) -> Result<Self, NoHalt> {
        let refuse = || NoHalt(text.into());
        let (when, why) = text.split_once(',').ok_or_else(refuse)?;
        let now = match when {
            "now" => true,
            "soon" => false,
            _ => return Err(refuse()),
        };
        let (what, count) = why.split_once('=').ok_or_else(refuse)?;
        let what = match what {
            "fail" => What::Fail,
            "success" => What::Success,
            "done" => What::Done,
            _ => return Err(refuse()),
        };
        let (count, percent) = count.strip_suffix('%').map_or((count, false), |count| (count, true));
        let count = count.parse().ok().filter(|&count| count > 0 && (!percent || count <= 100));
        let count = count.ok_or_else(refuse)?;
        if percent && what == What::Done { Err(refuse()) } else { Ok(Self { now, what, count, percent }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gnu_words_mean_what_they_mean_there() {
        let table = [
            ("now,fail=1", 5, 1, true),
            ("now,fail=2", 5, 1, false),
            ("soon,success=2", 2, 0, true),
            ("soon,done=3", 2, 1, true),
            ("now,fail=50%", 1, 2, false),
            ("now,fail=50%", 3, 3, true),
        ];
        for (text, ok, failed, reached) in table {
            assert_eq!(text.parse::<Halt>().unwrap().is_reached(ok, failed), reached, "{text}");
        }
        for text in ["", "now", "now,fail", "now,fail=0", "now,fail=101%", "now,done=5%", "soon,fail=x"] {
            assert!(text.parse::<Halt>().is_err(), "{text}");
        }
    }
}
