//! Reports on their way out, to the thread that asked for the run.

use super::{News, Piece, Report};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Tray {
    news: VecDeque<News>,
    closed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    tray: Mutex<Tray>,
    some: Condvar,
    /// Bytes of pieces that have not left the house.
    pieces: AtomicUsize,
}

/// With so much of pieces on their way, nothing more is read of what programs print.
const FULL: usize = 4 << 20;

impl Outbox {
    fn tray(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, pieces: &mut Vec<Piece>, reports: &mut Vec<Report>) {
        if pieces.is_empty() && reports.is_empty() {
            return;
        }
        self.pieces.fetch_add(pieces.iter().map(|piece| piece.bytes.len()).sum(), Ordering::AcqRel);
        let mut tray = self.tray();
        tray.news.extend(pieces.drain(..).map(News::Piece));
        tray.news.extend(reports.drain(..).map(News::Report));
        drop(tray);
        self.some.notify_one();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.pieces.load(Ordering::Acquire) > FULL
    }

    /// So much of pieces has left the house: true if that has made room.
    pub(crate) fn note_written(&self, bytes: usize) -> bool {
        let before = self.pieces.fetch_sub(bytes, Ordering::AcqRel);
        before > FULL && before - bytes <= FULL
    }

    /// There will be no more.
    pub(crate) fn close(&self) {
        self.tray().closed = true;
        self.some.notify_one();
    }

    /// All there is, once there is something; nothing when there will be no more.
    pub(crate) fn take(&self) -> VecDeque<News> {
        let mut tray = self.tray();
        while tray.news.is_empty() && !tray.closed {
            tray = self.some.wait(tray).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut tray.news)
    }
}
