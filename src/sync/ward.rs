//! What one process keeps of one object: its number there, who of it sleeps there, and whom it watches.

use super::error::SyncError;
use super::object::bed;
use super::peer::Peer;
use super::table::{Identity, Table};
use procession_worker::sys::memory::Mapping;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Before the first use that needs a number.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Ward {
    party: AtomicU32,
    ear: Arc<Ear>,
    peers: Mutex<Vec<(u16, Arc<Peer>)>>,
}

/// Hears of deaths, and wakes this process's sleepers to see to it. It never waits for anything.
#[derive(Debug)]
pub(super) struct Ear {
    mapping: Arc<Mapping>,
    asleep: Mutex<Vec<usize>>,
}

impl Ear {
    fn asleep(&self) -> MutexGuard<'_, Vec<usize>> {
        self.asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hear(&self) {
        for &slot in self.asleep().iter() {
            bed(&self.mapping, slot).ring();
        }
    }
}

/// On the list of this process's sleepers.
pub(super) struct Asleep<'a> {
    ear: &'a Ear,
    slot: usize,
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        let mut asleep = self.ear.asleep();
        if let Some(at) = asleep.iter().position(|&slot| slot == self.slot) {
            asleep.swap_remove(at);
        }
    }
}

impl Ward {
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        let ear = Arc::new(Ear { mapping: Arc::clone(mapping), asleep: Mutex::default() });
        Self { party: AtomicU32::new(NONE), ear, peers: Mutex::default() }
    }

    /// This process's number, if it has one.
    pub(super) fn party(&self) -> Option<u16> {
        u16::try_from(self.party.load(Ordering::Acquire)).ok()
    }

    pub(super) fn set_party(&self, party: u16) {
        self.party.store(party.into(), Ordering::Release);
    }

    pub(super) fn is_attached(&self) -> bool {
        self.party().is_some()
    }

    /// From now on, rings the slot's bed when somebody dies.
    pub(super) fn lie_down(&self, slot: usize) -> Asleep<'_> {
        self.ear.asleep().push(slot);
        Asleep { ear: &self.ear, slot }
    }

    /// Sees to it that all others are watched; those of them who are dead. `ask`: do not rely on having been told.
    pub(super) fn watch(&self, table: Table<'_>, ask: bool) -> Result<Vec<(u16, Identity)>, SyncError> {
        let own = self.party();
        let mut dead = Vec::new();
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        for (party, identity) in table.attached().filter(|&(party, _)| Some(party) != own) {
            let at = match peers.iter().position(|(number, _)| *number == party) {
                Some(at) if peers[at].1.identity == identity => at,
                other => {
                    // The number is another's now.
                    if let Some(at) = other {
                        peers.swap_remove(at);
                    }
                    let Some(peer) = Peer::of(identity)? else {
                        dead.push((party, identity));
                        continue;
                    };
                    peer.tell(&self.ear);
                    peers.push((party, peer));
                    peers.len() - 1
                }
            };
            let peer = &peers[at].1;
            if if ask { peer.is_dead() } else { peer.is_known_dead() } {
                dead.push((party, identity));
            }
        }
        Ok(dead)
    }
}
