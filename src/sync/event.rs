//! A flag that processes wait for.

use super::object::{Kind, Object};
use crate::sys::futex;
use crate::sys::robust::Until;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A flag that is set and cleared, and waited for.
///
/// Setting it waits for nobody and is one act of the kernel, so neither a waiter nor a setter that is killed or stopped harms
/// anybody else; it may be done in a signal's handler. A clone, or what arrives when it is sent, is another handle of
/// the same event.
///
/// ```
/// use procession::{Event, Process};
///
/// let ready = Event::new()?;
/// let child = Process::new(|ready: Event| ready.set(), (ready.clone(),)).start()?;
/// ready.wait();
/// assert!(ready.is_set());
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Event(Arc<Object>);

/// The word: odd when set; clearing makes it another even number, so that a waiter who was late to look still sees that it
/// was set.
const SET: u32 = 1;

impl Event {
    /// A new one, not set.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM: each takes a descriptor and a page of memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Object::make(Kind::Event, |_| ())?))
    }

    /// Is it set?
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.half().load(Ordering::Acquire) & SET != 0
    }

    /// Sets it and wakes all who wait, even if it is cleared at once.
    pub fn set(&self) {
        let word = self.0.half();
        // A full barrier, also when it is set already: who then clears it must see what the caller did before.
        if word.fetch_or(0, Ordering::AcqRel) & SET == 0 {
            futex::raise(word);
        }
    }

    /// Clears it: from now on, `wait` waits.
    pub fn clear(&self) {
        let clear = |now: u32| (now & SET != 0).then(|| now.wrapping_add(1));
        let _ = self.0.half().fetch_update(Ordering::AcqRel, Ordering::Acquire, clear);
    }

    /// Waits until it is set.
    pub fn wait(&self) {
        self.wait_until(Until::Forever);
    }

    /// [`wait`](Self::wait) for at most `limit`; false if it was not set by then.
    #[must_use]
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        self.wait_until(Until::after(limit))
    }

    fn wait_until(&self, until: Until) -> bool {
        let word = self.0.half();
        let seen = word.load(Ordering::Acquire);
        if seen & SET != 0 {
            return true;
        }
        loop {
            let in_time = futex::wait(word, seen, until);
            if word.load(Ordering::Acquire) != seen {
                return true;
            }
            if !in_time {
                return false;
            }
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("is_set", &self.is_set()).finish()
    }
}

/// Within a message of procession; elsewhere an error.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.hand_over(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Object::take_over(deserializer, &[Kind::Event]).map(Self)
    }
}
