//! The stream of outcomes: first into the shared ring, where no death can take them back, then to the pipe in batches.

use crate::ipc::Page;
use crate::ipc::page::RING;
use crate::sys::life;
use crate::wire::CodecError;
use crate::wire::frame::{self, MAX_HEADER};
use crate::wire::message::Up;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes that wait for a batch are written when they are this many at the latest.
const BATCH: usize = RING / 2;

/// The worker's end of the outcome pipe.
#[derive(Debug)]
pub struct Outlet {
    pipe: File,
    page: Arc<Page>,
    /// Finished and not yet written: the same bytes as the ring's, from `committed - pending.len()` on.
    pending: Vec<u8>,
    committed: u64,
    /// Where the outcome that is being encoded began.
    open: Option<usize>,
}

impl Outlet {
    /// An outlet at the start of its stream.
    #[must_use]
    pub fn new(pipe: OwnedFd, page: Arc<Page>) -> Self {
        Self { pipe: pipe.into(), page, pending: Vec::with_capacity(RING), committed: 0, open: None }
    }

    /// Sends one frame whose payload `encode` appends. On its error nothing is sent.
    ///
    /// # Errors
    /// What `encode` says.
    #[inline]
    pub fn send(
        &mut self,
        kind: Up,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        let start = self.pending.len();
        self.open = Some(start);
        self.pending.push(0);
        if let Err(error) = encode(&mut self.pending) {
            self.abandon();
            return Err(error);
        }
        let length = self.pending.len() - start - 1;
        if length < 16 && self.pending.len() <= BATCH {
            // The common case by far: a header of one byte, and room in the batch.
            self.pending[start] = (length << 3) as u8 | kind as u8;
            self.finish(start);
        } else {
            self.send_long(kind, start, length);
        }
        self.open = None;
        Ok(())
    }

    #[cold]
    fn send_long(&mut self, kind: Up, start: usize, length: usize) {
        let mut head = [0; MAX_HEADER];
        let head_len = frame::header(&mut head, kind as u8, length);
        if head_len + length > BATCH {
            let bytes = std::mem::take(&mut self.pending);
            self.write_around(&bytes[..start], &head[..head_len]);
            self.write_around(&bytes[start + 1..], &[]);
            self.committed += (head_len + length) as u64;
            self.page.commit(self.committed);
            return;
        }
        if start + head_len + length > BATCH {
            let tail = self.pending.split_off(start);
            self.flush();
            self.pending.extend_from_slice(&tail);
        }
        let start = self.pending.len() - length - 1;
        self.pending.splice(start..=start, head[..head_len].iter().copied());
        self.finish(start);
    }

    #[inline]
    fn finish(&mut self, start: usize) {
        let bytes = &self.pending[start..];
        self.page.put(self.committed, bytes);
        self.committed += bytes.len() as u64;
        self.page.commit(self.committed);
    }

    /// Forgets an outcome whose encoding was cut short by a panic.
    pub fn abandon(&mut self) {
        if let Some(start) = self.open.take() {
            self.pending.truncate(start);
        }
    }

    /// Is anything waiting to be written?
    #[must_use]
    #[inline]
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what waits. A parent that is gone needs no answer: the process ends here.
    pub fn flush(&mut self) {
        if !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            self.write_around(&pending, &[]);
            self.pending = pending;
            self.pending.clear();
        }
    }

    fn write_around(&mut self, mut first: &[u8], mut second: &[u8]) {
        while !first.is_empty() || !second.is_empty() {
            match self.pipe.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
                Ok(n) if n >= first.len() => {
                    second = &second[n - first.len()..];
                    first = &[];
                }
                Ok(n) => first = &first[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => life::exit_now(0),
            }
        }
    }

    /// The page that this outlet keeps its ring in.
    #[must_use]
    #[inline]
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// The pipe itself, for tasks that misbehave on purpose.
    #[doc(hidden)]
    #[must_use]
    pub fn pipe(&self) -> &File {
        &self.pipe
    }
}
