//! The stream of outcomes: first into the shared ring, where no death can take them back, then to the pipe in batches.

use crate::ipc::Page;
use crate::ipc::handoff::{self, Handle};
use crate::ipc::page::{BATCH, RING};
use crate::sys::{fd, life};
use crate::wire::CodecError;
use crate::wire::codec;
use crate::wire::frame::{self, MAX_HEADER};
use crate::wire::message::{UNSEALED, Up};
use crate::wire::tray::Tray;
use serde::Serialize;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The worker's end of the outcome pipe.
#[derive(Debug)]
pub struct Outlet {
    pipe: File,
    tray: Arc<Tray>,
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
    pub fn new(pipe: OwnedFd, tray: Arc<Tray>, page: Arc<Page>) -> Self {
        Self { pipe: pipe.into(), tray, page, spill: Vec::new(), written: 0, committed: 0 }
    }

    /// Sends a result. On an error nothing is sent.
    ///
    /// # Errors
    /// The value cannot be encoded.
    #[inline]
    pub fn send_value<R: Serialize>(&mut self, value: &R) -> Result<(), CodecError> {
        // What owns nothing gives no descriptor, and is often small: straight into the ring.
        if !std::mem::needs_drop::<R>() && self.place(value)? {
            return Ok(());
        }
        self.spill.clear();
        let spill = &mut self.spill;
        let (encoded, handles) = handoff::pack_for::<R, _>(|| codec::encode_into(value, spill));
        encoded?;
        if !handles.is_empty() {
            self.hand_over(&handles);
        }
        self.put(Up::Value);
        Ok(())
    }

    /// Puts a small result into the ring; false, and nothing is sent, if it does not fit there.
    #[inline]
    fn place<R: Serialize>(&mut self, value: &R) -> Result<bool, CodecError> {
        // A small type's header is one byte, any other's two: guessed before the length is known.
        let head: usize = if size_of::<R>() < 16 { 1 } else { 2 };
        let most: usize = if head == 1 { 15 } else { 2047 };
        let room = (BATCH - (self.committed - self.written)) as usize;
        let mut window = self.page.window(self.committed + head as u64, room.saturating_sub(head).min(most));
        let before = window.left();
        if !codec::encode_within(value, &mut window)? {
            return Ok(false);
        }
        let length = before - window.left();
        let word = (length << 3 | Up::Value as usize) as u16;
        if head == 1 {
            self.page.put(self.committed, &[word as u8]);
        } else {
            self.page.put(self.committed, &[word as u8 | 0x80, (word >> 7) as u8]);
        }
        self.commit((head + length) as u64);
        Ok(true)
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
        self.put(kind);
        Ok(())
    }

    /// The descriptors of the next outcome. They are sent before anybody can see it, so that they come with it even if
    /// this process dies right then.
    #[cold]
    fn hand_over(&mut self, handles: &[Handle]) {
        let mut sent = 0;
        while sent < handles.len() {
            match self.tray.send(&handles[sent..]) {
                Ok(0) => {
                    // The parent takes those of an outcome that it has heard of.
                    self.flush();
                    let _ = self.tray.wait_for_room();
                }
                Ok(n) => sent += n,
                Err(_) => life::exit_now(0),
            }
        }
        let outcome = std::mem::take(&mut self.spill);
        self.spill.extend_from_slice(&u32::try_from(handles.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.put(Up::Handles);
        self.spill = outcome;
    }

    /// Sends what was encoded as one frame.
    fn put(&mut self, kind: Up) {
        let seal = self.page.nonce().to_le_bytes();
        if self.spill.len() + seal.len() > UNSEALED {
            self.spill.extend_from_slice(&seal);
        }
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
