//! Who gets the next call, who gives some back, and who may go.

use super::{Action, Call, DEEP, Phase, SHORT_NANOS, State, Why, Worker, WorkerId, set_load};
use crate::pool::state::JobId;
use procession_worker::ipc::page::MAX_ITEMS;

impl State {
    /// Lists a worker where it belongs, and lets go one that has served its time.
    pub(super) fn rest(&mut self, worker: WorkerId) {
        let deep = self.depth();
        let Some(entry) = self.workers.get_mut(worker) else { return };
        if !entry.serves() {
            return;
        }
        if self.limits.max_tasks.is_some_and(|max| entry.taken >= max) {
            if entry.calls.is_empty() {
                entry.phase = Phase::Retiring;
                self.actions.push_back(Action::Retire(worker));
                self.refill();
            }
        } else if entry.calls.is_empty() {
            if !entry.idle_listed {
                entry.idle_listed = true;
                self.idle.push(worker);
            }
        } else if entry.calls.len() < deep && !entry.spare_listed {
            entry.spare_listed = true;
            self.spare.push_back(worker);
        }
    }

    /// How many calls a worker may hold: one that runs and one in reserve, or more where they are short and many.
    pub(super) fn depth(&self) -> usize {
        let many = self.queue.len() > DEEP * self.limits.workers;
        if many && self.call_nanos > 0.0 && self.call_nanos < SHORT_NANOS { DEEP } else { 2 }
    }

    /// Who gets the next call: an idle worker before a reserve.
    pub(super) fn pick(&mut self) -> Option<WorkerId> {
        while let Some(worker) = self.idle.pop() {
            let Some(entry) = self.workers.get_mut(worker) else { continue };
            entry.idle_listed = false;
            if entry.serves() && entry.calls.is_empty() {
                return Some(worker);
            }
        }
        let deep = self.depth();
        while let Some(worker) = self.spare.pop_front() {
            let Some(entry) = self.workers.get_mut(worker) else { continue };
            entry.spare_listed = false;
            let full = self.limits.max_tasks.is_some_and(|max| entry.taken >= max);
            if entry.serves() && !full && entry.calls.len() < deep && entry.free_slots != 0 {
                return Some(worker);
            }
        }
        None
    }

    pub(super) fn dispatch(&mut self) {
        while let Some(front) = self.queue.front() {
            let job = front.job;
            if self.jobs.get(job).is_none_or(|job| job.cancelled) {
                let run = self.queue.pop_front();
                if let (Some(run), Some(entry)) = (run, self.jobs.get_mut(job)) {
                    let count = run.items.end - run.items.start;
                    entry.queued -= count;
                    self.resolve(job, count);
                }
                continue;
            }
            let Some(worker) = self.pick() else { return };
            self.send(worker, job);
            self.rest(worker);
        }
        self.rebalance();
    }

    pub(super) fn send(&mut self, worker: WorkerId, job_id: JobId) {
        let (Some(run), Some(job)) = (self.queue.front_mut(), self.jobs.get_mut(job_id)) else { return };
        let Some(entry) = self.workers.get_mut(worker) else { return };
        let there = run.items.end - run.items.start;
        let size = match self.limits.chunk_size {
            _ if job.single => 1,
            Some(size) => size,
            None => job.pace.next(job.queued, self.limits.workers),
        };
        let still = self.limits.max_tasks.map_or(u64::MAX, |max| max.saturating_sub(entry.taken).max(1));
        let count = u32::try_from(there.min(still)).unwrap_or(u32::MAX).min(size.max(1)).min(MAX_ITEMS);
        let items = run.items.start..run.items.start + u64::from(count);
        run.items.start = items.end;
        job.queued -= u64::from(count);
        if run.items.is_empty() {
            self.queue.pop_front();
        }
        let slot = u8::try_from(entry.free_slots.trailing_zeros()).unwrap_or(0);
        entry.free_slots &= !(1 << slot);
        entry.tags = entry.tags.wrapping_add(1);
        let tag = entry.tags;
        entry.calls.push_back(Call {
            slot,
            tag,
            job: job_id,
            first: items.start,
            count,
            end: count,
            done: 0,
        });
        let load = entry.load + u64::from(count);
        set_load(&mut self.laden, &mut entry.load, load);
        entry.taken += u64::from(count);
        entry.dry = false;
        self.actions.push_back(Action::Send { worker, slot, tag, job: job_id, items });
    }

    /// Nobody idles while another holds what it has not started.
    pub(super) fn rebalance(&mut self) {
        if self.laden == 0 || !self.queue.is_empty() {
            return;
        }
        let idles = self
            .idle
            .iter()
            .any(|&id| self.workers.get(id).is_some_and(|w| w.serves() && w.calls.is_empty()));
        if !idles {
            return;
        }
        let victim = self
            .workers
            .iter()
            .filter(|(_, entry)| entry.has_more_than_it_runs())
            .max_by_key(|(_, entry)| entry.load)
            .map(|(id, _)| id);
        let Some((victim, entry)) = victim.and_then(|id| Some((id, self.workers.get_mut(id)?))) else {
            return;
        };
        // The reserve whole, else half of what is left of the running chunk.
        let several = entry.calls.iter().filter(|call| call.done < call.end).count() > 1;
        let last = entry.calls.iter().rev().find(|call| call.done < call.end);
        let Some(&Call { slot, tag, count, .. }) = last else { return };
        let halve = !several;
        // Until it is answered, do not ask again.
        entry.dry = true;
        self.actions.push_back(Action::TakeBack { worker: victim, slot, tag, count, halve });
    }

    pub(super) fn dismiss_the_idle(&mut self) {
        let asked = self.actions.iter().any(|action| matches!(action, Action::TakeBack { .. }));
        if !self.closing
            || !self.queue.is_empty()
            || asked
            || self.workers.values().any(Worker::has_more_than_it_runs)
        {
            return;
        }
        let idle: Vec<WorkerId> =
            self.workers.iter().filter(|(_, w)| w.calls.is_empty() && w.serves()).map(|(id, _)| id).collect();
        for worker in idle {
            if let Some(entry) = self.workers.get_mut(worker) {
                entry.phase = Phase::Retiring;
                self.actions.push_back(Action::Retire(worker));
            }
        }
        // One that is still being born has nothing to come for.
        let unborn: Vec<WorkerId> =
            self.workers.iter().filter(|(_, w)| w.phase == Phase::Starting).map(|(id, _)| id).collect();
        for worker in unborn {
            self.condemn(worker, Why::Terminated);
        }
        self.announce_empty();
    }
}
