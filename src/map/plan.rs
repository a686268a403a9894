//! The description of a run, and its beginning.

use super::engine::Engine;
use super::halt::Halt;
use super::hopper::{Hopper, Item};
use super::inbox::{Event, Inbox};
use super::outbox::Outbox;
use super::pace::Limit as TimeLimit;
use super::report::{Ending, MapError, News, Remote, Summary};
use super::retry::{Retry, RetryOn};
use super::state::{Depth, Rules, Why};
use super::template::Template;
use crate::cpu::cpu_count;
use crate::program::{Limit, Program};
use crate::sys::{SIGTERM, wait};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How a task reaches its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mode {
    /// A process per task, which is one of its arguments: it replaces `{}`, or is appended.
    #[default]
    Args,
    /// A process per task, which finds it on its standard input.
    Stdin,
    /// Long-lived processes: a line in, a line out.
    Lines,
    /// Long-lived processes: a JSON object in, one out, with the number of the task.
    Json,
}

impl Mode {
    /// Does one process answer many tasks?
    pub(crate) const fn is_long_lived(self) -> bool {
        matches!(self, Self::Lines | Self::Json)
    }
}

/// What becomes of what programs print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Print {
    /// It is in the task's report, byte by byte.
    #[default]
    Group,
    /// It is told as it comes, in whole lines.
    Lines,
    /// It goes where this process prints, unseen.
    Raw,
    /// Nowhere.
    None,
}

/// All that is known before a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) words: Vec<OsString>,
    pub(crate) place: Vec<u8>,
    /// Does the task become the last argument where it has no place?
    pub(crate) append: bool,
    pub(crate) several: bool,
    pub(crate) around: Around,
    pub(crate) mode: Mode,
    pub(crate) print: Print,
    pub(crate) terminator: Vec<u8>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) output_limit: Option<u64>,
    pub(crate) stop_signal: i32,
    pub(crate) subreaper: bool,
    /// Is each report wanted at once, even if it has nothing to print?
    pub(crate) eager: bool,
    pub(crate) rules: Rules,
}

impl Plan {
    /// The command with its places.
    pub(crate) fn template(&self) -> Template {
        let append = self.append && self.mode == Mode::Args;
        Template::new(&self.words, &self.place, append).several(self.several)
    }
}

/// What every program finds around it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Around {
    env: Vec<(OsString, OsString)>,
    clear: bool,
    dir: Option<PathBuf>,
}

impl Around {
    pub(crate) fn apply(&self, program: Program) -> Program {
        let program = if self.clear { program.env_clear() } else { program };
        let program = self.env.iter().fold(program, |program, (key, value)| program.env(key, value));
        self.dir.iter().fold(program, Program::current_dir)
    }
}

/// Tasks fed to programs: the description. Nothing happens before [`run`](Self::run).
///
/// ```
/// use procession::map::{Map, News};
///
/// let tasks = ["one", "two", "three"].map(|task| Ok(task.as_bytes().into()));
/// let mut said = Vec::new();
/// let summary = Map::new("echo").arg("<{}>").jobs(2).run(tasks, |news| match news {
///     News::Report(mut report) => report.out.write_to(&mut said),
///     _ => Ok(()),
/// })?;
/// assert_eq!((summary.ok, said), (3, b"<one>\n<two>\n<three>\n".to_vec()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Every program gets a session of its own and runs below a [`Keeper`](crate::Keeper): nothing of it survives its end, nor
/// this process. It finds `PROCESSION_SLOT` (from 1) in its environment, and where it has one task, `PROCESSION_SEQ`
/// (its number, from 1) and `PROCESSION_ATTEMPT`; also `PARALLEL_JOBSLOT` and `PARALLEL_SEQ`.
#[derive(Debug)]
#[must_use = "nothing runs until it is run"]
pub struct Map {
    plan: Plan,
    window: Option<u64>,
    prefetched: Option<usize>,
    inbox: Option<Arc<Inbox>>,
}

/// Ahead of the task whose turn it is: so many for each slot, so many bytes of results.
const WINDOW: u64 = 64;
const MOST_HELD: usize = 256 << 20;

impl Map {
    /// Tasks for this program, as [`Program::new`](crate::Program::new) has it.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let rules = Rules {
            slots: cpu_count(),
            depth: Depth::Next,
            ordered: true,
            window: 0,
            most_held: MOST_HELD,
            timeout: None,
            deadline: None,
            grace: Duration::from_secs(10),
            retry: Retry { extra: 0, delay: Duration::from_secs(1), on: RetryOn::default(), crash_limit: 3 },
            halt: None,
            spacing: Duration::ZERO,
        };
        let plan = Plan {
            words: vec![program.as_ref().into()],
            place: b"{}".into(),
            append: true,
            several: false,
            around: Around::default(),
            mode: Mode::Args,
            print: Print::Group,
            terminator: b"\n".into(),
            limits: Vec::new(),
            output_limit: None,
            stop_signal: SIGTERM,
            subreaper: false,
            eager: true,
            rules,
        };
        Self { plan, window: None, prefetched: None, inbox: None }
    }

    /// Adds an argument. In any of them, and in the program's name, `{}` is replaced by the task, `{#}` by its number and
    /// `{%}` by its slot, both from 1; if there is none of these, the task becomes the last argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.plan.words.push(argument.as_ref().into());
        self
    }

    /// Adds arguments.
    pub fn args(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// What stands for the task in the arguments, instead of `{}`.
    pub fn placeholder(mut self, place: impl AsRef<[u8]>) -> Self {
        self.plan.place = place.as_ref().into();
        self
    }

    /// In [`Mode::Args`], a task is several arguments, with a NUL between them, as `xargs -n` has it; one unless given. Where a
    /// word is nothing but `{}` it becomes so many words; in the midst of one they stand side by side, with spaces.
    pub const fn several(mut self, yes: bool) -> Self {
        self.plan.several = yes;
        self
    }

    /// Sets an environment variable for every program.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.plan.around.env.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Programs start without this process's variables.
    pub const fn env_clear(mut self) -> Self {
        self.plan.around.clear = true;
        self
    }

    /// Where programs work. A program's path, if it is relative, counts from there.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.plan.around.dir = Some(dir.as_ref().into());
        self
    }

    /// The same program with the same arguments for each task: one that has no place is not appended.
    #[cfg(feature = "cli")]
    pub(crate) const fn exactly(mut self) -> Self {
        self.plan.append = false;
        self
    }

    /// How a task reaches its program; [`Mode::Args`] unless given.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.plan.mode = mode;
        self
    }

    /// How many run at once; as many as there are processors to use, unless given. 0 counts as 1.
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.plan.rules.slots = jobs.max(1);
        self
    }

    /// How many tasks lie ready in a long-lived process ([`Mode::Lines`], [`Mode::Json`]) while it is at one; unless given, what it can do in some 4 ms, and at
    /// least one.
    pub const fn prefetch(mut self, tasks: usize) -> Self {
        self.prefetched = Some(tasks);
        self
    }

    /// Reports in the order in which tasks are done, rather than in that of the tasks.
    pub const fn unordered(mut self, yes: bool) -> Self {
        self.plan.rules.ordered = !yes;
        self
    }

    /// How far ahead of the task whose turn it is others may be begun; 64 for each job unless given. Above 256 MiB of
    /// results, none is.
    pub const fn window(mut self, tasks: u64) -> Self {
        self.window = Some(tasks);
        self
    }

    /// What becomes of what programs print; [`Print::Group`] unless given.
    pub const fn print(mut self, print: Print) -> Self {
        self.plan.print = print;
        self
    }

    /// What follows each task on the standard input of [`Mode::Stdin`]; a newline unless given.
    pub fn terminator(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.plan.terminator = bytes.as_ref().into();
        self
    }

    /// How long an attempt may run; no limit unless given. Then the program is stopped, and the cause is
    /// [`Timeout`](crate::Cause::Timeout).
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.plan.rules.timeout = Some(TimeLimit::Fixed(limit));
        self
    }

    /// The same as a percentage of the median of what went well, once that is three, and 10 ms at least.
    pub const fn timeout_percent(mut self, percent: u32) -> Self {
        self.plan.rules.timeout = Some(TimeLimit::Percent(percent));
        self
    }

    /// How long the whole run may take.
    pub const fn deadline(mut self, limit: Duration) -> Self {
        self.plan.rules.deadline = Some(limit);
        self
    }

    /// How programs are told to stop, SIGTERM unless given, and how long they have until they are killed, 10 s unless given.
    pub const fn stop_with(mut self, signal: i32, grace: Duration) -> Self {
        self.plan.stop_signal = signal;
        self.plan.rules.grace = grace;
        self
    }

    /// How often a task that failed is tried again; 0 unless given.
    pub const fn retries(mut self, extra: u32) -> Self {
        self.plan.rules.retry.extra = extra;
        self
    }

    /// The pause before that, doubled each time up to 30 s, a quarter more or less; 1 s unless given.
    pub const fn retry_delay(mut self, delay: Duration) -> Self {
        self.plan.rules.retry.delay = delay;
        self
    }

    /// For what it is tried again.
    pub fn retry_on(mut self, on: RetryOn) -> Self {
        self.plan.rules.retry.on = on;
        self
    }

    /// A task that has crashed so often is [`Poison`](crate::Cause::Poison), whatever retries it has left; 3 unless given.
    pub const fn crash_limit(mut self, crashes: u32) -> Self {
        self.plan.rules.retry.crash_limit = crashes;
        self
    }

    /// When enough is enough; never unless given.
    pub const fn halt(mut self, halt: Halt) -> Self {
        self.plan.rules.halt = Some(halt);
        self
    }

    /// At least so long between two starts.
    pub fn spacing(mut self, pause: Duration) -> Self {
        self.plan.rules.spacing = pause.max(self.plan.rules.spacing);
        self
    }

    /// A limit for each process.
    pub fn limit(mut self, limit: Limit) -> Self {
        self.plan.limits.push(limit);
        self
    }

    /// How many bytes an attempt may print; beyond it is killed, [`OutputLimit`](crate::Cause::OutputLimit).
    pub const fn output_limit(mut self, bytes: u64) -> Self {
        self.plan.output_limit = Some(bytes);
        self
    }

    /// Makes this process the one that orphans come to if the keeper is killed, as
    /// [`KeeperBuilder::subreaper`](crate::KeeperBuilder::subreaper); off unless given.
    pub const fn subreaper(mut self, yes: bool) -> Self {
        self.plan.subreaper = yes;
        self
    }

    /// Reports without output may wait for others.
    #[cfg(feature = "cli")]
    pub(crate) const fn lazy(mut self) -> Self {
        self.plan.eager = false;
        self
    }

    /// What steers the run from another thread.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn remote(&mut self) -> io::Result<Remote> {
        if self.inbox.is_none() {
            self.inbox = Some(Arc::new(Inbox::new()?));
        }
        Ok(Remote(Arc::clone(self.inbox.as_ref().expect("it was just made"))))
    }

    #[cfg(feature = "cli")]
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Feeds the tasks, and has `each` told of every one: on this thread, in order unless [`unordered`](Self::unordered).
    /// Returns when nothing runs any more.
    ///
    /// The tasks are taken by a thread of its own, a little ahead: 4096 of them, or 1 MiB. While `each` does not return, at
    /// most the window is run ahead. If it fails, the run is stopped. A run that ends early leaves that thread waiting for
    /// its next task.
    ///
    /// # Errors
    /// [`MapError::Spawn`]: the program does not exist, is not executable, a limit cannot be set, or the keeper was killed.
    /// [`MapError::Input`], [`MapError::Output`]: what reading the tasks, and `each`, said. [`MapError::System`]: EMFILE,
    /// EAGAIN. Nothing is left running then either. What becomes of tasks is no error: it is in their reports.
    pub fn run<I>(self, tasks: I, each: impl FnMut(News) -> io::Result<()>) -> Result<Summary, MapError>
    where
        I: IntoIterator<Item = io::Result<Box<[u8]>>>,
        I::IntoIter: Send + 'static,
    {
        self.run_numbered(tasks.into_iter().map(|task| task.map(Some)), each)
    }

    /// [`run`](Self::run), where some numbers have no task.
    pub(crate) fn run_numbered(
        mut self,
        tasks: impl Iterator<Item = io::Result<Item>> + Send + 'static,
        mut each: impl FnMut(News) -> io::Result<()>,
    ) -> Result<Summary, MapError> {
        self.remote()?;
        let inbox = self.inbox.take().expect("it was just made");
        let rules = &mut self.plan.rules;
        rules.depth = match self.plan.mode {
            Mode::Args => Depth::Next,
            Mode::Stdin => Depth::Fixed(1),
            Mode::Lines | Mode::Json => {
                self.prefetched.map_or(Depth::Paced, |tasks| Depth::Fixed(tasks.saturating_add(1)))
            }
        };
        rules.window = self.window.unwrap_or(WINDOW * rules.slots as u64).max(1);
        let (plan, outbox) = (Arc::new(self.plan), Arc::new(Outbox::default()));
        let open = wait::with_signals_blocked(|| Hopper::open(tasks, Arc::clone(&inbox)));
        let hopper = open?;
        let (out, told) = (Arc::clone(&outbox), Arc::clone(&inbox));
        let engine = std::thread::Builder::new().name("procession-map".into());
        let engine = wait::with_signals_blocked(|| {
            engine.spawn(move || {
                let closed = Closed(Arc::clone(&out));
                let mut engine = Engine::new(plan, inbox, out, hopper)?;
                engine.run();
                engine.hopper.close();
                drop(closed);
                match engine.fatal.take() {
                    Some(error) => Err(error),
                    None => Ok((engine.state.counts(), engine.state.why())),
                }
            })
        })?;
        let mut broken = None;
        loop {
            let news = outbox.take();
            if news.is_empty() {
                break;
            }
            let (mut weight, mut bytes) = (0, 0);
            for news in news.into_iter().chain([News::Idle]) {
                if let News::Report(report) = &news {
                    weight += report.weight;
                }
                if let News::Piece(piece) = &news {
                    bytes += piece.bytes.len();
                }
                if broken.is_none()
                    && let Err(error) = each(news)
                {
                    broken = Some(error);
                    told.push(Event::Broken);
                }
            }
            told.note_written(weight);
            if outbox.note_written(bytes) {
                told.push(Event::Room);
            }
        }
        let result = engine.join().map_err(|_| io::Error::other("the engine panicked; please report it"))?;
        if let Some(error) = broken {
            return Err(MapError::Output(error));
        }
        let (counts, why) = result?;
        let ending = match why {
            None => Ending::Complete,
            Some(Why::Deadline) => Ending::Deadline,
            Some(Why::Signal(signal)) => Ending::Asked(signal),
            Some(Why::Halt | Why::Fatal) => Ending::Halted,
        };
        Ok(Summary {
            ok: counts.ok,
            failed: counts.failed,
            poisoned: counts.poisoned,
            retried: counts.retried,
            skipped: counts.skipped,
            ending,
        })
    }
}

/// Whoever waits for reports is told that there will be none, whatever happens.
struct Closed(Arc<Outbox>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.close();
    }
}
