//! A message that is too long for a packet, and comes by a stream of its own.

use super::kept::{SPARE, kept};
use crate::ipc::handoff::MOST;
use crate::sys;
use crate::sys::socket::{self, AT_ONCE};
use std::io;
use std::os::fd::OwnedFd;

/// A claim of so many bytes costs only address space, and is believed; a longer one as far as bytes arrive.
const BELIEVED: usize = 1 << 20;

/// Where to read it follows: [`LongHead`], and one descriptor, the stream's.
pub(super) const LONG: u8 = 1;

/// What a packet says of a message that comes by a stream: first its descriptors, [`AT_ONCE`] with each byte, then its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LongHead {
    pub(super) length: u64,
    pub(super) handles: u64,
}

impl LongHead {
    pub(super) fn to_bytes(self) -> [u8; 17] {
        let mut out = [LONG; 17];
        out[1..9].copy_from_slice(&self.length.to_le_bytes());
        out[9..].copy_from_slice(&self.handles.to_le_bytes());
        out
    }

    /// From what follows the kind.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 16] = bytes.try_into().ok()?;
        let (length, handles) = bytes.split_first_chunk::<8>()?;
        let head = Self {
            length: u64::from_le_bytes(*length),
            handles: u64::from_le_bytes(*handles.first_chunk()?),
        };
        (head.handles <= MOST as u64).then_some(head)
    }
}

/// A long message, as far as it has come.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) stream: OwnedFd,
    length: u64,
    /// So many have not come yet.
    handles: u64,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) trouble: Option<i32>,
    pub(super) bytes: Vec<u8>,
}

impl Half {
    pub(super) fn new(stream: OwnedFd, head: LongHead) -> Self {
        let LongHead { length, handles } = head;
        let mut bytes = kept(&SPARE);
        bytes.clear();
        Self { stream, length, handles, fds: Vec::new(), trouble: None, bytes }
    }

    pub(super) const fn is_whole(&self) -> bool {
        self.handles == 0 && self.bytes.len() as u64 == self.length
    }

    /// Reads on; false if it has broken off.
    pub(super) fn read(&mut self, wait: bool) -> io::Result<bool> {
        if self.is_whole() {
            return Ok(true);
        }
        if self.handles > 0 {
            let before = self.fds.len();
            let received = socket::receive(&self.stream, &mut [0], &mut self.fds, wait)?;
            if self.trouble.is_some() {
                // What comes after a gap would be taken for what is missing.
                self.fds.truncate(before);
            }
            if received.fds_lost {
                self.trouble = Some(sys::EMFILE);
            }
            self.handles = self.handles.saturating_sub(AT_ONCE as u64);
            return Ok(received.len > 0);
        }
        let missing = usize::try_from(self.length).unwrap_or(usize::MAX) - self.bytes.len();
        let max = missing.min(self.bytes.len().max(BELIEVED));
        Ok(socket::read(&self.stream, &mut self.bytes, max, wait)? > 0)
    }
}
