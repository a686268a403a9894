//! The ends of a connection, by the types of what they send and receive.

use super::error::{RecvError, SendError, SendErrorKind};
use super::listener::Peer;
use procession_worker::ipc::handoff;
use procession_worker::wire::codec;
use procession_worker::wire::connection::End;
use procession_worker::wire::frame::MAX_PAYLOAD;
use procession_worker::wire::kept;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// The end of a one-way connection at which messages are sent; [`pipe`](crate::pipe) makes both.
///
/// A clone, and what arrives where it was sent to, is another holder of the same end: when the last one is dropped, or its
/// process dies, the receiver has read all, and is told that the connection is closed.
#[doc(alias = "Connection")]
pub struct Sender<T> {
    pub(super) end: End,
    what: PhantomData<fn(T)>,
}

/// The end of a one-way connection at which messages are received; [`pipe`](crate::pipe) makes both.
///
/// Several holders (threads, clones, processes) each receive a part of the messages, each message whole. Two messages of
/// one sender arrive in their order; the long ones, of 64 KiB and more, may be overtaken if several receive at a time.
#[doc(alias = "Connection")]
pub struct Receiver<T> {
    pub(super) end: End,
    what: PhantomData<fn() -> T>,
}

/// One end of a two-way connection: it sends `A` and receives `B`.
///
/// From [`duplex`](crate::duplex), or from [`Listener`](crate::Listener) and [`Client`](crate::Client). It can be cloned
/// and sent to other processes as [`Sender`] and [`Receiver`] can.
pub struct Connection<A, B> {
    pub(super) sender: Sender<A>,
    receiver: Receiver<B>,
    pub(super) peer: Option<Peer>,
}

thread_local! {
    /// Where a message is encoded, kept for the next one unless it was long.
    static DRAFT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl<T> Sender<T> {
    pub(super) const fn new(end: End) -> Self {
        Self { end, what: PhantomData }
    }

    fn send_until(&self, value: T, deadline: Option<Instant>) -> Result<(), SendError<T>>
    where
        T: Serialize,
    {
        let mut draft = kept::kept(&DRAFT);
        draft.clear();
        let (encoded, handles) = handoff::pack_for::<T, _>(|| codec::encode_into(&value, &mut draft));
        let sent = match encoded {
            Ok(()) => self.end.send(&draft, &handles, deadline).map_err(SendErrorKind::from),
            Err(error) => Err(SendErrorKind::Encode(error.to_string().into())),
        };
        kept::keep(&DRAFT, draft, kept::KEPT);
        sent.map_err(|kind| SendError { kind, value })
    }

    /// Sends one message; waits for room when the receiver is slow.
    ///
    /// Some messages of less than 64 KiB fit into the connection, until they take up about 200 KiB; for a longer one this waits until
    /// a receiver has taken it, and until then it needs its length once more in memory. A message arrives whole or not at all, whoever
    /// is killed.
    ///
    /// # Errors
    /// No receiver is left; the value cannot be encoded; the receiver did not take the message; or what the system says. The error
    /// has the value, and nothing of it has arrived.
    pub fn send(&self, value: T) -> Result<(), SendError<T>>
    where
        T: Serialize,
    {
        self.send_until(value, None)
    }

    /// [`send`](Self::send) within a time limit.
    ///
    /// # Errors
    /// As `send`, or [`SendErrorKind::Full`] at the limit: then, too, nothing of it arrives.
    pub fn send_timeout(&self, value: T, limit: Duration) -> Result<(), SendError<T>>
    where
        T: Serialize,
    {
        self.send_until(value, Instant::now().checked_add(limit))
    }

    /// [`send`](Self::send) if there is room at once. For a message of 64 KiB and more there is only if a receiver takes it this instant:
    /// give it a time limit instead.
    ///
    /// # Errors
    /// As `send`, or [`SendErrorKind::Full`].
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>>
    where
        T: Serialize,
    {
        self.send_until(value, Some(Instant::now()))
    }

    /// Sends bytes as they are, for [`recv_bytes`](Receiver::recv_bytes) at the other end.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError> {
        Ok(self.end.send(bytes, &[], None)?)
    }

    /// [`send_bytes`](Self::send_bytes) within a time limit.
    ///
    /// # Errors
    /// As [`send_timeout`](Self::send_timeout).
    pub fn send_bytes_timeout(&self, bytes: &[u8], limit: Duration) -> Result<(), SendError> {
        Ok(self.end.send(bytes, &[], Instant::now().checked_add(limit))?)
    }
}

impl<T> Receiver<T> {
    pub(super) const fn new(end: End) -> Self {
        Self { end, what: PhantomData }
    }

    fn recv_until(&self, deadline: Option<Instant>) -> Result<Option<T>, RecvError>
    where
        T: DeserializeOwned,
    {
        let received = self.end.receive(MAX_PAYLOAD, deadline, |bytes, came| {
            let trouble = came.trouble();
            handoff::unpack(came, || codec::decode(&bytes))
                .map_err(|error| RecvError::decoding(&error, trouble))
        });
        received?.transpose()
    }

    fn recv_bytes_until(&self, deadline: Option<Instant>) -> Result<Option<Vec<u8>>, RecvError> {
        Ok(self.end.receive(MAX_PAYLOAD, deadline, |bytes, _| bytes.into())?)
    }

    /// Receives the next message; `None` when all have been received and no sender is left.
    ///
    /// # Errors
    /// It is no `T`, or its descriptors found no place here: then it is gone, and the next one is as good as ever. Or what the
    /// system says.
    pub fn recv(&self) -> Result<Option<T>, RecvError>
    where
        T: DeserializeOwned,
    {
        self.recv_until(None)
    }

    /// [`recv`](Self::recv) within a time limit.
    ///
    /// # Errors
    /// As `recv`, or [`RecvError::Empty`] at the limit. No message is ever begun and not finished.
    pub fn recv_timeout(&self, limit: Duration) -> Result<Option<T>, RecvError>
    where
        T: DeserializeOwned,
    {
        self.recv_until(Instant::now().checked_add(limit))
    }

    /// [`recv`](Self::recv) if a message is here.
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn try_recv(&self) -> Result<Option<T>, RecvError>
    where
        T: DeserializeOwned,
    {
        self.recv_until(Some(Instant::now()))
    }

    /// Receives the next message as bytes: as `send_bytes` sent them, or the encoding of a value. Descriptors in it are closed.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_bytes(&self) -> Result<Option<Vec<u8>>, RecvError> {
        self.recv_bytes_until(None)
    }

    /// [`recv_bytes`](Self::recv_bytes) within a time limit.
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_bytes_timeout(&self, limit: Duration) -> Result<Option<Vec<u8>>, RecvError> {
        self.recv_bytes_until(Instant::now().checked_add(limit))
    }

    /// Receives the next message into the beginning of `buffer`, and says how long it is.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), or [`RecvError::TooShort`]: the message is in the error.
    #[doc(alias = "BufferTooShort")]
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<Option<usize>, RecvError> {
        let received = self.end.receive(MAX_PAYLOAD, None, |bytes, _| match buffer.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            None => Err(RecvError::TooShort { message: bytes.into() }),
        });
        received?.transpose()
    }

    /// Is there a message (or the end of all) within that time? `Duration::ZERO` only looks. Another holder may take it first.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll(&self, limit: Duration) -> std::io::Result<bool> {
        Ok(!super::wait(&[self], Some(limit))?.is_empty())
    }

    /// The messages until the end; after an error come the next ones.
    pub fn iter(&self) -> impl Iterator<Item = Result<T, RecvError>> + '_
    where
        T: DeserializeOwned,
    {
        std::iter::from_fn(|| self.recv().transpose())
    }
}

impl<A, B> Connection<A, B> {
    pub(super) fn new(end: End, peer: Option<Peer>) -> Self {
        Self { sender: Sender::new(end.clone()), receiver: Receiver::new(end), peer }
    }

    /// Who connected, or for a client who listens, when it came about; `None` unless that was by name.
    #[must_use]
    pub const fn peer(&self) -> Option<Peer> {
        self.peer
    }

    /// As [`Sender::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, value: A) -> Result<(), SendError<A>>
    where
        A: Serialize,
    {
        self.sender.send(value)
    }

    /// As [`Sender::send_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_timeout(&self, value: A, limit: Duration) -> Result<(), SendError<A>>
    where
        A: Serialize,
    {
        self.sender.send_timeout(value, limit)
    }

    /// As [`Sender::try_send`].
    ///
    /// # Errors
    /// As there.
    pub fn try_send(&self, value: A) -> Result<(), SendError<A>>
    where
        A: Serialize,
    {
        self.sender.try_send(value)
    }

    /// As [`Sender::send_bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError> {
        self.sender.send_bytes(bytes)
    }

    /// As [`Sender::send_bytes_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_bytes_timeout(&self, bytes: &[u8], limit: Duration) -> Result<(), SendError> {
        self.sender.send_bytes_timeout(bytes, limit)
    }

    /// As [`Receiver::recv`].
    ///
    /// # Errors
    /// As there.
    pub fn recv(&self) -> Result<Option<B>, RecvError>
    where
        B: DeserializeOwned,
    {
        self.receiver.recv()
    }

    /// As [`Receiver::recv_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_timeout(&self, limit: Duration) -> Result<Option<B>, RecvError>
    where
        B: DeserializeOwned,
    {
        self.receiver.recv_timeout(limit)
    }

    /// As [`Receiver::try_recv`].
    ///
    /// # Errors
    /// As there.
    pub fn try_recv(&self) -> Result<Option<B>, RecvError>
    where
        B: DeserializeOwned,
    {
        self.receiver.try_recv()
    }

    /// As [`Receiver::recv_bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_bytes(&self) -> Result<Option<Vec<u8>>, RecvError> {
        self.receiver.recv_bytes()
    }

    /// As [`Receiver::recv_bytes_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_bytes_timeout(&self, limit: Duration) -> Result<Option<Vec<u8>>, RecvError> {
        self.receiver.recv_bytes_timeout(limit)
    }

    /// As [`Receiver::recv_bytes_into`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<Option<usize>, RecvError> {
        self.receiver.recv_bytes_into(buffer)
    }

    /// As [`Receiver::poll`].
    ///
    /// # Errors
    /// As there.
    pub fn poll(&self, limit: Duration) -> std::io::Result<bool> {
        self.receiver.poll(limit)
    }

    /// As [`Receiver::iter`].
    pub fn iter(&self) -> impl Iterator<Item = Result<B, RecvError>> + '_
    where
        B: DeserializeOwned,
    {
        self.receiver.iter()
    }
}
