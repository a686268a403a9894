//! Descriptors in messages: set aside while a value is encoded, and found again while it is decoded.
//!
//! A type that stands on a descriptor [`give`]s it in its `Serialize` and [`take`]s it in its `Deserialize`, in the same
//! order. Who encodes a message [`pack`]s, and sends what was set aside over the Unix socket beside its channel; who decodes
//! it [`unpack`]s with what came. Outside of such a message both are errors: no file and no other format can carry
//! a descriptor.

use crate::sys::{EMFILE, ENFILE};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A descriptor on its way out: its giver may go on using it, and it may be sent more than once.
pub type Handle = Arc<OwnedFd>;

/// So many descriptors may go with one message. A full socket says that it has room again when three quarters of it are
/// free, and a receiver takes what it was told of: one message must not fill more than a quarter.
pub const MOST: usize = 32 * 253;

/// The descriptors that came with a message.
#[derive(Debug, Default)]
pub struct Incoming {
    fds: VecDeque<OwnedFd>,
    /// Why there are fewer than there should be.
    trouble: Option<i32>,
}

impl Incoming {
    /// All of them; fewer than were sent if there was `trouble`, an errno.
    #[must_use]
    pub fn new(fds: Vec<OwnedFd>, trouble: Option<i32>) -> Self {
        Self { fds: fds.into(), trouble }
    }

    /// Why there are fewer than there should be: an errno.
    #[must_use]
    pub const fn trouble(&self) -> Option<i32> {
        self.trouble
    }
}

/// Why a descriptor cannot travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandoffError {
    /// The value is not being encoded or decoded by a channel of this crate.
    NoChannel,
    /// More than [`MOST`] in one message.
    TooMany,
    /// The message came with fewer descriptors than its bytes ask for.
    Missing,
    /// They could not be sent or received: an errno.
    Lost(i32),
}

impl fmt::Display for HandoffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoChannel => f.write_str(
                "an open descriptor can only travel as an argument, a result, or an item of a queue or connection of procession",
            ),
            Self::TooMany => write!(f, "more than {MOST} descriptors in one message; send them in several"),
            Self::Missing => f.write_str("the message came without the descriptor that belongs here"),
            Self::Lost(errno) => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, "the message's descriptors did not arrive: {error}")?;
                if matches!(*errno, EMFILE | ENFILE) {
                    f.write_str("; close some, or raise the limit on open files (ulimit -n)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for HandoffError {}

thread_local! {
    static OUTGOING: RefCell<Option<Vec<Handle>>> = const { RefCell::new(None) };
    static INCOMING: RefCell<Option<Incoming>> = const { RefCell::new(None) };
}

/// What was there before a message within a message (an item's `Serialize` may well use a queue), put back at the end.
struct Outer<T: 'static>(&'static std::thread::LocalKey<RefCell<Option<T>>>, Option<T>);

impl<T> Outer<T> {
    fn set_aside(place: &'static std::thread::LocalKey<RefCell<Option<T>>>, inner: Option<T>) -> Self {
        Self(place, place.replace(inner))
    }
}

impl<T> Drop for Outer<T> {
    fn drop(&mut self) {
        // What is left of the inner one is dropped here, outside the cell.
        let _inner = self.0.replace(self.1.take());
    }
}

/// Runs `encode`; what it gave comes second.
pub fn pack<R>(encode: impl FnOnce() -> R) -> (R, Vec<Handle>) {
    let outer = Outer::set_aside(&OUTGOING, Some(Vec::new()));
    let result = encode();
    let given = OUTGOING.take().unwrap_or_default();
    drop(outer);
    (result, given)
}

/// [`pack`] for the encoding of a `T`, at no cost if a `T` owns nothing and so no descriptor either.
#[inline]
pub fn pack_for<T, R>(encode: impl FnOnce() -> R) -> (R, Vec<Handle>) {
    if std::mem::needs_drop::<T>() { pack(encode) } else { (encode(), Vec::new()) }
}

/// Runs `decode`, which finds `came`; what it does not take is closed.
pub fn unpack<R>(came: Incoming, decode: impl FnOnce() -> R) -> R {
    let _outer = Outer::set_aside(&INCOMING, Some(came));
    decode()
}

/// Sets a descriptor aside, to go with the message that is being encoded.
///
/// # Errors
/// No message is being encoded on this thread, or it has too many.
pub fn give(handle: Handle) -> Result<(), HandoffError> {
    OUTGOING.with_borrow_mut(|outgoing| match outgoing {
        None => Err(HandoffError::NoChannel),
        Some(given) if given.len() == MOST => Err(HandoffError::TooMany),
        Some(given) => {
            given.push(handle);
            Ok(())
        }
    })
}

/// Takes the next descriptor of the message that is being decoded.
///
/// # Errors
/// No message is being decoded on this thread, or it came with fewer.
pub fn take() -> Result<OwnedFd, HandoffError> {
    INCOMING.with_borrow_mut(|incoming| match incoming {
        None => Err(HandoffError::NoChannel),
        Some(came) => {
            came.fds.pop_front().ok_or(came.trouble.map_or(HandoffError::Missing, HandoffError::Lost))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    fn some_fd() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_is_given_is_taken_in_its_order() {
        let (first, second) = (Arc::new(some_fd()), Arc::new(some_fd()));
        let numbers = [first.as_raw_fd(), second.as_raw_fd()];
        let ((), given) = pack(|| {
            give(first).unwrap();
            give(second).unwrap();
        });
        let came = given.into_iter().map(|handle| Arc::into_inner(handle).unwrap()).collect();
        unpack(Incoming::new(came, None), || {
            assert_eq!(numbers, [take().unwrap().as_raw_fd(), take().unwrap().as_raw_fd()]);
            assert_eq!(take().unwrap_err(), HandoffError::Missing);
        });
    }

    #[test]
    fn a_message_within_a_message_keeps_to_itself() {
        let ((), outer) = pack(|| {
            give(Arc::new(some_fd())).unwrap();
            let ((), inner) = pack(|| give(Arc::new(some_fd())).unwrap());
            assert_eq!(inner.len(), 1);
            give(Arc::new(some_fd())).unwrap();
        });
        assert_eq!(outer.len(), 2);
        unpack(Incoming::new(vec![some_fd()], None), || {
            unpack(Incoming::new(vec![], Some(EMFILE)), || {
                assert_eq!(take().unwrap_err(), HandoffError::Lost(EMFILE));
            });
            take().unwrap();
        });
    }

    #[test]
    fn a_panic_on_the_way_leaves_nothing_behind() {
        let panicked = std::panic::catch_unwind(|| {
            pack(|| {
                give(Arc::new(some_fd())).unwrap();
                panic!("on purpose");
            })
        });
        assert!(panicked.is_err());
        assert_eq!(give(Arc::new(some_fd())).unwrap_err(), HandoffError::NoChannel);
        assert_eq!(take().unwrap_err(), HandoffError::NoChannel);
    }
}
