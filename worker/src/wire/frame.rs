//! Bytes: a stream is a row of frames, each `varint(length << 3 | kind)` and then `length` bytes.

use std::fmt;

/// Longest header: a 64-bit varint.
pub const MAX_HEADER: usize = 10;

/// Frames longer than this are refused by both sides: nothing sane is, and a torn header often looks so.
pub const MAX_PAYLOAD: u64 = 1 << 40;

/// How much [`Inbox::wanted`] asks for when nothing larger is announced: a pipe's default capacity.
const READ_AHEAD: usize = 64 * 1024;

/// One frame, borrowed from the buffer it was read into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload means: a number from 0 to 7, given its sense by [`message`](super::message).
    pub kind: u8,
    /// The bytes themselves, opaque here.
    pub payload: &'a [u8],
    /// Header and payload.
    pub whole: &'a [u8],
}

/// Why bytes are not a row of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The length says more than [`MAX_PAYLOAD`], or than the reader allows.
    TooLong {
        /// What the header claims.
        length: u64,
        /// What the reader allows.
        limit: u64,
    },
    /// Ten bytes of header and still no end of it.
    BadHeader,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, limit } => {
                write!(f, "frame of {length} bytes is over the limit of {limit}")
            }
            Self::BadHeader => f.write_str("frame header does not end"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Writes a frame's header to `out`, which must have room for [`MAX_HEADER`] bytes; returns its length.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a varint's bytes are the low seven bits, one group at a time"
)]
pub fn header(out: &mut [u8; MAX_HEADER], kind: u8, length: usize) -> usize {
    let mut rest = (length as u64) << 3 | u64::from(kind & 7);
    let mut at = 0;
    while rest >= 0x80 {
        out[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    out[at] = rest as u8;
    at + 1
}

/// Appends a whole frame to `out`.
pub fn push(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    push_header(out, kind, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a frame's header to `out`; the caller appends exactly `length` bytes after it.
pub fn push_header(out: &mut Vec<u8>, kind: u8, length: usize) {
    let mut head = [0; MAX_HEADER];
    let n = header(&mut head, kind, length);
    out.extend_from_slice(&head[..n]);
}

/// Splits the first frame off `bytes`: the frame and its length with header, or `None` while it is incomplete.
///
/// # Errors
/// The header is no header, or claims more than `limit` bytes.
#[inline]
pub fn split(bytes: &[u8], limit: u64) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    // One byte of header serves every payload under 16 bytes: the whole of a small map.
    let (head, word) = match bytes.first() {
        None => return Ok(None),
        Some(&first) if first < 0x80 => (1, u64::from(first)),
        Some(_) => match long_header(bytes)? {
            None => return Ok(None),
            Some(parsed) => parsed,
        },
    };
    let length = word >> 3;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let Ok(length) = usize::try_from(length) else {
        return Err(FrameError::TooLong { length, limit });
    };
    let whole = head + length;
    match bytes.get(head..whole) {
        Some(payload) => Ok(Some((Frame { kind: (word & 7) as u8, payload, whole: &bytes[..whole] }, whole))),
        None => Ok(None),
    }
}

/// A frame's header: its kind, its own length, and that of the payload; `None` if it is none, or not whole.
#[must_use]
pub fn parse_header(bytes: &[u8]) -> Option<(u8, usize, u64)> {
    let (head, word) = match bytes.first()? {
        &first if first < 0x80 => (1, u64::from(first)),
        _ => long_header(bytes).ok()??,
    };
    Some(((word & 7) as u8, head, word >> 3))
}

fn long_header(bytes: &[u8]) -> Result<Option<(usize, u64)>, FrameError> {
    let mut word = 0_u64;
    for (at, &byte) in bytes.iter().take(MAX_HEADER).enumerate() {
        if at == MAX_HEADER - 1 && byte > 1 {
            return Err(FrameError::BadHeader);
        }
        word |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok(Some((at + 1, word)));
        }
    }
    if bytes.len() >= MAX_HEADER { Err(FrameError::BadHeader) } else { Ok(None) }
}

/// Bytes read and not yet understood: any split of the stream gives the same frames.
#[derive(Debug)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    limit: u64,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new(MAX_PAYLOAD)
    }
}

impl Inbox {
    /// An empty inbox that refuses frames over `limit` bytes.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self { bytes: Vec::new(), start: 0, limit }
    }

    /// The buffer to append what was read to, and how many more bytes are worth asking for.
    ///
    /// A frame's claim is believed only as far as bytes arrive: room doubles, it does not jump to what a header says.
    pub fn fill(&mut self) -> (&mut Vec<u8>, usize) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
            // One large frame must not keep its memory for good.
            if self.bytes.capacity() > 16 * READ_AHEAD {
                self.bytes = Vec::new();
            }
        } else if self.start >= READ_AHEAD {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let have = self.bytes.len() - self.start;
        let missing = match long_header(&self.bytes[self.start..]) {
            Ok(Some((head, word))) => {
                usize::try_from(word >> 3).unwrap_or(usize::MAX).saturating_add(head).saturating_sub(have)
            }
            _ => 0,
        };
        let wanted = missing.min(have.max(READ_AHEAD)).max(READ_AHEAD);
        (&mut self.bytes, wanted)
    }

    /// Takes the next whole frame, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// As [`split`]; the stream is then beyond repair.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "a lending iterator is no Iterator")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        match split(&self.bytes[self.start..], self.limit)? {
            None => Ok(None),
            Some((frame, whole)) => {
                self.start += whole;
                Ok(Some(frame))
            }
        }
    }

    /// How long the next frame says that it is, header included; `None` until its header is whole.
    #[must_use]
    pub fn announced(&self) -> Option<u64> {
        let (head, word) = long_header(self.pending()).ok()??;
        Some((word >> 3) + head as u64)
    }

    /// Of the last `n` bytes read, drops the first `known`.
    pub fn forget(&mut self, n: usize, known: usize) {
        let start = self.bytes.len().saturating_sub(n);
        self.bytes.drain(start..(start + known).min(self.bytes.len()));
    }

    /// What is read and not yet taken.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Skips `n` bytes of [`pending`](Self::pending).
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.bytes.len());
    }

    /// The largest payload this inbox lets through.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(inbox: &mut Inbox) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let mut out = Vec::new();
        while let Some(frame) = inbox.next()? {
            out.push((frame.kind, frame.payload.to_vec()));
        }
        Ok(out)
    }

    proptest! {
        #[test]
        fn any_split_of_the_stream_gives_the_same_frames(
            frames in prop::collection::vec((0_u8..8, prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            cuts in prop::collection::vec(1_usize..200, 1..100),
        ) {
            let mut stream = Vec::new();
            for (kind, payload) in &frames {
                push(&mut stream, *kind, payload);
            }
            let mut inbox = Inbox::default();
            let mut seen = Vec::new();
            let (mut rest, mut cut) = (&stream[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let n = (*cut.next().unwrap()).min(rest.len());
                inbox.fill().0.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
                seen.extend(all(&mut inbox).unwrap());
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(inbox.pending().is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_cost_more_memory_than_they_weigh(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut inbox = Inbox::new(1 << 30);
            inbox.fill().0.extend_from_slice(&bytes);
            let _ = all(&mut inbox);
            let (_, wanted) = inbox.fill();
            prop_assert!(wanted <= READ_AHEAD.max(bytes.len()));
        }
    }

    #[test]
    fn a_length_over_the_limit_is_named() {
        let mut stream = Vec::new();
        push_header(&mut stream, 1, 1000);
        assert_eq!(split(&stream, 999), Err(FrameError::TooLong { length: 1000, limit: 999 }));
    }

    #[test]
    fn a_header_without_an_end_is_refused() {
        assert_eq!(split(&[0xff; 12], MAX_PAYLOAD), Err(FrameError::BadHeader));
        assert_eq!(split(&[0xff; 5], MAX_PAYLOAD), Ok(None));
    }
}
