//! How it stands, while it runs: a bar on a terminal, plain lines elsewhere.

use super::{duration, say};
use crate::map::{Remote, Status, Summary, Worker};
use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Whether and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Show {
    /// A bar on a terminal, lines elsewhere
    Auto,
    /// A bar
    Bar,
    /// A line each 10 s
    Plain,
    /// Nothing
    None,
}

/// So many of the longest-running tasks are named.
const NAMED: usize = 8;
/// What runs for so long is worth a name.
const LONG: Duration = Duration::from_secs(3);

/// The thread that shows it, if it is shown.
pub(super) struct Progress {
    thread: Option<(Sender<()>, JoinHandle<()>)>,
    bars: Option<MultiProgress>,
}

impl Progress {
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn begin(show: Show, remote: Remote) -> io::Result<Self> {
        let on_terminal = io::stderr().is_terminal();
        let bars = match show {
            Show::None => return Ok(Self { thread: None, bars: None }),
            Show::Bar => true,
            Show::Auto => on_terminal,
            Show::Plain => false,
        };
        let (stop, stopped) = channel::<()>();
        let bars = bars.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let shown = bars.clone();
        let thread = std::thread::Builder::new().name("procession-progress".into()).spawn(move || {
            let mut board = shown.map(Board::new);
            let pause = Duration::from_millis(if board.is_some() { 250 } else { 10_000 });
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let Some(status) = remote.status() else { continue };
                match &mut board {
                    Some(board) => board.show(&status),
                    None => say(line(&status)),
                }
            }
            board.into_iter().for_each(Board::clear);
        })?;
        Ok(Self { thread: Some((stop, thread)), bars })
    }

    /// Prints without a bar in between.
    pub(super) fn aside<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// Ends it, and says what was not well.
    pub(super) fn end(self, summary: Option<&Summary>) {
        if let Some((stop, thread)) = self.thread {
            drop(stop);
            let _ = thread.join();
        }
        if let Some(summary) = summary
            && (summary.failed > 0 || summary.skipped > 0)
        {
            let Summary { ok, failed, poisoned, skipped, .. } = summary;
            let poisoned = if *poisoned > 0 { format!(" ({poisoned} poison)") } else { String::new() };
            let skipped = if *skipped > 0 { format!(", {skipped} not done") } else { String::new() };
            say(format_args!("{ok} ok, {failed} failed{poisoned}{skipped}"));
        }
    }
}

/// The bar and its footnotes.
struct Board {
    bars: MultiProgress,
    bar: ProgressBar,
    notes: Vec<ProgressBar>,
}

impl Board {
    fn new(bars: MultiProgress) -> Self {
        let bar = bars.add(ProgressBar::no_length());
        bar.set_style(style("{msg}"));
        Self { bars, bar, notes: Vec::new() }
    }

    fn show(&mut self, status: &Status) {
        match status.total {
            Some(total) => {
                self.bar.set_style(style("[{bar:24}] {msg}"));
                self.bar.set_length(total);
            }
            None => self.bar.set_style(style("{msg}")),
        }
        self.bar.set_position(status.ok + status.failed);
        self.bar.set_message(line(status));
        let long: Vec<_> = status.workers.iter().filter(|worker| worker.since >= LONG).take(NAMED).collect();
        while self.notes.len() < long.len() {
            let note = self.bars.add(ProgressBar::no_length());
            note.set_style(style("  {msg}"));
            self.notes.push(note);
        }
        while self.notes.len() > long.len() {
            self.notes.pop().into_iter().for_each(|note| note.finish_and_clear());
        }
        for (note, task) in self.notes.iter().zip(long) {
            note.set_message(worker(task));
        }
    }

    fn clear(self) {
        self.notes.iter().for_each(ProgressBar::finish_and_clear);
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// All in one line.
pub(super) fn line(status: &Status) -> String {
    let done = status.ok + status.failed;
    let seconds = status.elapsed.as_secs_f64().max(0.001);
    #[allow(clippy::cast_precision_loss, reason = "to be read by people")]
    let rate = done as f64 / seconds;
    let of = status.total.map_or_else(String::new, |total| format!("/{total}"));
    let retried = if status.retried > 0 { format!(" retried {}", status.retried) } else { String::new() };
    #[allow(clippy::cast_precision_loss, reason = "to be read by people")]
    let eta = status.total.filter(|_| rate > 0.0).map_or_else(String::new, |total| {
        let left = Duration::try_from_secs_f64(total.saturating_sub(done) as f64 / rate).unwrap_or_default();
        format!(" · ETA {}", duration::show(left))
    });
    format!(
        "{done}{of} ok {} failed {}{retried} · {rate:.1}/s{eta} · {} of {} running",
        status.ok,
        status.failed,
        status.workers.len(),
        status.slots
    )
}

/// One that works.
pub(super) fn worker(worker: &Worker) -> String {
    let pid = worker.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    let text: String =
        String::from_utf8_lossy(&worker.task).chars().filter(|c| !c.is_control()).take(60).collect();
    let again = if worker.attempt > 1 { format!(", attempt {}", worker.attempt) } else { String::new() };
    format!("#{} {text}{pid} for {}{again}", worker.seq, duration::show(worker.since))
}
