//! Frozen memory that a worker has mapped, kept from one task to the next: the same array comes with each item of a map,
//! and to map it anew each time would cost a page fault for each page of it, again and again.
//!
//! In any process a frozen memory is mapped once, however often it arrives. A worker keeps the last few mapped besides, until
//! others take their place or it has been idle for a second; what it keeps, it keeps from the system.

use crate::sys::segment::{Frozen, Identity};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// So many are kept.
const MOST: usize = 4;
/// After so many milliseconds without a task, none.
pub const IDLE: u16 = 1000;

#[derive(Debug)]
struct Shelf {
    known: Vec<(Identity, Weak<Frozen>)>,
    kept: Vec<Arc<Frozen>>,
    serves: bool,
}

static SHELF: Mutex<Shelf> = Mutex::new(Shelf { known: Vec::new(), kept: Vec::new(), serves: false });
static HAS_ANY: AtomicBool = AtomicBool::new(false);

fn shelf() -> MutexGuard<'static, Shelf> {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on this process keeps them: it is one that serves tasks.
pub fn begin() {
    shelf().serves = true;
}

/// Is any kept?
#[inline]
#[must_use]
pub fn has_any() -> bool {
    HAS_ANY.load(Ordering::Relaxed)
}

/// Keeps none of them any longer.
pub fn release() {
    HAS_ANY.store(false, Ordering::Relaxed);
    // Unmapped outside the lock.
    let _kept = std::mem::take(&mut shelf().kept);
}

/// The frozen memory that came as a descriptor: mapped now, or found mapped.
///
/// # Errors
/// It is not the frozen file of that number and length, or ENOMEM.
pub fn arrived(file: OwnedFd, number: u64, len: usize) -> io::Result<Arc<Frozen>> {
    let identity = Frozen::recognise(&file, number, len)?;
    let mut shelf = shelf();
    shelf.known.retain(|(_, frozen)| frozen.strong_count() > 0);
    let known =
        shelf.known.iter().find(|(known, _)| *known == identity).and_then(|(_, frozen)| frozen.upgrade());
    let frozen = match known {
        // Of equal length in words; of equal length in bytes, too?
        Some(frozen) if frozen.bytes().len() == len => frozen,
        _ => {
            let frozen = Arc::new(Frozen::map(Arc::new(file), len)?);
            shelf.known.push((identity, Arc::downgrade(&frozen)));
            frozen
        }
    };
    let displaced = if shelf.serves { keep(&mut shelf.kept, &frozen) } else { None };
    drop(shelf);
    drop(displaced);
    Ok(frozen)
}

/// The one used last is the last one; the first makes room.
fn keep(kept: &mut Vec<Arc<Frozen>>, frozen: &Arc<Frozen>) -> Option<Arc<Frozen>> {
    HAS_ANY.store(true, Ordering::Relaxed);
    let displaced = match kept.iter().position(|kept| Arc::ptr_eq(kept, frozen)) {
        Some(at) => Some(kept.remove(at)),
        None if kept.len() == MOST => Some(kept.remove(0)),
        None => None,
    };
    kept.push(Arc::clone(frozen));
    displaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(frozen: &Frozen) -> (OwnedFd, u64, usize) {
        let file = frozen.file().try_clone().unwrap();
        let number = Identity::of(&file).unwrap().number;
        (file, number, frozen.bytes().len())
    }

    fn arrive(frozen: &Frozen) -> Arc<Frozen> {
        let (file, number, len) = copy(frozen);
        arrived(file, number, len).unwrap()
    }

    #[test]
    fn a_worker_keeps_the_last_few_and_none_when_idle() {
        let sent: Vec<Frozen> =
            (0..=MOST as u8).map(|n| Frozen::holding(c"test", &[n; 100]).unwrap()).collect();
        let weak = Arc::downgrade(&arrive(&sent[0]));
        assert!(weak.upgrade().is_none(), "nobody keeps it in a process that does not serve");
        begin();
        let first = Arc::downgrade(&arrive(&sent[0]));
        assert!(has_any());
        assert!(Arc::ptr_eq(&arrive(&sent[0]), &first.upgrade().unwrap()), "it is found again");
        let all: Vec<_> = sent[1..].iter().map(|frozen| Arc::downgrade(&arrive(frozen))).collect();
        assert!(first.upgrade().is_none(), "and makes room");
        assert!(all.iter().all(|weak| weak.upgrade().is_some()));
        let (last, _, len) = copy(&sent[MOST]);
        let number = copy(&sent[0]).1;
        assert!(arrived(last, number, len).is_err(), "another file than was meant");
        release();
        assert!(!has_any() && all.iter().all(|weak| weak.upgrade().is_none()));
    }

    #[test]
    fn what_is_not_frozen_is_refused() {
        let file = crate::sys::memory::memfd(c"test", 8).unwrap();
        let number = Identity::of(&file).unwrap().number;
        assert!(arrived(file, number, 8).is_err());
    }
}
