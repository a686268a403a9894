//! What signals mean while tasks run: INT and TERM stop, a second one kills, a third one ends us at once.

use super::progress::line;
use super::say;
use crate::map::Remote;
use crate::sys::signals::{
    SIGHUP, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, Signals, die_of, stop_self,
};
use crate::sys::{SIGCONT, SIGINT, SIGTERM};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Signals that are heard by a thread of their own from now on.
pub(super) struct Watched(Signals);

impl Watched {
    /// Before any other thread is started.
    pub(super) fn begin() -> Self {
        Self(Signals::block(&[
            SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU, SIGTSTP, SIGCONT,
        ]))
    }

    /// # Errors
    /// There is no thread to be had.
    pub(super) fn steer(self, remote: &Remote, reopen: &Arc<AtomicBool>) -> io::Result<()> {
        let (remote, reopen) = (remote.clone(), Arc::clone(reopen));
        let thread = std::thread::Builder::new().name("procession-signals".into());
        thread.spawn(move || self.listen(&remote, &reopen))?;
        Ok(())
    }

    fn listen(&self, remote: &Remote, reopen: &AtomicBool) {
        let mut asked = 0;
        while let Ok(signal) = self.0.wait() {
            match signal {
                SIGINT | SIGTERM | SIGHUP => {
                    asked += 1;
                    match asked {
                        1 => remote.stop(signal),
                        2 => remote.kill(signal),
                        // Its keeper sees to the rest.
                        _ => die_of(signal),
                    }
                }
                SIGQUIT => remote.drain(signal),
                SIGTTIN | SIGTTOU => remote.resize(signal == SIGTTIN),
                SIGTSTP => {
                    remote.pause();
                    stop_self();
                }
                SIGCONT => remote.resume(),
                // Before it is written to the next time.
                SIGUSR2 => reopen.store(true, Ordering::Release),
                SIGUSR1 => {
                    if let Some(status) = remote.status() {
                        say(line(&status));
                        for worker in &status.workers {
                            say(super::progress::worker(worker));
                        }
                    }
                }
                _ => {}
            }
        }
    }
}
