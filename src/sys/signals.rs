//! Signals as events: blocked everywhere, waited for by one thread.

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, raise, sigaction,
};
use std::io;

pub(crate) use libc::{SIGHUP, SIGPIPE, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};

/// By name, with or without SIG, or by number.
pub(crate) fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}

/// Signals that this thread, and those it starts, do not hear any more.
#[derive(Debug)]
pub(crate) struct Signals(SigSet);

impl Signals {
    /// Blocks them; but not those that whoever started this program has it ignore (nohup, or a shell's background jobs).
    pub(crate) fn block(numbers: &[i32]) -> Self {
        let mut set = SigSet::empty();
        numbers
            .iter()
            .filter_map(|number| Signal::try_from(*number).ok())
            .filter(|signal| !is_ignored(*signal))
            .for_each(|signal| set.add(signal));
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None);
        Self(set)
    }

    /// The next one.
    ///
    /// # Errors
    /// None on Linux.
    pub(crate) fn wait(&self) -> io::Result<i32> {
        Ok(self.0.wait()? as i32)
    }
}

fn is_ignored(signal: Signal) -> bool {
    // Read from /proc: asking sigaction(2) without setting anything is not in nix.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal as u32 - 1) & 1 == 1
}

/// Stops this process, until SIGCONT.
pub(crate) fn stop_self() {
    let _ = raise(Signal::SIGSTOP);
}

/// Ends this process by a signal, so that a shell sees of what; returns only if that is not possible.
pub(crate) fn die_of(number: i32) {
    let Ok(signal) = Signal::try_from(number) else { return };
    // A core of this process would tell nothing.
    let _ = nix::sys::prctl::set_dumpable(false);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    set_default(signal, &default);
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None);
    // To this thread: another may be waiting for such signals.
    let _ = raise(signal);
}

#[allow(unsafe_code, reason = "the cellar")]
fn set_default(signal: Signal, default: &SigAction) {
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { sigaction(signal, default) };
}

/// Has this process a terminal that controls it?
pub(crate) fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        let table = [
            ("TERM", Some(15)),
            ("SIGTERM", Some(15)),
            ("usr1", Some(10)),
            ("9", Some(9)),
            ("0", None),
            ("65", None),
        ];
        for (text, number_) in table {
            assert_eq!(number(text), number_, "{text}");
        }
        assert_eq!(number("nonsense"), None);
    }
}
