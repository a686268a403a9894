//! The stream of outcomes: first into the shared ring, where no death can take them back, then to the pipe in batches.

use crate::ipc::Page;
use crate::ipc::page::{BATCH, RING};
use crate::sys::{fd, life};
use crate::wire::CodecError;
use crate::wire::codec;
use crate::wire::frame::{self, MAX_HEADER};
use crate::wire::message::Up;
use serde::Serialize;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The worker's end of the outcome pipe.
#[derive(Debug)]
pub struct Outlet {
    pipe: File,
    page: Arc<Page>,
    /// Where the outcome goes that does not fit into one piece of the ring.
    spill: Vec<u8>,
    /// How much of the stream is in the pipe; what lies between this and `committed` is in the ring.
    written: u64,
    committed: u64,
}

impl Outlet {
    /// An outlet at the start of its stream.
    #[must_use]
    pub fn new(pipe: OwnedFd, page: Arc<Page>) -> Self {
        Self { pipe: pipe.into(), page, spill: Vec::new(), written: 0, committed: 0 }
    }

    /// Sends a result. On an error nothing is sent.
    ///
    /// # Errors
    /// The value cannot be encoded.
    #[inline]
    pub fn send_value<R: Serialize>(&mut self, value: &R) -> Result<(), CodecError> {
        // A small type's header is one byte, any other's two: guessed before the length is known.
        let head: usize = if size_of::<R>() < 16 { 1 } else { 2 };
        let most: usize = if head == 1 { 15 } else { 2047 };
        let room = (BATCH - (self.committed - self.written)) as usize;
        let mut window = self.page.window(self.committed + head as u64, room.saturating_sub(head).min(most));
        let before = window.left();
        if codec::encode_within(value, &mut window)? {
            let length = before - window.left();
            let word = (length << 3 | Up::Value as usize) as u16;
            if head == 1 {
                self.page.put(self.committed, &[word as u8]);
            } else {
                self.page.put(self.committed, &[word as u8 | 0x80, (word >> 7) as u8]);
            }
            self.commit((head + length) as u64);
            return Ok(());
        }
        self.send(Up::Value, |out| codec::encode_into(value, out))
    }

    /// Sends one frame whose payload `encode` appends. On its error nothing is sent.
    ///
    /// # Errors
    /// What `encode` says.
    #[cold]
    pub fn send(
        &mut self,
        kind: Up,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        self.spill.clear();
        encode(&mut self.spill)?;
        let mut head = [0; MAX_HEADER];
        let head_len = frame::header(&mut head, kind as u8, self.spill.len());
        let whole = (head_len + self.spill.len()) as u64;
        if self.committed - self.written + whole > BATCH {
            self.flush();
        }
        if whole > BATCH {
            let payload = std::mem::take(&mut self.spill);
            if payload.len() > 4 * RING {
                fd::enlarge_pipe(&self.pipe);
            }
            self.write_around(&head[..head_len], &payload);
            self.written += whole;
        } else {
            self.page.put(self.committed, &head[..head_len]);
            self.page.put(self.committed + head_len as u64, &self.spill);
        }
        self.commit(whole);
        Ok(())
    }

    #[inline]
    fn commit(&mut self, more: u64) {
        self.committed += more;
        self.page.commit(self.committed);
    }

    /// Is anything waiting to be written?
    #[must_use]
    #[inline]
    pub const fn is_pending(&self) -> bool {
        self.written < self.committed
    }

    /// Writes what waits. A parent that is gone needs no answer: the process ends here.
    pub fn flush(&mut self) {
        while self.written < self.committed {
            match self.page.write_to(&self.pipe, self.written, self.committed) {
                Ok(n) => self.written += n as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => life::exit_now(0),
            }
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
}
