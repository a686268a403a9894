//! One loop: receive a call, run its items, send their outcomes. No policy: what to run, when and how often is the
//! parent's affair.

use crate::ipc::Page;
use crate::ipc::page::Stage;
use crate::outlet::Outlet;
use crate::panic;
use crate::sys::{fd, image, life};
use crate::task;
use crate::wire::codec;
use crate::wire::frame::Inbox;
use crate::wire::message::{Birth, CallHead, Down, End, Hello, Loan, PROTOCOL, PanicRecord, Refusal, Up};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const UNKNOWN: &str = "the function is not in this worker's image: parent and worker are different builds";

/// A worker that has been given its descriptors and not yet its first message.
#[derive(Debug)]
pub struct Server {
    calls: OwnedFd,
    inbox: Inbox,
    outlet: Outlet,
}

/// Why the serving ended; the number is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Farewell {
    /// The parent closed the calls, or the one call of a `Process` is done.
    Done = 0,
    /// The one call of a `Process` panicked: what a Rust program's `main` would have exited with.
    Panicked = 101,
    /// The parent spoke nonsense, or refused to have us.
    Refused = 125,
}

impl Server {
    /// A server on these two pipes.
    #[must_use]
    pub fn new(calls: OwnedFd, outcomes: OwnedFd, page: &Arc<Page>) -> Self {
        Self { calls, inbox: Inbox::default(), outlet: Outlet::new(outcomes, Arc::clone(page)) }
    }

    /// Waits for the first message; `None` when the parent has gone without one or another message came.
    pub fn birth(&mut self) -> Option<Birth> {
        loop {
            match self.inbox.next().ok()? {
                Some(frame) if Down::from_kind(frame.kind) == Some(Down::Birth) => {
                    return codec::decode(frame.payload).ok();
                }
                Some(_) => return None,
                None => self.receive()?,
            }
        }
    }

    /// Says that this worker will not live, and why.
    pub fn refuse(&mut self, refusal: &Refusal) {
        let _ = self.outlet.send(Up::Refused, |out| codec::encode_into(refusal, out));
        self.outlet.flush();
    }

    /// Says Hello; at once, or together with the one outcome of a worker that lives `once`: the page says that it is born.
    pub fn hello(&mut self, once: bool) {
        let hello = Hello { protocol: PROTOCOL, image: image::id() };
        let _ = self.outlet.send(Up::Hello, |out| codec::encode_into(&hello, out));
        self.outlet.page().set_stage(Stage::Born);
        if !once {
            self.outlet.flush();
        }
    }

    /// Serves calls until the parent closes them, or until the first one is done if `once`.
    pub fn serve(&mut self, once: bool) -> Farewell {
        panic::watch_this_thread();
        loop {
            match self.inbox.next() {
                Ok(Some(frame)) => {
                    let call = match Down::from_kind(frame.kind) {
                        Some(Down::Call) => CallHead::split(frame.payload),
                        Some(Down::Retire) => return Farewell::Done,
                        _ => None,
                    };
                    let Some((head, items)) = call else { return Farewell::Refused };
                    let panicked = run(head, items, &mut self.outlet);
                    if once {
                        // No flush: what is small lies in the ring, and the parent looks there when the process ends.
                        return if panicked { Farewell::Panicked } else { Farewell::Done };
                    }
                    self.outlet.flush();
                }
                Ok(None) => {
                    if self.receive().is_none() {
                        return Farewell::Done;
                    }
                }
                Err(_) => return Farewell::Refused,
            }
        }
    }

    fn receive(&mut self) -> Option<()> {
        let (buffer, wanted) = self.inbox.fill();
        match fd::read(&self.calls, buffer, wanted) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }
}

/// Runs the items of one call; did any of them panic?
fn run(head: CallHead, items: &[u8], outlet: &mut Outlet) -> bool {
    if head.flags & CallHead::LENT == 0 {
        let mut chunk = Chunk::new(head, items, outlet);
        chunk.run_all();
        return chunk.panicked;
    }
    let loan = Loan::from_bytes(items).ok_or(io::ErrorKind::InvalidData.into());
    match loan.and_then(|loan| outlet.page().borrow(loan.at, loan.len)) {
        Ok(lent) => {
            let mut chunk = Chunk::new(head, lent.bytes(), outlet);
            chunk.run_all();
            chunk.panicked
        }
        Err(error) => {
            let mut chunk = Chunk::new(head, &[], outlet);
            chunk.refuse(&format!("large arguments cannot be mapped: {error}"));
            false
        }
    }
}

/// What an item that was begun has come to, should it not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Idle,
    Decoding,
    Running,
    Answering,
}

/// The items of one call, as the function's typed entry sees them.
#[derive(Debug)]
pub struct Chunk<'a> {
    head: CallHead,
    items: &'a [u8],
    outlet: &'a mut Outlet,
    answered: u32,
    step: Step,
    /// The place of the next item is unknown, so the rest is left to the parent.
    lost_place: bool,
    panicked: bool,
}

impl<'a> Chunk<'a> {
    fn new(head: CallHead, items: &'a [u8], outlet: &'a mut Outlet) -> Self {
        Self { head, items, outlet, answered: 0, step: Step::Idle, lost_place: false, panicked: false }
    }

    fn run_all(&mut self) {
        let start = life::now();
        match task::find(self.head.offset, self.head.fingerprint) {
            None => return self.refuse(UNKNOWN),
            Some(entry) => {
                while let Err(record) = panic::catch(|| entry(self)) {
                    self.panic(&record);
                    if self.lost_place {
                        break;
                    }
                }
            }
        }
        self.end(life::now() - start);
    }

    /// Runs nothing: the first item is answered with the reason, and the rest is left to the parent.
    fn refuse(&mut self, reason: &str) {
        if self.claim() {
            self.undecodable(reason);
        }
        self.end(0);
    }

    fn end(&mut self, nanos: u64) {
        let end = End { tag: self.head.tag, count: self.answered, nanos };
        let _ = self.outlet.send(Up::End, |out| {
            out.extend_from_slice(&end.to_bytes());
            Ok(())
        });
    }

    /// Takes the next item, if there is one that is still ours to start.
    #[inline]
    pub fn claim(&mut self) -> bool {
        if self.outlet.page().is_hungry() && self.outlet.is_pending() {
            self.outlet.page().set_hungry(false);
            self.outlet.flush();
        }
        if self.head.flags & CallHead::TIMED != 0 {
            self.outlet.page().set_since(life::now());
        }
        let taken = !self.lost_place && self.outlet.page().take_next(self.head.slot, self.head.tag).is_some();
        if taken {
            self.step = Step::Decoding;
        }
        taken
    }

    /// The claimed item's arguments; `None` when they could not be decoded, which has then been reported.
    #[inline]
    pub fn decode<A: DeserializeOwned>(&mut self) -> Option<A> {
        match codec::decode_next(&mut self.items) {
            Ok(args) => {
                self.step = Step::Running;
                Some(args)
            }
            Err(error) => {
                self.undecodable(&error.to_string());
                None
            }
        }
    }

    /// Answers the claimed item.
    #[inline]
    pub fn answer<R: Serialize>(&mut self, output: &R) {
        self.step = Step::Answering;
        if let Err(error) = self.outlet.send_value(output) {
            self.fault(Up::Unencodable, &error.to_string());
        }
        self.done();
    }

    #[inline]
    fn done(&mut self) {
        self.answered += 1;
        self.step = Step::Idle;
    }

    #[cold]
    fn undecodable(&mut self, reason: &str) {
        self.fault(Up::Undecodable, reason);
        self.lost_place = true;
        self.done();
    }

    fn fault(&mut self, kind: Up, reason: &str) {
        let _ = self.outlet.send(kind, |out| {
            out.extend_from_slice(reason.as_bytes());
            Ok(())
        });
    }

    #[cold]
    fn panic(&mut self, record: &PanicRecord) {
        self.panicked = true;
        match self.step {
            // Between two items only our own code runs; should it ever panic, no item is to blame.
            Step::Idle => {
                self.lost_place = true;
                return;
            }
            Step::Decoding => self.lost_place = true,
            Step::Running | Step::Answering => {}
        }
        let _ = self.outlet.send(Up::Panicked, |out| codec::encode_into(record, out));
        self.done();
    }
}
