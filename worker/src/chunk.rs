//! The items of one call, as the function's typed entry sees them: claim, decode, answer.

use crate::outlet::Outlet;
use crate::panic;
use crate::sys::life;
use crate::wire::codec;
use crate::wire::message::{CallHead, End, PanicRecord, Up};
use serde::Serialize;
use serde::de::DeserializeOwned;

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
    pub(crate) panicked: bool,
}

impl<'a> Chunk<'a> {
    pub(crate) fn new(head: CallHead, items: &'a [u8], outlet: &'a mut Outlet) -> Self {
        Self { head, items, outlet, answered: 0, step: Step::Idle, lost_place: false, panicked: false }
    }

    /// Calls the function's entry until every item is answered that may be.
    pub(crate) fn run(&mut self, entry: fn(&mut Chunk<'_>)) {
        let start = life::now();
        while let Err(record) = panic::catch(|| entry(self)) {
            self.panic(&record);
            if self.lost_place {
                break;
            }
        }
        self.end(life::now() - start);
    }

    /// Runs nothing: the first item is answered with the reason, and the rest is left to the parent.
    pub(crate) fn refuse(&mut self, reason: &str) {
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
        if self.head.flags & CallHead::TIMED != 0 {
            self.outlet.page().set_since(life::now());
        }
        let taken = !self.lost_place && self.outlet.page().take_next(self.head.slot, self.head.tag).is_some();
        if taken {
            self.step = Step::Decoding;
            // After the claim: its full barrier lies between what we finished and this look, as the parent's lies between
            // its asking and its look at what is finished, so one of us sees the other.
            if self.outlet.page().is_hungry() && self.outlet.is_pending() {
                self.outlet.page().set_hungry(false);
                self.outlet.flush();
            }
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
