//! One loop: receive a call, run its items, send their outcomes. No policy: what to run, when and how often is the
//! parent's affair.

use crate::chunk::Chunk;
use crate::ipc::handoff::{self, Incoming};
use crate::ipc::page::Stage;
use crate::ipc::{Page, keep};
use crate::outlet::Outlet;
use crate::panic;
use crate::sys::{fd, image};
use crate::task;
use crate::wire::codec;
use crate::wire::frame::Inbox;
use crate::wire::message::{Birth, CallHead, Down, Hello, Loan, PROTOCOL, Refusal, Up, count};
use crate::wire::tray::Tray;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const UNKNOWN: &str = "the function is not in this worker's image: parent and worker are different builds";

/// A worker that has been given its descriptors and not yet its first message.
#[derive(Debug)]
pub struct Server {
    calls: OwnedFd,
    inbox: Inbox,
    tray: Arc<Tray>,
    /// What came with the call that is next.
    came: Option<Incoming>,
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
    /// A server on these two pipes and the socket beside them.
    #[must_use]
    pub fn new(calls: OwnedFd, outcomes: OwnedFd, tray: OwnedFd, page: &Arc<Page>) -> Self {
        let tray = Arc::new(Tray::from(tray));
        let outlet = Outlet::new(outcomes, Arc::clone(&tray), Arc::clone(page));
        Self { calls, inbox: Inbox::default(), tray, came: None, outlet }
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
        keep::begin();
        loop {
            match self.inbox.next() {
                Ok(Some(frame)) => {
                    let call = match Down::from_kind(frame.kind) {
                        Some(Down::Call) => CallHead::split(frame.payload),
                        Some(Down::Retire) => return Farewell::Done,
                        Some(Down::Handles) if self.came.is_none() => {
                            let count = count(frame.payload);
                            self.came = count.and_then(|count| self.tray.receive(count, true).ok());
                            if self.came.is_some() {
                                continue;
                            }
                            None
                        }
                        _ => None,
                    };
                    let Some((head, items)) = call else { return Farewell::Refused };
                    let panicked = match self.came.take() {
                        None => run(head, items, &mut self.outlet),
                        Some(came) => handoff::unpack(came, || run(head, items, &mut self.outlet)),
                    };
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
        if keep::has_any() && !fd::readable_within(&self.calls, keep::IDLE) {
            keep::release();
        }
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
        return run_items(head, items, outlet);
    }
    let loan = Loan::from_bytes(items).ok_or(io::ErrorKind::InvalidData.into());
    match loan.and_then(|loan| outlet.page().borrow(loan.at, loan.len)) {
        Ok(lent) => run_items(head, lent.bytes(), outlet),
        Err(error) => {
            Chunk::new(head, &[], outlet).refuse(&format!("large arguments cannot be mapped: {error}"));
            false
        }
    }
}

fn run_items(head: CallHead, items: &[u8], outlet: &mut Outlet) -> bool {
    let mut chunk = Chunk::new(head, items, outlet);
    match task::find(head.offset, head.fingerprint) {
        Some(entry) => chunk.run(entry),
        None => chunk.refuse(UNKNOWN),
    }
    chunk.panicked
}
