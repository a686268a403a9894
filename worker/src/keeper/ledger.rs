//! What a keeper knows of its programs, and what it has still to say: decisions without a process. Pure.

use super::protocol::{REPLIES, Reply, Stage, Usage};
use crate::sys::ECANCELED;
use std::collections::{BTreeMap, VecDeque};

/// So many descriptors go with one message at most.
const DESCRIPTORS: usize = 64;

/// What is to become of those that a program leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// They are a leak, and killed.
    Strict,
    /// The program was asked to stop, and they with it: they may take their time.
    Patient,
}

#[derive(Debug)]
struct Program {
    pid: u32,
    mood: Mood,
    /// How it ended.
    end: Option<(i32, Usage)>,
    told: bool,
}

/// A child that is no program: an orphan that this process has adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stray {
    /// Its number.
    pub pid: u32,
    /// Of which program it comes, if it bears a mark of ours.
    pub of: Option<u64>,
}

/// A program that is to follow another.
#[derive(Debug)]
struct Follower<H> {
    id: u64,
    after: u64,
    held: H,
}

/// The book of one keeper. `F` is a descriptor, `H` what it takes to start a program.
#[derive(Debug)]
pub struct Ledger<F, H> {
    programs: BTreeMap<u64, Program>,
    leaders: BTreeMap<u32, u64>,
    followers: Vec<Follower<H>>,
    unsaid: VecDeque<(Reply, Option<F>)>,
    /// Somebody has died, or is lingering, since the strays were looked at.
    unsettled: bool,
}

impl<F, H> Default for Ledger<F, H> {
    fn default() -> Self {
        Self {
            programs: BTreeMap::new(),
            leaders: BTreeMap::new(),
            followers: Vec::new(),
            unsaid: VecDeque::new(),
            unsettled: false,
        }
    }
}

impl<F, H> Ledger<F, H> {
    /// Is there a program of this number, or what one has left behind, or is there to be one?
    #[must_use]
    pub fn knows(&self, id: u64) -> bool {
        self.programs.contains_key(&id) || self.followers.iter().any(|follower| follower.id == id)
    }

    /// A program is to begin when nothing is left of another.
    pub fn follow(&mut self, id: u64, after: u64, held: H) {
        self.followers.push(Follower { id, after, held });
    }

    /// A program whose turn has come.
    pub fn next_follower(&mut self) -> Option<H> {
        let at = self.followers.iter().position(|follower| !self.knows(follower.after))?;
        Some(self.followers.remove(at).held)
    }

    /// A program is not to begin after all; false if none of this number is still to begin.
    pub fn recall(&mut self, id: u64) -> bool {
        let Some(at) = self.followers.iter().position(|follower| follower.id == id) else { return false };
        self.followers.remove(at);
        self.failed(id, Stage::Asking, ECANCELED);
        true
    }

    /// Is this a program, rather than an orphan?
    #[must_use]
    pub fn leads(&self, pid: u32) -> bool {
        self.leaders.contains_key(&pid)
    }

    /// How many programs run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.leaders.len()
    }

    /// Must the orphans be looked at?
    #[must_use]
    pub const fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Something to tell that concerns no program.
    pub fn say(&mut self, reply: Reply) {
        self.unsaid.push_back((reply, None));
    }

    /// A program runs.
    pub fn started(&mut self, id: u64, pid: u32, fd: F) {
        self.programs.insert(id, Program { pid, mood: Mood::Strict, end: None, told: false });
        self.leaders.insert(pid, id);
        self.unsaid.push_back((Reply::Started { id, pid }, Some(fd)));
    }

    /// A program does not run.
    pub fn failed(&mut self, id: u64, stage: Stage, errno: i32) {
        self.say(Reply::Failed { id, stage, errno });
    }

    /// A program was asked to stop. One that is still to begin will not.
    pub fn stop(&mut self, id: u64) {
        self.recall(id);
        if let Some(program) = self.programs.get_mut(&id) {
            program.mood = Mood::Patient;
        }
    }

    /// A program is killed. One that is still to begin will not.
    pub fn kill(&mut self, id: u64) {
        self.recall(id);
        if let Some(program) = self.programs.get_mut(&id) {
            program.mood = Mood::Strict;
            self.unsettled = true;
        }
    }

    /// A child has died and is reaped.
    pub fn died(&mut self, pid: u32, status: i32, usage: Usage) {
        let Some(id) = self.leaders.remove(&pid) else {
            // An orphan. What it leaves behind, or that it was the last of them, may matter.
            self.unsettled = true;
            return;
        };
        if let Some(program) = self.programs.get_mut(&id) {
            program.end = Some((status, usage));
            self.unsettled = true;
        }
    }

    /// All that is there of a program: itself, if it runs, and its orphans.
    pub fn members(&self, id: u64, strays: &[Stray]) -> Vec<u32> {
        let leader = self.programs.get(&id).filter(|program| program.end.is_none());
        let orphans = strays.iter().filter(|stray| stray.of == Some(id));
        leader.map(|program| program.pid).into_iter().chain(orphans.map(|stray| stray.pid)).collect()
    }

    /// Looks at the orphans, all there are, and says who has ended, and of whom nothing is left. True if somebody is
    /// [doomed](Self::doomed).
    pub fn settle(&mut self, strays: &[Stray]) -> bool {
        self.unsettled = false;
        let unsaid = &mut self.unsaid;
        self.programs.retain(|&id, program| {
            let Some((status, usage)) = program.end else { return true };
            let left = strays.iter().filter(|stray| stray.of == Some(id)).count();
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            if !program.told {
                unsaid.push_back((Reply::Exited { id, status, usage, left }, None));
            } else if left == 0 {
                unsaid.push_back((Reply::Gone { id }, None));
            }
            program.told = true;
            left > 0
        });
        !self.doomed(strays).is_empty()
    }

    /// Which of the orphans are to be killed: those of programs that have ended and were not asked to stop.
    ///
    /// One without a mark may be anybody's, so it lives as long as any program does.
    #[must_use]
    pub fn doomed(&self, strays: &[Stray]) -> Vec<u32> {
        let is_doomed = |stray: &&Stray| match stray.of.map(|id| self.programs.get(&id)) {
            Some(Some(program)) => program.end.is_some() && program.mood == Mood::Strict,
            Some(None) => true,
            None => self.programs.is_empty(),
        };
        strays.iter().filter(is_doomed).map(|stray| stray.pid).collect()
    }

    /// How much there is to say.
    #[must_use]
    pub fn unsaid(&self) -> usize {
        self.unsaid.len()
    }

    /// Writes the next message, and lends its descriptors: how many replies it has. [`said`](Self::said) when it is sent.
    pub fn next_message<'a>(&'a self, out: &mut Vec<u8>, fds: &mut Vec<&'a F>) -> usize {
        let mut count = 0;
        for (reply, fd) in &self.unsaid {
            if out.len() + Reply::LARGEST > REPLIES || fds.len() == DESCRIPTORS {
                break;
            }
            reply.write(out);
            fds.extend(fd);
            count += 1;
        }
        count
    }

    /// So many replies were sent.
    pub fn said(&mut self, count: usize) {
        self.unsaid.drain(..count);
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Replies;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What the system would do, in the small: programs and orphans with numbers.
    #[derive(Default)]
    struct World {
        ledger: Ledger<u32, u64>,
        /// pid to the program it comes of; `None` bears no mark.
        orphans: BTreeMap<u32, Option<u64>>,
        running: BTreeMap<u64, u32>,
        stopped: BTreeSet<u64>,
        next: u32,
        /// Those that are to follow, and whom.
        to_follow: BTreeMap<u64, u64>,
        heard: Vec<Reply>,
    }

    impl World {
        fn settle(&mut self) {
            if !self.ledger.is_unsettled() {
                return;
            }
            let strays: Vec<_> = self.orphans.iter().map(|(&pid, &of)| Stray { pid, of }).collect();
            let known: BTreeSet<u64> = self.running.keys().copied().collect();
            let any = self.ledger.settle(&strays);
            let doomed = self.ledger.doomed(&strays);
            assert_eq!(any, !doomed.is_empty());
            for pid in doomed {
                let of = self.orphans[&pid];
                assert!(of.is_none_or(|id| !known.contains(&id)), "an orphan of a program that runs");
                assert!(of.is_some() || known.is_empty(), "an orphan without a mark, while somebody runs");
                assert!(of.is_none_or(|id| !self.stopped.contains(&id)), "an orphan that may take its time");
                self.orphans.remove(&pid);
                self.ledger.died(pid, 9, Usage::default());
            }
        }

        fn begin(&mut self, id: u64) {
            self.next += 1;
            self.ledger.started(id, self.next, self.next);
            self.running.insert(id, self.next);
        }

        fn follow(&mut self) {
            while let Some(id) = self.ledger.next_follower() {
                let after = self.to_follow.remove(&id).expect("it is to follow");
                assert!(
                    !self.running.contains_key(&after) && !self.ledger.knows(after),
                    "it follows too early"
                );
                self.begin(id);
            }
            assert!(self.to_follow.values().all(|after| self.ledger.knows(*after)), "it follows too late");
        }

        fn listen(&mut self) {
            while self.ledger.unsaid() > 0 {
                let (mut bytes, mut fds) = (Vec::new(), Vec::new());
                let count = self.ledger.next_message(&mut bytes, &mut fds);
                assert!(count > 0 && bytes.len() <= REPLIES);
                let replies: Vec<Reply> = Replies::new(&bytes).map(Option::unwrap).collect();
                assert_eq!(replies.iter().filter(|reply| reply.has_descriptor()).count(), fds.len());
                self.heard.extend(replies);
                self.ledger.said(count);
            }
        }

        fn step(&mut self, what: u8, which: usize) {
            let chosen =
                self.running.iter().nth(which % self.running.len().max(1)).map(|(&id, &pid)| (id, pid));
            self.next += 1;
            match (what, chosen) {
                (0 | 1, _) => self.begin(u64::from(self.next)),
                (9, _) => {
                    // Any earlier one: it runs, is to follow itself, or is over.
                    let (id, after) = (u64::from(self.next), which as u64 % u64::from(self.next));
                    self.to_follow.insert(id, after);
                    self.ledger.follow(id, after, id);
                }
                (10, _) => {
                    let id = which as u64 % u64::from(self.next);
                    assert_eq!(self.ledger.recall(id), self.to_follow.remove(&id).is_some());
                }
                (2, _) => self.ledger.failed(u64::from(self.next), Stage::Exec, 2),
                (3, Some((id, _))) => {
                    self.orphans.insert(self.next, (!which.is_multiple_of(5)).then_some(id));
                }
                (4, Some((id, pid))) => {
                    self.running.remove(&id);
                    self.ledger.died(pid, 0, Usage::default());
                }
                (5, Some((id, _))) => {
                    self.ledger.stop(id);
                    self.stopped.insert(id);
                }
                (6, _) => {
                    let id = self.stopped.pop_first();
                    id.into_iter().for_each(|id| self.ledger.kill(id));
                }
                (7, _) => {
                    if let Some((&pid, _)) = self.orphans.iter().nth(which % self.orphans.len().max(1)) {
                        self.orphans.remove(&pid);
                        self.ledger.died(pid, 0, Usage::default());
                    }
                }
                _ => self.listen(),
            }
            self.settle();
            // Those killed just now have died.
            self.settle();
            self.follow();
        }
    }

    proptest! {
        #[test]
        fn every_program_is_told_of_once_and_nobody_is_killed_too_early(
            steps in prop::collection::vec((0..11_u8, any::<usize>()), 0..200),
        ) {
            let mut world = World::default();
            for (what, which) in steps {
                world.step(what, which);
            }
            for id in std::mem::take(&mut world.to_follow).into_keys() {
                prop_assert!(world.ledger.recall(id));
            }
            for (id, pid) in std::mem::take(&mut world.running) {
                world.ledger.died(pid, 0, Usage::default());
                world.ledger.kill(id);
            }
            for id in std::mem::take(&mut world.stopped) {
                world.ledger.kill(id);
            }
            for _ in 0..3 {
                world.settle();
            }
            world.listen();
            prop_assert!(world.orphans.is_empty(), "{:?}", world.orphans);
            prop_assert!(world.ledger.programs.is_empty() && world.ledger.leaders.is_empty());
            prop_assert!(world.ledger.followers.is_empty());
            let mut ends: BTreeMap<u64, Vec<Reply>> = BTreeMap::new();
            for reply in world.heard {
                let (Reply::Started { id, .. } | Reply::Failed { id, .. } | Reply::Exited { id, .. } | Reply::Gone { id }) =
                    reply else { continue };
                ends.entry(id).or_default().push(reply);
            }
            for replies in ends.values() {
                prop_assert!(matches!(
                    replies[..],
                    [Reply::Failed { .. }]
                        | [Reply::Started { .. }, Reply::Exited { left: 0, .. }]
                        | [Reply::Started { .. }, Reply::Exited { left: 1.., .. }, Reply::Gone { .. }]
                ), "{:?}", replies);
            }
        }
    }
}
