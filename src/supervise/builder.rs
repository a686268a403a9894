//! What is wanted of a supervisor.

use super::Supervisor;
use super::core::{Core, Observer};
use super::log::LogDir;
use super::outlet::{self, Outlet, Pattern};
use super::status::Happening;
use crate::error::SpawnError;
use crate::keeper::Keeper;
use crate::program::Program;
use crate::supervisor::{ExitSet, OnLimit, Policy, Restart, RestartLimit, State, Until};
use crate::sys::SIGTERM;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Which copy a program is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place<'a> {
    /// Of all copies.
    pub name: &'a str,
    /// Of this one, from 0.
    pub id: u32,
    /// So many are wanted at the moment.
    pub copies: u32,
    /// The how-manieth start of this one, from 1.
    pub attempt: u32,
}

/// Why a supervisor was not started.
#[derive(Debug)]
#[non_exhaustive]
pub enum SuperviseError {
    /// Two settings contradict each other; in words, with the remedy.
    Contradiction(String),
    /// There is no keeper to be had, or no thread.
    Spawn(SpawnError),
    /// Logs cannot be written there.
    LogDir(PathBuf, io::Error),
}

impl fmt::Display for SuperviseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contradiction(text) => f.write_str(text),
            Self::Spawn(error) => write!(f, "{error}"),
            Self::LogDir(dir, error) => {
                write!(
                    f,
                    "cannot write logs in {}: {error}; name a directory that can be written",
                    dir.display()
                )
            }
        }
    }
}

impl std::error::Error for SuperviseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Contradiction(_) => None,
            Self::Spawn(error) => Some(error),
            Self::LogDir(_, error) => Some(error),
        }
    }
}

/// What becomes of what the copies print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// Wherever their program says.
    Raw,
    Lines,
    Nothing,
}

type Make = Box<dyn FnMut(&Place<'_>) -> Program + Send>;

pub(super) struct Settings {
    pub(super) name: String,
    pub(super) make: Make,
    pub(super) stop_signal: i32,
    pub(super) notify: bool,
    pub(super) max_rss: Option<u64>,
    pub(super) show: Show,
    pub(super) output_limit: Option<u64>,
    pub(super) main_first: bool,
    pub(super) subreaper: bool,
    /// Has whoever read what the copies print gone away?
    pub(super) unheard: Arc<OnceLock<io::ErrorKind>>,
}

/// How a [`Supervisor`] is to be; from [`Supervisor::builder`].
#[must_use = "nothing runs until it is started"]
pub struct SupervisorBuilder {
    settings: Settings,
    policy: Policy,
    start_timeout: Duration,
    pattern: Option<Pattern>,
    tag: Option<String>,
    timestamps: bool,
    form: Option<outlet::Form>,
    logs: Option<LogDir>,
    observers: Vec<Observer>,
    listeners: Vec<outlet::Listener>,
}

impl fmt::Debug for SupervisorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorBuilder").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

impl SupervisorBuilder {
    pub(super) fn new(name: String, make: Make) -> Self {
        let settings = Settings {
            name,
            make,
            stop_signal: SIGTERM,
            notify: false,
            max_rss: None,
            show: Show::Raw,
            output_limit: None,
            main_first: false,
            subreaper: false,
            unheard: Arc::default(),
        };
        Self {
            settings,
            policy: Policy::default(),
            start_timeout: Duration::from_secs(60),
            pattern: None,
            tag: None,
            timestamps: false,
            form: None,
            logs: None,
            observers: Vec::new(),
            listeners: Vec::new(),
        }
    }

    /// So many copies; 1 unless given.
    pub const fn copies(mut self, count: u32) -> Self {
        self.policy.copies = count;
        self
    }

    /// When a copy that has ended by itself is started again; [`Restart::OnFailure`] unless given.
    pub const fn restart(mut self, when: Restart) -> Self {
        self.policy.restart = when;
        self
    }

    /// How long to wait before the first restart; 100 ms unless given. It doubles with each in a row, ± 25 %.
    pub const fn restart_delay(mut self, delay: Duration) -> Self {
        self.policy.restart_delay = delay;
        self
    }

    /// The longest that this delay becomes; 30 s unless given, or `restart_delay` if that is longer.
    pub const fn restart_max_delay(mut self, delay: Duration) -> Self {
        self.policy.restart_max_delay = Some(delay);
        self
    }

    /// Up for so long, all failures before are forgiven; 10 s unless given.
    pub const fn stable_after(mut self, time: Duration) -> Self {
        self.policy.stable_after = time;
        self
    }

    /// How many restarts are too many; 10 in a row unless given.
    pub const fn restart_limit(mut self, limit: RestartLimit) -> Self {
        self.policy.limit = limit;
        self
    }

    /// What a copy at its limit means for the others; nothing unless given.
    pub const fn on_limit(mut self, action: OnLimit) -> Self {
        self.policy.on_limit = action;
        self
    }

    /// Which ends are good ones; exit code 0 unless given.
    pub fn success_exit(mut self, set: ExitSet) -> Self {
        self.policy.success = set;
        self
    }

    /// After which ends there is no restart, whatever else was said; none unless given.
    pub fn fatal_exit(mut self, set: ExitSet) -> Self {
        self.policy.fatal = set;
        self
    }

    /// When it is over; when all have ended for good unless given.
    pub const fn until(mut self, until: Until) -> Self {
        self.policy.until = until;
        self
    }

    /// The signal that asks a copy, and all that it has started, to end; SIGTERM unless given. SIGCONT follows it.
    pub const fn stop_signal(mut self, signal: i32) -> Self {
        self.settings.stop_signal = signal;
        self
    }

    /// The stop signal goes to the copy's own process alone, and when that has ended what is left is killed; else, and unless
    /// given, it goes to all, and the copy has ended when they have.
    pub const fn stop_main_first(mut self, yes: bool) -> Self {
        self.settings.main_first = yes;
        self
    }

    /// How long they have for it; 10 s unless given. Then SIGKILL.
    pub const fn stop_timeout(mut self, time: Duration) -> Self {
        self.policy.stop_timeout = time;
        self
    }

    /// A copy is ready when it says so by sd_notify(3): it finds `NOTIFY_SOCKET` in its environment.
    pub fn ready_on_notify(mut self) -> Self {
        self.settings.notify = true;
        self.policy.ready_within = Some(self.start_timeout);
        self
    }

    /// A copy is ready when it prints a line, on stdout or stderr, that this says yes to. Needs [`lines`](Self::lines),
    /// [`log_dir`](Self::log_dir) or [`quiet`](Self::quiet): what goes elsewhere is not seen.
    pub fn ready_on_line(mut self, is_ready: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.pattern = Some(Arc::new(is_ready));
        self.policy.ready_within = Some(self.start_timeout);
        self
    }

    /// How long a copy may take to be ready; 60 s unless given. Then it has failed.
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.start_timeout = time;
        self.policy.ready_within = self.policy.ready_within.map(|_| time);
        self
    }

    /// A copy this old, ± 10 %, is replaced: one at a time.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.policy.max_age = Some(age);
        self
    }

    /// A copy whose processes have so many bytes of memory, ± 10 %, is replaced: one at a time. Looked at every second.
    pub const fn max_rss(mut self, bytes: u64) -> Self {
        self.settings.max_rss = Some(bytes);
        self
    }

    /// What the copies print goes to this process's stdout and stderr by whole lines, each behind `tag`, in which `{name}` and
    /// `{id}` are replaced. Unless given, they print where their program says.
    pub fn lines(mut self, tag: Option<&str>) -> Self {
        self.settings.show = Show::Lines;
        self.tag = tag.map(Into::into);
        self
    }

    /// Each of these lines begins with the time, in UTC, before the tag.
    pub const fn timestamps(mut self, yes: bool) -> Self {
        self.timestamps = yes;
        self
    }

    /// What the copies print is passed on to stdout in another form.
    #[cfg(feature = "cli")]
    pub(crate) fn form(mut self, form: outlet::Form) -> Self {
        self.form = Some(form);
        self
    }

    /// What the copies print goes nowhere, or only into logs.
    pub const fn quiet(mut self) -> Self {
        self.settings.show = Show::Nothing;
        self
    }

    /// What the copies print goes into files.
    pub fn log_dir(mut self, logs: LogDir) -> Self {
        self.logs = Some(logs);
        self
    }

    /// How many bytes a copy may print from its start to its end, out and err together; no limit unless given. What is beyond
    /// is dropped, and the copy killed: [`OutputLimit`](crate::Cause::OutputLimit), which is a crash. Needs
    /// [`lines`](Self::lines), [`log_dir`](Self::log_dir) or [`quiet`](Self::quiet): what goes elsewhere is not seen. With a
    /// limit, a copy has ended when what it printed has been passed on.
    pub const fn output_limit(mut self, bytes: u64) -> Self {
        self.settings.output_limit = Some(bytes);
        self
    }

    /// Makes this process adopt orphans; see [`KeeperBuilder::subreaper`](crate::KeeperBuilder::subreaper).
    pub const fn subreaper(mut self, yes: bool) -> Self {
        self.settings.subreaper = yes;
        self
    }

    /// Hears of everything that happens to a copy, on the supervisor's thread: it must not wait.
    pub fn on_happening(mut self, mut hear: impl FnMut(&Happening) + Send + 'static) -> Self {
        let observer = move |happening: Option<&Happening>| {
            happening.into_iter().for_each(&mut hear);
            true
        };
        self.observers.push(Box::new(observer));
        self
    }

    /// Hears what the copies print from the first byte on, if it is seen at all.
    #[cfg(feature = "cli")]
    pub(crate) fn listen(mut self, listener: outlet::Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Starts the copies, and returns at once.
    ///
    /// # Errors
    /// [`SuperviseError`]: settings that contradict each other, no keeper, no logs. A program that cannot be started is no error
    /// here: the [`Outcome`](super::Outcome) tells.
    pub fn start(self) -> Result<Supervisor, SuperviseError> {
        self.policy.check().map_err(|error| SuperviseError::Contradiction(error.0))?;
        let limited = self.settings.output_limit.is_some();
        let piped =
            self.settings.show == Show::Lines || self.logs.is_some() || self.pattern.is_some() || limited;
        if self.pattern.is_some() && self.settings.show == Show::Raw && self.logs.is_none() {
            let text = "nobody sees the line that says ready when output is raw: pass it on by lines";
            return Err(SuperviseError::Contradiction(text.into()));
        }
        if limited && self.settings.show == Show::Raw && self.logs.is_none() {
            let text = "output is limited where it passes through us: pass it on by lines, not raw";
            return Err(SuperviseError::Contradiction(text.into()));
        }
        if let Some(logs) = &self.logs {
            logs.check().map_err(|error| SuperviseError::LogDir(logs.dir.clone(), error))?;
        }
        let keeper =
            Keeper::builder().subreaper(self.settings.subreaper).build().map_err(SuperviseError::Spawn)?;
        let (words, heard) = channel();
        let failed = |stage| move |error| SuperviseError::Spawn(SpawnError::system(stage)(error));
        let outlet = piped.then(|| {
            let settings = outlet::Settings {
                name: self.settings.name.clone(),
                tag: self.tag,
                show: self.settings.show == Show::Lines,
                logs: self.logs,
                ready: self.pattern,
                listeners: self.listeners,
                most: self.settings.output_limit,
                timestamps: self.timestamps,
                form: self.form,
            };
            Outlet::start(settings, words.clone())
        });
        let outlet = outlet.transpose().map_err(failed("starting the thread for output"))?;
        let state = State::new(self.policy, RandomState::new().build_hasher().finish(), Instant::now());
        let unheard = Arc::clone(&self.settings.unheard);
        let name = self.settings.name.clone();
        let mut core = Core::new(self.settings, state, keeper, outlet, words.clone());
        self.observers.into_iter().for_each(|observer| core.observe(observer));
        Supervisor::run(name, words, unheard, move || core.run(&heard)).map_err(failed("starting a thread"))
    }
}
