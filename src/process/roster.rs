//! All children that this process has now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

static ROSTER: Mutex<BTreeMap<u32, Arc<str>>> = Mutex::new(BTreeMap::new());

fn roster() -> MutexGuard<'static, BTreeMap<u32, Arc<str>>> {
    ROSTER.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn enter(pid: u32, name: &Arc<str>) {
    roster().insert(pid, Arc::clone(name));
}

pub(crate) fn leave(pid: u32) {
    roster().remove(&pid);
}

/// A child of this process; see [`active_children`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildInfo {
    name: Arc<str>,
    pid: u32,
}

impl ChildInfo {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, which is its own as long as it is listed.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }
}

/// The children of this process that live, processes and pools' workers alike, by pid. Nothing is reaped by asking.
#[must_use]
pub fn active_children() -> Vec<ChildInfo> {
    roster().iter().map(|(&pid, name)| ChildInfo { name: Arc::clone(name), pid }).collect()
}
