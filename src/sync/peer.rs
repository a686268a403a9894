//! Other processes, watched for their end by this one's reactor: each once, for all objects shared with it.

use super::error::SyncError;
use super::table::Identity;
use super::ward::Ear;
use crate::reactor::{Interest, Source, Watch, reactor};
use crate::sys::pidfd::open_stranger;
use crate::sys::{ENOENT, ESRCH, wait};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

/// Somebody else's process; no longer watched when dropped.
pub(super) struct Peer {
    pub(super) identity: Identity,
    watcher: Arc<Watcher>,
}

struct Watcher {
    process: OwnedFd,
    watch: Mutex<Option<Watch>>,
    ears: Mutex<Vec<Weak<Ear>>>,
    dead: AtomicBool,
}

static PEERS: Mutex<BTreeMap<Identity, Weak<Peer>>> = Mutex::new(BTreeMap::new());

impl Peer {
    /// Watches a process; `None` if it is dead.
    pub(super) fn of(identity: Identity) -> Result<Option<Arc<Self>>, SyncError> {
        let mut peers = PEERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&identity).and_then(Weak::upgrade) {
            return Ok(Some(peer));
        }
        let stage = "watching a process that shares an object";
        let process = match open_stranger(identity.pid) {
            Err(error) if error.raw_os_error() == Some(ESRCH) => return Ok(None),
            other => other.map_err(SyncError::system(stage))?,
        };
        // In this order: the number is that of the process just opened as long as that one lives.
        let is_another = start_of(identity.pid).is_ok_and(|start| start != identity.start);
        if is_another || has_ended(&process) {
            return Ok(None);
        }
        let watcher = Arc::new(Watcher {
            process,
            watch: Mutex::new(None),
            ears: Mutex::default(),
            dead: AtomicBool::new(false),
        });
        let mut watch = watcher.watch();
        let reactor = reactor().map_err(SyncError::system(stage))?;
        let source = Arc::clone(&watcher);
        *watch =
            Some(reactor.add(&watcher.process, Interest::Read, source, 0).map_err(SyncError::system(stage))?);
        drop(watch);
        let peer = Arc::new(Self { identity, watcher });
        peers.retain(|_, peer| peer.strong_count() > 0);
        peers.insert(identity, Arc::downgrade(&peer));
        Ok(Some(peer))
    }

    /// Tells `ear` of this process's death, also if that was before.
    pub(super) fn tell(&self, ear: &Arc<Ear>) {
        let mut ears = self.watcher.ears.lock().unwrap_or_else(PoisonError::into_inner);
        ears.retain(|ear| ear.strong_count() > 0);
        ears.push(Arc::downgrade(ear));
        drop(ears);
        if self.watcher.dead.load(Ordering::SeqCst) {
            ear.hear();
        }
    }

    /// Has the reactor seen it die?
    pub(super) fn is_known_dead(&self) -> bool {
        self.watcher.dead.load(Ordering::SeqCst)
    }

    /// Is it dead? Asks the system.
    pub(super) fn is_dead(&self) -> bool {
        self.is_known_dead() || has_ended(&self.watcher.process)
    }
}

impl Watcher {
    fn watch(&self) -> std::sync::MutexGuard<'_, Option<Watch>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let watch = self.watch().take();
        if let (Some(watch), Ok(reactor)) = (watch, reactor()) {
            reactor.remove(watch, &self.process);
        }
    }
}

impl Source for Watcher {
    fn on_ready(&self, _token: u64) {
        self.dead.store(true, Ordering::SeqCst);
        self.stop();
        let ears = std::mem::take(&mut *self.ears.lock().unwrap_or_else(PoisonError::into_inner));
        for ear in ears.iter().filter_map(Weak::upgrade) {
            ear.hear();
        }
    }

    fn on_deadline(&self, _token: u64) {}
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.watcher.stop();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

fn has_ended(process: impl AsFd) -> bool {
    wait::ready([(process.as_fd(), false)], Some(Instant::now()))[0]
}

/// This process.
pub(super) fn this() -> Result<Identity, SyncError> {
    static THIS: OnceLock<Identity> = OnceLock::new();
    if let Some(&identity) = THIS.get() {
        return Ok(identity);
    }
    let pid = std::process::id();
    let start = start_of(pid).map_err(SyncError::system("reading /proc/self/stat"))?;
    Ok(*THIS.get_or_init(|| Identity { pid, start }))
}

/// When a process was started, in the system's ticks since it was.
fn start_of(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before the last parenthesis may contain anything; the start is the 22nd field of all.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    let start = fields.and_then(|mut fields| fields.nth(19)?.parse().ok());
    start.ok_or_else(|| io::Error::from_raw_os_error(ENOENT))
}
