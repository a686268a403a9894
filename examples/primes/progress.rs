//! How far a run has come: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr, stdout};

/// The progress of one run.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Of `total` steps towards what `title` says.
    pub(crate) fn new(title: &str, total: usize) -> Self {
        if !(stdout().is_terminal() && stderr().is_terminal()) {
            eprintln!("{title} ...");
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::new(total as u64).with_message(title.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{msg:32} {wide_bar:.cyan} {percent:>3} % {elapsed}")
        {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        bar.tick();
        Self { bar }
    }

    /// One step more.
    pub(crate) fn advance(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
