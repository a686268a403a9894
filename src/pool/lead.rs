//! A caller that waits anyway reads its worker's pipe itself: that saves two changes of thread.
//!
//! While it does, nobody else takes bytes from that pipe, except to bury the worker: the caller sleeps until there are
//! some, and would not learn that they came and went.

use super::core::{Core, Heart};
use super::sink::Sink;
use super::state::{JobId, WorkerId};
use crate::process::link::Ends;
use crate::sys::wait;
use std::os::fd::AsFd;
use std::sync::Arc;

impl Core {
    /// If the job's only item has a worker to itself, its outcomes are the caller's to read: that saves two changes of
    /// thread.
    pub(super) fn take_lead(&self, heart: &mut Heart, job: JobId) -> Option<(WorkerId, Arc<Ends>)> {
        let worker = heart.state.sole_runner(job)?;
        let seat = heart.seats.get_mut(worker)?;
        seat.begin_lead().then(|| (worker, Arc::clone(&seat.link.ends)))
    }

    pub(super) fn lead(&self, worker: WorkerId, ends: &Arc<Ends>, job: JobId, sink: &Sink) {
        // A large call is also written by its caller, as its worker takes it.
        let mut behind = self.heart().seats.get(worker).and_then(|seat| seat.link.waits_for());
        loop {
            let (process, outcomes) = ((ends.process.as_fd(), false), (ends.outcomes.as_fd(), false));
            let [died, spoke, takes] = match behind {
                Some(way) => wait::ready([process, outcomes, (ends.way(way), true)], None),
                None => {
                    let [died, spoke] = wait::ready([process, outcomes], None);
                    [died, spoke, false]
                }
            };
            let mut heart = self.heart();
            if died {
                self.bury(&mut heart, worker);
            } else if spoke {
                self.listen(&mut heart, worker);
            }
            if takes && let Some(seat) = heart.seats.get_mut(worker) {
                seat.link.flush();
                behind = seat.link.waits_for();
            }
            self.act(&mut heart);
            let done = sink.tally().is_done();
            let here = heart.state.holds(worker, job);
            let busy = heart.state.is_busy(worker);
            let over = match heart.seats.get_mut(worker) {
                None => true,
                Some(seat) if done || !here || seat.is_closed() => {
                    seat.end_lead(busy);
                    true
                }
                Some(_) => false,
            };
            self.finish(heart);
            if over {
                return;
            }
        }
    }
}
