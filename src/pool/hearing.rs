//! What a worker says, understood: frames into events of the state, and outcomes to their callers' sinks.

use super::core::Heart;
use super::job::Job;
use super::seat::Seat;
use super::sink::{Batch, Tell, fault};
use super::state::{JobId, Nonsense, State, Why, WorkerId};
use crate::process::link::Link;
use procession_worker::sys::image;
use procession_worker::wire::codec;
use procession_worker::wire::frame::split;
use procession_worker::wire::message::{self, End, Hello, Up};
use slotmap::SecondaryMap;
use std::sync::Arc;

impl Heart {
    /// Takes frames as far as they are whole.
    pub(super) fn understand(&mut self, worker: WorkerId) {
        let Self { state, seats, jobs, tells, .. } = self;
        let Some(seat) = seats.get_mut(worker) else { return };
        loop {
            let step = if seat.life.is_serving() {
                serving(state, seat, jobs, tells, worker)
            } else {
                growing(state, seat, worker)
            };
            match step {
                Ok(true) => {}
                Ok(false) => return,
                Err(text) => {
                    // What follows cannot be understood either.
                    seat.link.distrust();
                    state.condemn(worker, Why::Nonsense(text));
                    return;
                }
            }
        }
    }
}

/// One step of a worker that serves: a stretch of outcomes, or the end of a call. False when more bytes are needed.
fn serving(
    state: &mut State,
    seat: &mut Seat,
    jobs: &mut SecondaryMap<JobId, Job>,
    tells: &mut Vec<Tell>,
    worker: WorkerId,
) -> Result<bool, Arc<str>> {
    let (job, due) = state.due(worker).unzip();
    let due = due.unwrap_or_default();
    let pending = seat.link.inbox.pending();
    let (mut at, mut count) = (0, 0);
    let mut came = seat.came.take();
    let other = loop {
        match split(&pending[at..], seat.link.inbox.limit()) {
            Ok(Some((_, whole))) if seat.link.is_unfinished(at, whole as u64) => break None,
            Ok(Some((frame, whole))) => match Up::from_kind(frame.kind) {
                // One that comes with descriptors travels alone.
                Some(kind) if kind.is_outcome() && !seat.link.is_sealed(frame.payload) => {
                    return Err("it sent bytes that make no sense: a result is not of one piece".into());
                }
                Some(kind) if kind.is_outcome() && (came.is_none() || count == 0) => {
                    (at, count) = (at + whole, count + 1);
                }
                kind => {
                    break Some((kind, End::from_bytes(frame.payload), message::count(frame.payload), whole));
                }
            },
            Ok(None) => break None,
            Err(error) => return Err(Link::nonsense(&error)),
        }
    };
    if count > 0 {
        state.answered(worker, count).map_err(|Nonsense(text)| text)?;
        if let Some(job) = job.and_then(|job| jobs.get_mut(job)) {
            let items = due.start..due.start + u64::from(count);
            job.resolved(&items);
            job.hurried = false;
            let came = came.take().map(Box::new);
            let batch =
                Batch { first: due.start, count: u64::from(count), bytes: pending[..at].to_vec(), came };
            tells.push(job.sink.deliver(batch));
        }
        seat.link.inbox.consume(at);
    }
    seat.came = came;
    let Some((kind, end, handles, whole)) = other else {
        // One that has nothing to do has nothing to say.
        let out_of_turn = !state.is_busy(worker) && !seat.link.inbox.pending().is_empty();
        return if out_of_turn || !seat.link.makes_sense() {
            Err("it sent bytes that make no sense".into())
        } else {
            Ok(false)
        };
    };
    match (kind, end, handles) {
        (Some(Up::End), Some(end), _) => {
            seat.link.inbox.consume(whole);
            state.ended(worker, end).map_err(|Nonsense(text)| text)?;
            seat.link.ended(end.tag);
            seat.next_call();
        }
        (Some(Up::Handles), _, Some(count)) if seat.came.is_none() => {
            seat.link.inbox.consume(whole);
            seat.came = Some(seat.link.receive_handles(count)?);
        }
        (Some(kind), ..) if kind.is_outcome() => {}
        _ => return Err("it sent a frame out of place".into()),
    }
    Ok(true)
}

/// One step of a worker that does not serve yet.
fn growing(state: &mut State, seat: &mut Seat, worker: WorkerId) -> Result<bool, Arc<str>> {
    if !seat.link.makes_sense() {
        return Err("it sent bytes that make no sense".into());
    }
    let (kind, payload) = match seat.link.inbox.next() {
        Ok(Some(frame)) => (Up::from_kind(frame.kind), frame.payload.to_vec()),
        Ok(None) => return Ok(false),
        Err(error) => return Err(Link::nonsense(&error)),
    };
    grow_up(seat, kind.ok_or("it sent a frame of unknown kind")?, message::unsealed(&payload))
        .map_or(Ok(()), Err)?;
    if seat.life.is_serving() {
        seat.quiet_alarm();
        state.ready(worker);
    }
    Ok(true)
}

/// Before a worker serves: its Hello, and the end of its initializer. Some trouble, if there is any.
fn grow_up(seat: &mut Seat, kind: Up, payload: &[u8]) -> Option<Arc<str>> {
    match kind {
        Up::Hello => match codec::decode::<Hello>(payload) {
            Ok(hello) if hello.image == image::id() => {
                seat.said_hello();
                None
            }
            _ => Some("it is not the same build as its parent".into()),
        },
        Up::Value if seat.is_initializing() => None,
        Up::End if seat.is_initializing() => {
            seat.initialized();
            seat.stillborn().map(|error| error.to_string().into())
        }
        Up::Refused => {
            seat.refused(crate::process::refused(payload));
            None
        }
        _ if kind.is_outcome() && seat.is_initializing() => {
            seat.initializer_failed(fault(Some(kind), payload));
            None
        }
        _ => Some("it spoke before it had said hello".into()),
    }
}
