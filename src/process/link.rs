//! One worker, as its parent holds it: the pipes, the page, the descriptor of the process. It moves bytes and knows
//! frames; what they mean is told elsewhere.

use super::body::Body;
use super::call::Parcel;
use crate::Exit;
use crate::sys::SIGABRT;
use procession_worker::ipc::Page;
use procession_worker::ipc::handoff::{Handle, Incoming};
use procession_worker::ipc::page::{BATCH, LOAN, RING};
use procession_worker::sys::fd;
use procession_worker::wire::Tray;
use procession_worker::wire::codec;
use procession_worker::wire::frame::{FrameError, Inbox, push_header};
use procession_worker::wire::message::{CallHead, Down, Loan, PanicRecord, is_sealed};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Payloads over this size are written from where they lie rather than copied together.
const COPIED: usize = 16 * 1024;

enum Outgoing {
    Copied(Vec<u8>),
    Lent(Parcel),
    /// Not bytes: descriptors for the tray.
    Handles(Vec<Handle>),
}

impl Outgoing {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Lent(parcel) => parcel.bytes(),
            Self::Handles(_) => &[],
        }
    }
}

/// What outlives a look at it: kept open while a caller waits, even if the worker is dismissed meanwhile.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) outcomes: OwnedFd,
    pub(crate) calls: File,
    pub(crate) tray: Tray,
    pub(crate) process: Body,
}

/// What a call goes down by: its bytes, and its descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Pipe,
    Tray,
}

impl Ends {
    pub(crate) fn way(&self, way: Way) -> BorrowedFd<'_> {
        match way {
            Way::Pipe => self.calls.as_fd(),
            Way::Tray => self.tray.as_fd(),
        }
    }
}

/// What came of asking the pipe for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes,
    Nothing,
    /// The worker has closed its end, dead or alive.
    Closed,
}

/// One worker.
pub(crate) struct Link {
    pub(crate) name: Arc<str>,
    pub(crate) ends: Arc<Ends>,
    pub(crate) page: Page,
    pub(crate) inbox: Inbox,
    /// Our own copy of the worker's end: writing to a worker that has died is then no SIGPIPE, whatever the program
    /// does about that signal. Its death is told by the pidfd.
    _calls_read: OwnedFd,
    outgoing: VecDeque<Outgoing>,
    /// What calls that have not ended were lent, by tag.
    loans: Vec<(u16, Range<u64>)>,
    /// An emptied buffer, so that a small call costs no allocation.
    spare: Vec<u8>,
    /// How much of the first of them is written.
    written: usize,
    /// How much of the outcome stream is here, or was.
    received: u64,
    /// What of that came from the ring and is still to come by the pipe.
    ahead: Vec<u8>,
    /// Where the stream stopped making sense: from there on only the shared ring is believed.
    sense_ends: Option<u64>,
    dead: bool,
    exit: Option<Exit>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.name).field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(
        name: Arc<str>,
        ends: Ends,
        calls_read: OwnedFd,
        page: Page,
        greeting: Vec<u8>,
    ) -> Self {
        Self {
            name,
            ends: Arc::new(ends),
            page,
            inbox: Inbox::default(),
            _calls_read: calls_read,
            outgoing: VecDeque::from([Outgoing::Copied(greeting)]),
            loans: Vec::new(),
            spare: Vec::new(),
            written: 0,
            received: 0,
            ahead: Vec::new(),
            sense_ends: None,
            dead: false,
            exit: None,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.ends.process.pid()
    }

    /// Lines up a call with its items.
    pub(crate) fn call(&mut self, mut head: CallHead, mut items: Parcel) {
        let handles = std::mem::take(&mut items.handles);
        if !handles.is_empty() {
            let count = u32::try_from(handles.len()).unwrap_or(u32::MAX);
            self.frame(Down::Handles, 4).extend_from_slice(&count.to_le_bytes());
            self.outgoing.push_back(Outgoing::Handles(handles));
        }
        if items.range.len() >= LOAN
            && let Some(loan) = self.lend(head.tag, items.bytes())
        {
            head.flags |= CallHead::LENT;
            let frame = self.frame(Down::Call, CallHead::SIZE + Loan::SIZE);
            frame.extend_from_slice(&head.to_bytes());
            frame.extend_from_slice(&loan.to_bytes());
            return;
        }
        let frame = self.frame(Down::Call, CallHead::SIZE + items.range.len());
        frame.extend_from_slice(&head.to_bytes());
        if items.range.len() > COPIED {
            self.outgoing.push_back(Outgoing::Lent(items));
        } else {
            frame.extend_from_slice(items.bytes());
        }
    }

    /// Lines up the order to end.
    pub(crate) fn retire(&mut self) {
        self.frame(Down::Retire, 0);
    }

    /// Where to put the payload of a frame whose header has been put there.
    fn frame(&mut self, kind: Down, length: usize) -> &mut Vec<u8> {
        if !matches!(self.outgoing.back(), Some(Outgoing::Copied(bytes)) if bytes.len() < 4 * COPIED) {
            self.outgoing.push_back(Outgoing::Copied(std::mem::take(&mut self.spare)));
        }
        let Some(Outgoing::Copied(bytes)) = self.outgoing.back_mut() else {
            unreachable!("one was put there just now")
        };
        push_header(bytes, kind as u8, length);
        bytes
    }

    /// Puts large arguments into the page's file. `None` if there is no room for them there: the pipe has always room.
    fn lend(&mut self, tag: u16, bytes: &[u8]) -> Option<Loan> {
        let behind = self.loans.last().map_or(0, |(_, loan)| loan.end);
        let loan = self.page.lend(behind, bytes).ok()?;
        self.loans.push((tag, loan.clone()));
        Some(Loan { at: loan.start, len: loan.end - loan.start })
    }

    /// A call has ended: what it was lent is not needed any more.
    pub(crate) fn ended(&mut self, tag: u16) {
        if let Some(at) = self.loans.iter().position(|(lent, _)| *lent == tag) {
            let (_, loan) = self.loans.remove(at);
            self.page.take_loan_back(loan);
        }
    }

    /// What has to take more before the rest can be written, if there is a rest.
    pub(crate) fn waits_for(&self) -> Option<Way> {
        Some(match self.outgoing.front()? {
            Outgoing::Handles(_) => Way::Tray,
            _ => Way::Pipe,
        })
    }

    /// Writes what the pipe and the tray take. True when nothing is left to write.
    pub(crate) fn flush(&mut self) -> bool {
        while !self.outgoing.is_empty() {
            if let Some(Outgoing::Handles(handles)) = self.outgoing.front_mut() {
                match self.ends.tray.send(handles) {
                    Ok(sent) if sent < handles.len() => {
                        handles.drain(..sent);
                        return false;
                    }
                    Ok(_) => drop(self.outgoing.pop_front()),
                    Err(_) => self.outgoing.clear(),
                }
                continue;
            }
            let mut slices = [IoSlice::new(&[]); 8];
            let mut count = 0;
            let bytes = self.outgoing.iter().take_while(|part| !matches!(part, Outgoing::Handles(_)));
            for (slot, part) in slices.iter_mut().zip(bytes) {
                let skip = if count == 0 { self.written } else { 0 };
                *slot = IoSlice::new(&part.bytes()[skip..]);
                count += 1;
            }
            match (&self.ends.calls).write_vectored(&slices[..count]) {
                Ok(n) => self.advance(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // Nobody can read it any more; that the worker is gone is told by its pidfd.
                Err(_) => self.outgoing.clear(),
            }
        }
        true
    }

    fn advance(&mut self, mut n: usize) {
        while let Some(first) = self.outgoing.front().filter(|part| !matches!(part, Outgoing::Handles(_))) {
            let left = first.bytes().len() - self.written;
            if n < left {
                self.written += n;
                return;
            }
            n -= left;
            self.written = 0;
            if let Some(Outgoing::Copied(mut bytes)) = self.outgoing.pop_front()
                && bytes.capacity() <= 8 * COPIED
            {
                bytes.clear();
                self.spare = bytes;
            }
        }
    }

    /// Reads once what the pipe has.
    pub(crate) fn receive(&mut self) -> Received {
        let (buffer, wanted) = self.inbox.fill();
        match fd::read(&self.ends.outcomes, buffer, wanted) {
            Ok(0) => Received::Closed,
            Ok(n) => {
                self.arrived(n);
                if self.sense_ends.is_some() {
                    self.distrust();
                }
                Received::Bytes
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }

    /// The pipe has brought `n` bytes more; those that are known already are dropped again.
    fn arrived(&mut self, n: usize) {
        let again = self.ahead.len().min(n);
        let mut same = true;
        if again > 0 {
            let pending = self.inbox.pending();
            same = pending[pending.len() - n..].starts_with(&self.ahead[..again]);
            self.inbox.forget(n, again);
            self.ahead.drain(..again);
        }
        self.received += (n - again) as u64;
        if !same {
            // It is not what the worker had finished: another hand wrote into its pipe.
            self.distrust();
        }
    }

    /// Takes the descriptors of the next outcome, which are here.
    pub(crate) fn receive_handles(&self, count: usize) -> Result<Incoming, Arc<str>> {
        self.ends.tray.receive(count, false).map_err(|error| {
            format!("it sent bytes that make no sense: they ask for descriptors that are not there ({error})")
                .into()
        })
    }

    /// Looks at what the worker has finished and not written yet; the pipe is to be read empty first.
    pub(crate) fn look_ahead(&mut self) {
        if self.sense_ends.is_none() {
            let buffer = self.inbox.fill().0;
            let more = self.page.peek(self.received, buffer);
            self.ahead.extend_from_slice(&buffer[buffer.len() - more..]);
            self.received += more as u64;
        }
    }

    /// How much of the stream has been taken as whole frames.
    fn taken(&self) -> u64 {
        self.received - self.inbox.pending().len() as u64
    }

    /// What has arrived and is not taken is no part of the stream, and neither is what follows: another hand wrote it.
    pub(crate) fn distrust(&mut self) {
        self.sense_ends = self.sense_ends.or(Some(self.taken()));
        self.inbox.consume(self.inbox.pending().len());
    }

    /// May the next frame, as far as it has arrived, be the worker's? All but what is too large for the ring is finished before
    /// it is written, so a small frame that ends beyond what is finished is none.
    pub(crate) fn makes_sense(&self) -> bool {
        match self.inbox.announced() {
            _ if self.dead => true,
            _ if self.sense_ends.is_some() => false,
            Some(whole) if whole <= BATCH => self.taken().saturating_add(whole) <= self.page.committed(),
            _ => true,
        }
    }

    /// Is the frame that lies `at` bytes behind what is taken one that the worker has not finished? A large one is finished
    /// after it is written; until then another hand may have put bytes in between.
    pub(crate) fn is_unfinished(&self, at: usize, whole: u64) -> bool {
        whole > BATCH && self.taken().saturating_add(at as u64).saturating_add(whole) > self.page.committed()
    }

    /// Is a whole outcome of one piece?
    pub(crate) fn is_sealed(&self, payload: &[u8]) -> bool {
        is_sealed(payload, self.page.nonce())
    }

    /// After the process has died: reads what it had written to the pipe.
    pub(crate) fn receive_the_rest(&mut self) {
        self.dead = true;
        // What is there now is all that the worker wrote; a child of its own that holds the pipe may go on for ever.
        let mut left = fd::unread(&self.ends.outcomes).unwrap_or(0);
        while left > 0 {
            let (buffer, wanted) = self.inbox.fill();
            match fd::read(&self.ends.outcomes, buffer, wanted.min(left)) {
                Ok(n) if n > 0 => {
                    self.arrived(n);
                    left -= n.min(left);
                }
                _ => break,
            }
        }
        if self.sense_ends.is_some() {
            self.distrust();
        }
    }

    /// And then, when all whole frames are taken: what it had finished and is not among them, from the shared ring. False
    /// if the ring makes no sense.
    ///
    /// It is counted from the last whole frame and not from the last byte. What a torn frame has of finished bytes is in
    /// the ring as well, and what it has of others' is not.
    pub(crate) fn receive_the_ring(&mut self) -> bool {
        let taken = self.sense_ends.take().unwrap_or(self.taken());
        self.inbox.consume(self.inbox.pending().len());
        let committed = self.page.committed();
        match committed.checked_sub(taken) {
            // A large outcome goes around the ring, and it died before it could say that this one is finished.
            None => true,
            Some(missing) if missing <= RING as u64 => {
                self.page.get(taken, committed, self.inbox.fill().0);
                self.received = committed;
                true
            }
            Some(_) => false,
        }
    }

    /// How the process ended, once it has; taken from the system once, and remembered.
    pub(crate) fn reap(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            self.exit = self.ends.process.reap();
        }
        self.exit
    }

    /// The panic that aborted the process, if that is how it ended.
    pub(crate) fn last_words(&self) -> Option<PanicRecord> {
        if self.exit != Some(Exit::Signal(SIGABRT)) {
            return None;
        }
        codec::decode(&self.page.words()?).ok()
    }

    /// What is wrong with the bytes, in words.
    pub(crate) fn nonsense(error: &FrameError) -> Arc<str> {
        format!("it sent bytes that make no sense: {error}").into()
    }
}
