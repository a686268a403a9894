//! What is wanted of the copies, as said before any of them lives.

use super::backoff::Backoff;
use crate::cause::Cause;
use crate::exit::Exit;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// When a copy that has ended by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Restart {
    /// Never.
    No,
    /// Unless it ended well.
    #[default]
    OnFailure,
    /// If a signal ended it, or a limit, or it was not ready in time; not when it exits, with whatever code.
    OnCrash,
    /// However it ended.
    Always,
}

/// How many restarts are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestartLimit {
    /// It is tried for ever.
    None,
    /// So many in a row, none of which became stable.
    InARow(u32),
    /// So many within a time, as Erlang and systemd count.
    Within(u32, Duration),
}

impl Default for RestartLimit {
    fn default() -> Self {
        Self::InARow(10)
    }
}

/// What a copy that has reached its limit means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum OnLimit {
    /// Nothing: it alone has failed.
    #[default]
    Fail,
    /// All are stopped.
    Stop,
}

/// When it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Until {
    /// When one copy has ended for good; the others are stopped.
    Any,
    /// When all have ended for good.
    #[default]
    All,
    /// When asked to.
    Never,
}

/// Ways to end: exit codes and signals.
///
/// ```
/// use procession::{Exit, ExitSet};
/// let set: ExitSet = "0,143,TERM".parse()?;
/// assert!(set.contains(Exit::Code(143)) && set.contains(Exit::Signal(15)) && !set.contains(Exit::Code(1)));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExitSet(BTreeSet<(bool, i32)>);

impl ExitSet {
    /// Is it one of them?
    #[must_use]
    pub fn contains(&self, exit: Exit) -> bool {
        self.0.contains(&match exit {
            Exit::Code(code) => (false, code),
            Exit::Signal(signal) => (true, signal),
        })
    }

    fn shared(&self, other: &Self) -> Option<Exit> {
        let &(signal, number) = self.0.intersection(&other.0).next()?;
        Some(if signal { Exit::Signal(number) } else { Exit::Code(number) })
    }
}

impl FromIterator<Exit> for ExitSet {
    fn from_iter<I: IntoIterator<Item = Exit>>(all: I) -> Self {
        let entry = |exit| match exit {
            Exit::Code(code) => (false, code),
            Exit::Signal(signal) => (true, signal),
        };
        Self(all.into_iter().map(entry).collect())
    }
}

impl std::str::FromStr for ExitSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |word: &str| match word.trim().parse::<u8>() {
            Ok(code) => Ok(Exit::Code(code.into())),
            Err(_) => crate::sys::signals::number(word.trim()).map(Exit::Signal).ok_or_else(|| {
                format!("'{word}' is neither an exit code from 0 to 255 nor a signal; as in 0,143,TERM")
            }),
        };
        text.split(',').map(one).collect()
    }
}

/// Why settings cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyError(pub(crate) String);

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) copies: u32,
    pub(crate) restart: Restart,
    pub(crate) restart_delay: Duration,
    pub(crate) restart_max_delay: Option<Duration>,
    pub(crate) stable_after: Duration,
    pub(crate) limit: RestartLimit,
    pub(crate) on_limit: OnLimit,
    pub(crate) success: ExitSet,
    pub(crate) fatal: ExitSet,
    pub(crate) until: Until,
    pub(crate) stop_timeout: Duration,
    /// Has a copy to say that it is ready, and by when?
    pub(crate) ready_within: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            copies: 1,
            restart: Restart::default(),
            restart_delay: Duration::from_millis(100),
            restart_max_delay: None,
            stable_after: Duration::from_secs(10),
            limit: RestartLimit::default(),
            on_limit: OnLimit::default(),
            success: ExitSet::from_iter([Exit::Code(0)]),
            fatal: ExitSet::default(),
            until: Until::default(),
            stop_timeout: Duration::from_secs(10),
            ready_within: None,
            max_age: None,
        }
    }
}

/// What follows from an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sequel {
    Again,
    Over { well: bool },
}

impl Policy {
    pub(crate) fn backoff(&self) -> Backoff {
        let most = self.restart_max_delay.unwrap_or(self.restart_delay.max(Duration::from_secs(30)));
        Backoff { first: self.restart_delay, most }
    }

    /// Can all of it hold at once?
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        let backoff = self.backoff();
        if backoff.most < backoff.first {
            return Err(PolicyError(format!(
                "restart-max-delay {:?} is below restart-delay {:?}: raise it, or leave it out",
                backoff.most, backoff.first
            )));
        }
        if let RestartLimit::Within(count, window) = self.limit {
            let least = backoff.least(count);
            if window <= least {
                return Err(PolicyError(format!(
                    "restart-limit {count}/{window:?} can never be reached: {count} restarts take {least:?} at least with this \
                     back-off; say {count} (in a row), or give it a longer time"
                )));
            }
        }
        match self.success.shared(&self.fatal) {
            Some(exit) => {
                Err(PolicyError(format!("{exit} is in both success-exit and fatal-exit: which is it?")))
            }
            None => Ok(()),
        }
    }

    /// How it ended; nobody had asked it to.
    pub(super) fn judge(&self, cause: Cause, exit: Option<Exit>) -> Sequel {
        let well = !matches!(cause, Cause::StartTimeout)
            && exit.map_or(cause.is_ok(), |exit| self.success.contains(exit));
        let fatal = exit.is_some_and(|exit| self.fatal.contains(exit));
        let again = match self.restart {
            Restart::No => false,
            Restart::OnFailure => !well,
            Restart::OnCrash => !well && !matches!(cause, Cause::Ok | Cause::Exit(_)),
            Restart::Always => true,
        };
        if again && !fatal { Sequel::Again } else { Sequel::Over { well: well && !fatal } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn contradictions_are_refused_and_the_remedy_is_named() {
        let refused = |policy: Policy| policy.check().expect_err("a contradiction").0;
        assert!(Policy::default().check().is_ok());
        let slow = Policy { restart_delay: 60 * SECOND, ..Policy::default() };
        assert!(slow.check().is_ok(), "the most grows along unless it was given");
        let text = refused(Policy { restart_max_delay: Some(SECOND), ..slow });
        assert!(text.contains("below restart-delay"), "{text}");
        let within =
            |count, window| Policy { limit: RestartLimit::Within(count, window), ..Policy::default() };
        assert!(within(5, 10 * SECOND).check().is_ok());
        let text = refused(within(10, 10 * SECOND));
        assert!(text.contains("can never be reached") && text.contains("in a row"), "{text}");
        let both = "0,3".parse().expect("a set");
        let text = refused(Policy { fatal: both, ..Policy::default() });
        assert!(text.contains("both"), "{text}");
    }

    #[test]
    fn every_policy_judges_every_end() {
        use Restart::{Always, No, OnCrash, OnFailure};
        let (ok, bad) = ((Cause::Ok, Some(Exit::Code(0))), (Cause::Exit(3), Some(Exit::Code(3))));
        let crash = (Cause::Signal { signal: 11, core: false }, Some(Exit::Signal(11)));
        let fatal = (Cause::Exit(78), Some(Exit::Code(78)));
        let late = (Cause::StartTimeout, Some(Exit::Code(0)));
        let again = Sequel::Again;
        let (well, ill) = (Sequel::Over { well: true }, Sequel::Over { well: false });
        for (restart, sequels) in [
            (No, [well, ill, ill, ill, ill]),
            (OnFailure, [well, again, again, ill, again]),
            (OnCrash, [well, ill, again, ill, again]),
            (Always, [again, again, again, ill, again]),
        ] {
            let policy = Policy { restart, fatal: "78".parse().expect("a set"), ..Policy::default() };
            for ((cause, exit), sequel) in [ok, bad, crash, fatal, late].into_iter().zip(sequels) {
                assert_eq!(policy.judge(cause, exit), sequel, "{restart:?} {cause:?}");
            }
        }
    }

    #[test]
    fn sets_of_exits_are_read_by_code_and_by_name() {
        let set: ExitSet = "0, 143,SIGTERM,hup".parse().expect("a set");
        let (yes, no) = (
            [Exit::Code(0), Exit::Code(143), Exit::Signal(15), Exit::Signal(1)],
            [Exit::Code(15), Exit::Signal(9)],
        );
        assert!(
            yes.into_iter().all(|exit| set.contains(exit)) && !no.into_iter().any(|exit| set.contains(exit))
        );
        assert!("0,nonsense".parse::<ExitSet>().expect_err("nonsense").contains("'nonsense'"));
        assert!("256".parse::<ExitSet>().is_err() && "".parse::<ExitSet>().is_err());
    }
}
