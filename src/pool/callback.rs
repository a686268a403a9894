//! The thread that runs callbacks: its own, so that a slow one stalls no worker and a panic in one ends nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError, mpsc};

type Callback = Box<dyn FnOnce() + Send>;

static CALLBACKS: Mutex<Option<mpsc::Sender<Callback>>> = Mutex::new(None);

/// Hands a callback over. If no thread can be had it runs here, rather than not at all.
pub(crate) fn run(callback: Callback) {
    let mut sender = CALLBACKS.lock().unwrap_or_else(PoisonError::into_inner);
    if sender.is_none() {
        let (send, receive) = mpsc::channel::<Callback>();
        let thread = std::thread::Builder::new().name("procession-callbacks".into());
        let started = thread.spawn(move || {
            for callback in receive {
                shielded(callback);
            }
        });
        if started.is_ok() {
            *sender = Some(send);
        }
    }
    match &*sender {
        Some(send) => {
            let _ = send.send(callback);
        }
        None => {
            drop(sender);
            shielded(callback);
        }
    }
}

/// The program's own panic hook reports a panic; that is all that comes of it.
fn shielded(callback: Callback) {
    let _ = catch_unwind(AssertUnwindSafe(callback));
}
