//! Meaning: the whole vocabulary of the two directions, and the fixed parts of each message.

use serde::{Deserialize, Serialize};

/// Both sides are the same executable, so this only guards against a mistake of ours.
pub const PROTOCOL: u32 = 1;

/// From the parent to its worker: the kinds of frames that go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Down {
    /// Who the worker is and how it has to live: [`Birth`]; first, and once.
    Birth = 0,
    /// A row of items for one function: [`CallHead`] and then the items' bytes.
    Call = 1,
    /// Finish what came before, and end.
    Retire = 2,
    /// So many descriptors come with the next call, by the tray: a `u32`. They follow this frame.
    Handles = 3,
}

impl Down {
    /// The sense of a frame's kind.
    #[must_use]
    pub const fn from_kind(kind: u8) -> Option<Self> {
        match kind {
            0 => Some(Self::Birth),
            1 => Some(Self::Call),
            2 => Some(Self::Retire),
            3 => Some(Self::Handles),
            _ => None,
        }
    }
}

/// From a worker to its parent: the kinds of frames that go up.
///
/// Each item of the oldest unfinished call is answered by one of `Value` to `Unencodable`, in order; `End` closes the
/// call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Up {
    /// The item's result, encoded.
    Value = 0,
    /// The item panicked: [`PanicRecord`].
    Panicked = 1,
    /// The item's arguments could not be decoded: the reason as text. The rest of the call was left alone.
    Undecodable = 2,
    /// The item's result could not be encoded: the reason as text.
    Unencodable = 3,
    /// The call is done: [`End`].
    End = 4,
    /// The worker is born: [`Hello`]; first, and once.
    Hello = 5,
    /// The worker will not live: [`Refusal`].
    Refused = 6,
    /// So many descriptors came with the next outcome, by the tray: a `u32`. They are there before this frame is.
    Handles = 7,
}

impl Up {
    /// The sense of a frame's kind.
    #[must_use]
    #[inline]
    pub const fn from_kind(kind: u8) -> Option<Self> {
        Some(match kind {
            0 => Self::Value,
            1 => Self::Panicked,
            2 => Self::Undecodable,
            3 => Self::Unencodable,
            4 => Self::End,
            5 => Self::Hello,
            6 => Self::Refused,
            7 => Self::Handles,
            _ => return None,
        })
    }

    /// Does this frame answer an item?
    #[must_use]
    #[inline]
    pub const fn is_outcome(self) -> bool {
        (self as u8) <= Self::Unencodable as u8
    }
}

/// An outcome longer than this has a seal at its end, the number that only parent and worker know: so that bytes which
/// another hand wrote into the pipe in the middle of it do not make another value of it.
pub const UNSEALED: usize = 16 * 1024;

/// Is a whole outcome of one piece?
#[must_use]
#[inline]
pub fn is_sealed(payload: &[u8], nonce: u64) -> bool {
    payload.len() <= UNSEALED || payload.ends_with(&nonce.to_le_bytes())
}

/// An outcome's payload without its seal.
#[must_use]
#[inline]
pub fn unsealed(payload: &[u8]) -> &[u8] {
    if payload.len() > UNSEALED { &payload[..payload.len() - size_of::<u64>()] } else { payload }
}

/// The payload of `Handles`.
#[must_use]
pub fn count(payload: &[u8]) -> Option<usize> {
    let bytes = payload.first_chunk().filter(|_| payload.len() == 4)?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok().filter(|&count| count > 0)
}

/// What a worker is told at birth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The parent's image; another one must not run what follows.
    pub image: u64,
    /// The worker's name.
    pub name: String,
    /// The numbers from the root of the process tree down to this one; nested default names show them.
    pub path: Vec<u64>,
    /// The parent's name.
    pub parent_name: String,
    /// Where to work, as raw bytes of the path.
    pub current_dir: Option<Vec<u8>>,
    /// One call and out (a `Process`), rather than many (a pool's worker).
    pub once: bool,
}

/// A worker's first words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The worker's image.
    pub image: u64,
}

/// Why a worker will not live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What it was doing.
    pub stage: String,
    /// The errno, when the system said no.
    pub errno: Option<i32>,
    /// In words.
    pub text: String,
}

/// What a panic left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PanicRecord {
    /// The panic's message.
    pub message: String,
    /// `file:line:column`, when known.
    pub location: Option<String>,
    /// The stack, rendered where it was; empty when `RUST_BACKTRACE=0` (or `RUST_LIB_BACKTRACE=0`) asked for none.
    pub backtrace: String,
}

/// The fixed head of a [`Down::Call`]; the items' bytes follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallHead {
    /// Where the function's descriptor lies, as its distance from the anchor.
    pub offset: u64,
    /// What types the caller meant.
    pub fingerprint: u64,
    /// How many items follow.
    pub count: u32,
    /// Says which use of the slot this is.
    pub tag: u16,
    /// Which claim word of the shared page counts this call's items.
    pub slot: u8,
    /// [`TIMED`](Self::TIMED), [`LENT`](Self::LENT).
    pub flags: u8,
}

impl CallHead {
    /// Encoded length.
    pub const SIZE: usize = 24;
    /// Note the exact time at which each item starts.
    pub const TIMED: u8 = 1;
    /// What follows is not the items but the place where they are lent: [`Loan`].
    pub const LENT: u8 = 2;

    /// As bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.fingerprint.to_le_bytes());
        out[16..20].copy_from_slice(&self.count.to_le_bytes());
        out[20..22].copy_from_slice(&self.tag.to_le_bytes());
        out[22] = self.slot;
        out[23] = self.flags;
        out
    }

    /// From the front of a payload: the head and the items.
    #[must_use]
    pub fn split(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (head, items) = payload.split_first_chunk::<{ Self::SIZE }>()?;
        let head = Self {
            offset: u64::from_le_bytes(*head[..8].first_chunk()?),
            fingerprint: u64::from_le_bytes(*head[8..16].first_chunk()?),
            count: u32::from_le_bytes(*head[16..20].first_chunk()?),
            tag: u16::from_le_bytes(*head[20..22].first_chunk()?),
            slot: head[22],
            flags: head[23],
        };
        Some((head, items))
    }
}

/// Where in the page's file the items of a call are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loan {
    /// First byte.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
}

impl Loan {
    /// Encoded length.
    pub const SIZE: usize = 16;

    /// As bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..8].copy_from_slice(&self.at.to_le_bytes());
        out[8..].copy_from_slice(&self.len.to_le_bytes());
        out
    }

    /// From what follows a call's head.
    #[must_use]
    pub fn from_bytes(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; Self::SIZE] = payload.try_into().ok()?;
        let (at, len) = payload.split_first_chunk::<8>()?;
        Some(Self { at: u64::from_le_bytes(*at), len: u64::from_le_bytes(*len.first_chunk()?) })
    }
}

/// The payload of an [`Up::End`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Which call ended: the tag it came with.
    pub tag: u16,
    /// How many of its items were answered.
    pub count: u32,
    /// How long they took together.
    pub nanos: u64,
}

impl End {
    /// Encoded length.
    pub const SIZE: usize = 14;

    /// As bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..2].copy_from_slice(&self.tag.to_le_bytes());
        out[2..6].copy_from_slice(&self.count.to_le_bytes());
        out[6..].copy_from_slice(&self.nanos.to_le_bytes());
        out
    }

    /// From a whole payload.
    #[must_use]
    pub fn from_bytes(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; Self::SIZE] = payload.try_into().ok()?;
        Some(Self {
            tag: u16::from_le_bytes(*payload[..2].first_chunk()?),
            count: u32::from_le_bytes(*payload[2..6].first_chunk()?),
            nanos: u64::from_le_bytes(*payload[6..].first_chunk()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn heads_come_back(offset: u64, fingerprint: u64, count: u32, tag: u16, slot: u8, flags: u8, nanos: u64) {
            let head = CallHead { offset, fingerprint, count, tag, slot, flags };
            let mut bytes = head.to_bytes().to_vec();
            bytes.extend_from_slice(b"items");
            prop_assert_eq!(CallHead::split(&bytes), Some((head, &b"items"[..])));
            let end = End { tag, count, nanos };
            prop_assert_eq!(End::from_bytes(&end.to_bytes()), Some(end));
            let loan = Loan { at: offset, len: nanos };
            prop_assert_eq!(Loan::from_bytes(&loan.to_bytes()), Some(loan));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = CallHead::split(&bytes);
            let _ = (End::from_bytes(&bytes), Loan::from_bytes(&bytes));
        }
    }
}
