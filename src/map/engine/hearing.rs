//! What programs say, and what becomes of it.

use super::{CHUNK, ERR, Engine, OUT};
use crate::cause::{Cause, Loss};
use crate::keeper::Running;
use crate::map::inbox::Event;
use crate::map::seat::Product;
use crate::map::state::Time;
use crate::map::{Mode, Piece, Print};
use crate::sys::poller::Interest;
use procession_worker::sys::fd;
use std::time::SystemTime;

/// Of a line longer than this parts are passed on, before it would go to disk.
const LONGEST: usize = 128 << 10;

impl Engine {
    /// A pipe of the program at work has something, which is read unless what came of it before has not left the house.
    pub(super) fn listen(&mut self, slot: usize, token: u64, is_err: bool) {
        if self.plan.print == Print::Lines && self.outbox.is_full() {
            self.listen_to(token, Interest::Nothing);
            self.muted.push(token);
            // There may be room by now, and nobody who tells.
            if !self.outbox.is_full() {
                self.inbox.push(Event::Room);
            }
        } else {
            self.read(slot, is_err, false);
        }
    }

    /// There is room again.
    pub(super) fn unmute(&mut self) {
        for token in std::mem::take(&mut self.muted) {
            self.listen_to(token, Interest::Read);
        }
    }

    fn listen_to(&self, token: u64, interest: Interest) {
        let seat = usize::try_from(token / 8 - 1).ok().and_then(|slot| self.seats.get(slot));
        let turn = (0..2).find(|&turn| token % 8 == OUT[turn] || token % 8 == ERR[turn]).unwrap_or(0);
        if let Some(channel) = seat.and_then(|seat| seat.channel(turn, token % 8 == ERR[turn])) {
            self.inbox.poller.modify(&channel.read, interest, token);
        }
    }

    /// Reads what a program has said, once or until there is nothing more.
    pub(super) fn read(&mut self, slot: usize, is_err: bool, all: bool) {
        loop {
            let Some(seat) = self.seats.get_mut(slot) else { return };
            let berth = seat.now();
            let Some(channel) = (if is_err { &berth.err } else { &berth.out }) else { return };
            self.chunk.clear();
            let n = match fd::read(&channel.read, &mut self.chunk, CHUNK) {
                Ok(n) => n,
                Err(_) => return,
            };
            if n == 0 {
                return;
            }
            self.said(slot, is_err);
            if !all || n < CHUNK / 16 {
                return;
            }
        }
    }

    /// A program has said what is in the chunk.
    fn said(&mut self, slot: usize, is_err: bool) {
        let chunk = std::mem::take(&mut self.chunk);
        let seat = &mut self.seats[slot];
        if self.plan.mode.is_long_lived() && !is_err {
            seat.said.extend_from_slice(&chunk);
            self.answers(slot);
        } else {
            let product = &mut seat.now_mut().product;
            let room = self.plan.output_limit.map_or(u64::MAX, |limit| {
                limit.saturating_sub(product.out.len() + product.err.len() + product.passed)
            });
            let fits = chunk.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let spill = if is_err { &mut product.err } else { &mut product.out };
            let pushed = spill.push(&chunk[..fits]);
            if fits < chunk.len() {
                let now = self.now();
                self.state.doom(slot, Cause::OutputLimit, now);
            }
            if let Err(error) = pushed {
                let now = self.now();
                self.fail(crate::map::MapError::Output(error), now);
            }
            if self.plan.print == Print::Lines {
                self.whole_lines(slot, is_err, false);
            }
        }
        self.chunk = chunk;
    }

    /// Passes on what a task has said, as far as its lines are whole, or to its end.
    pub(super) fn whole_lines(&mut self, slot: usize, is_err: bool, to_end: bool) {
        let Some((task, _)) = self.state.at_work(slot) else { return };
        let (seq, name) = (task.seq + 1, task.bytes.clone());
        let product = &mut self.seats[slot].now_mut().product;
        let (passed, torn) = (&mut product.passed, &mut product.torn[usize::from(is_err)]);
        let spill = if is_err { &mut product.err } else { &mut product.out };
        let memory = spill.memory();
        let len = match memory.iter().rposition(|b| *b == b'\n') {
            _ if to_end => memory.len(),
            Some(at) => at + 1,
            None if memory.len() > LONGEST => memory.len(),
            None => 0,
        };
        if len == 0 && !(to_end && *torn) {
            return;
        }
        let mut bytes: Vec<u8> = memory.drain(..len).collect();
        *passed += len as u64;
        if to_end && bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        *torn = bytes.last() != Some(&b'\n');
        self.pieces.push(Piece { seq, task: name, slot: slot + 1, is_err, bytes });
    }

    /// Takes the answers of a long-lived worker out of what it has said.
    fn answers(&mut self, slot: usize) {
        let mut said = std::mem::take(&mut self.seats[slot].said);
        let mut from = self.seats[slot].searched;
        let mut begin = 0;
        let now = self.now();
        while let Some(at) = said[from..].iter().position(|byte| *byte == b'\n') {
            let line = &said[begin..=from + at];
            (begin, from) = (from + at + 1, from + at + 1);
            if !self.answer(slot, line, now) {
                break;
            }
        }
        // A long line comes in many pieces, and is not moved for each.
        said.drain(..begin);
        let seat = &mut self.seats[slot];
        seat.searched = said.len();
        seat.said = said;
        let over = self.plan.output_limit.is_some_and(|limit| seat.said.len() as u64 > limit);
        if over {
            self.state.doom(slot, Cause::OutputLimit, now);
        }
    }

    /// One line from a worker; false if it makes no sense: then the worker's time is over.
    fn answer(&mut self, slot: usize, line: &[u8], now: Time) -> bool {
        let (at, cause, out, err) = match self.plan.mode {
            Mode::Json => match crate::map::json::answer(line) {
                Some(crate::map::json::Answer::Beat) => return true,
                Some(crate::map::json::Answer::Ok(id, out)) => {
                    (self.state.place_of(slot, id), Cause::Ok, out, Vec::new())
                }
                Some(crate::map::json::Answer::Error(id, text, retry)) => {
                    let at = self.state.place_of(slot, id);
                    at.into_iter().for_each(|at| self.state.advise(slot, at, retry));
                    (at, Cause::Exit(1), Vec::new(), text)
                }
                None => (None, Cause::Ok, Vec::new(), Vec::new()),
            },
            _ => (self.state.at_work(slot).map(|_| 0), Cause::Ok, line.to_vec(), Vec::new()),
        };
        let Some(at) = at else {
            // It speaks when nobody has asked.
            self.state.doom(slot, Cause::Lost(Loss::Protocol), now);
            self.kill(slot);
            return false;
        };
        let berth = self.seats[slot].now_mut();
        let fresh = Product::new(if at == 0 { SystemTime::now() } else { berth.product.started });
        let mut product = if at == 0 { std::mem::replace(&mut berth.product, fresh) } else { fresh };
        product.pid = berth.running.as_ref().and_then(Running::pid_if_started);
        let out = if self.plan.print == Print::None { &[][..] } else { &out };
        let pushed = product.out.push(out).and_then(|()| product.err.push(&err));
        let weight = product.weight();
        self.state.answered(slot, at, cause, product, weight, now);
        if let Err(error) = pushed {
            self.fail(crate::map::MapError::Output(error), now);
        }
        true
    }
}
