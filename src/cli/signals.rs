//! What signals mean to `run`.

use super::{duration, say, table};
use crate::control::Row;
use crate::supervise::Remote;
use crate::supervisor::Event;
use crate::sys::signals::{self, SIGHUP, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, Signals};
use crate::sys::{SIGINT, SIGTERM};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

const HEARD: [i32; 9] = [SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU];

/// Signals that wait until there is somebody to tell.
pub(super) struct Ears(Signals);

impl Ears {
    /// To be called before any thread is started.
    pub(super) fn new() -> Self {
        Self(Signals::block(&HEARD))
    }

    /// Hears them in a thread of its own, which sleeps until one comes.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn listen(self, remote: Remote, grace: Duration) -> io::Result<()> {
        let mut listening = Listening { remote, stops: 0, grace };
        std::thread::Builder::new().name("procession-signals".into()).spawn(move || {
            while let Ok(signal) = self.0.wait() {
                listening.hear(signal);
            }
        })?;
        Ok(())
    }
}

struct Listening {
    remote: Remote,
    stops: u32,
    grace: Duration,
}

impl Listening {
    fn hear(&mut self, signal: i32) {
        match signal {
            SIGINT => self.interrupt(),
            SIGTERM => self.stop(),
            SIGQUIT => self.remote.event(Event::Drain),
            SIGHUP if signals::has_terminal() => self.stop(),
            SIGHUP | SIGUSR2 => self.remote.reopen(),
            SIGTTIN => self.remote.event(Event::ScaleBy(1)),
            SIGTTOU => self.remote.event(Event::ScaleBy(-1)),
            SIGTSTP => self.remote.suspend(),
            _ => {
                let rows: Vec<Row> = self.remote.status().into_iter().map(Row::from).collect();
                let _ = io::stderr().lock().write_all(table::draw(&rows, &[]).as_bytes());
            }
        }
    }

    fn stop(&mut self) {
        self.stops = self.stops.max(1);
        self.remote.event(Event::Stop);
    }

    /// The first asks, the second kills, the third waits for nothing.
    fn interrupt(&mut self) {
        match self.stops {
            0 => {
                self.remote.event(Event::Stop);
                if io::stderr().is_terminal() {
                    say(format_args!(
                        "stopping, for {} at most; Ctrl-C again kills",
                        duration::show(self.grace)
                    ));
                }
            }
            1 => self.remote.event(Event::Kill),
            _ => self.remote.abandon(),
        }
        self.stops += 1;
    }
}
