//! `procession map`: tasks from standard input, a file or the command line, each for a program.

mod input;
mod print;
mod progress;
mod signals;
mod words;

use super::around::Around;
use super::budget::Budget;
use super::{Code, duration, say};
use crate::cause::Cause;
use crate::map::joblog::{History, JobLog, Opening, Resume};
use crate::map::template::{Template, quoted};
use crate::map::{Ending, Halt, Map, MapError, Mode, News, Print, RetryOn, Summary};
use clap::{Args, ValueEnum};
use print::Printer;
use progress::{Progress, Show};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use words::{Bound, Jobs, Rate, Timeout};

/// How a task reaches its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// A process per task, which is its last argument or replaces {}
    Args,
    /// A process per task, which reads it from its standard input
    Stdin,
    /// Long-lived processes: a line in, a line out
    Lines,
    /// Long-lived processes: a JSON object with an id in, one out
    Json,
}

/// What becomes of what programs print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Where {
    /// All of a task together, byte by byte, in the order of the tasks
    Group,
    /// Line by line as it comes
    Lines,
    /// Straight to our own output
    Raw,
    /// Nowhere
    None,
}

/// Feed tasks to programs: one process each, or long-lived ones
///
/// Tasks come from standard input, one a line; each runs PROG with the task in place of {}, or as its last argument.
/// Results are printed in the order of the tasks. Nothing that PROG starts survives it, or this tool.
#[derive(Debug, Args)]
#[command(after_long_help = super::exit::TABLE, override_usage = "procession map [OPTIONS] -- PROG [ARG]... [::: TASK...]")]
pub(super) struct MapArgs {
    /// The program and its arguments: {} the task, {#} its number, {%} its slot; after ::: the tasks
    #[arg(
        required_unless_present = "sh",
        trailing_var_arg = true,
        value_name = "PROG",
        hide_short_help = true
    )]
    command: Vec<OsString>,

    /// So many at once: N, N% of the processors [all]
    ///
    /// Or +N, -N: more or fewer than there are processors to use.
    #[arg(short, long, value_name = "N", alias = "max-procs", short_alias = 'P', allow_hyphen_values = true)]
    jobs: Option<Jobs>,
    /// How a task reaches PROG: args, stdin, lines or json
    #[arg(long, value_enum, default_value_t = How::Args, value_name = "MODE")]
    mode: How,
    /// Tasks that lie ready in a long-lived program [default: what it can do in some 4 ms]
    #[arg(long, value_name = "N", hide_short_help = true)]
    prefetch: Option<usize>,
    /// At most so many tasks ahead of the one whose turn it is to be printed [default: 64 a job]
    #[arg(long, value_name = "N", conflicts_with = "unordered", hide_short_help = true)]
    window: Option<u64>,

    /// Read tasks from this file, - for standard input
    #[arg(short = 'a', long, value_name = "FILE", help_heading = "Input")]
    arg_file: Option<PathBuf>,
    /// Tasks end with NUL, not with a newline
    #[arg(short = '0', long, help_heading = "Input")]
    null: bool,
    /// Tasks end with this character: any, or \n \t \0 \xHH
    #[arg(short, long, value_name = "C", conflicts_with = "null", value_parser = words::delimiter, help_heading = "Input", hide_short_help = true)]
    delimiter: Option<u8>,
    /// What stands for the task, instead of {}
    #[arg(short = 'I', value_name = "STR", help_heading = "Input", hide_short_help = true)]
    placeholder: Option<OsString>,
    /// So many tasks to a process, as its arguments: one after the other, where {} is or at the end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Input", hide_short_help = true)]
    batch: Option<u32>,
    /// A shell's script instead of PROG: {} is "$1" there, so that no task is ever taken for a part of it
    #[arg(long, value_name = "SCRIPT", help_heading = "Input", hide_short_help = true)]
    sh: Option<OsString>,
    #[arg(short = 'n', value_name = "N", hide = true)]
    max_args: Option<String>,

    /// Print results as they come
    #[arg(long, conflicts_with = "keep_order", help_heading = "Output")]
    unordered: bool,
    #[arg(short, long, hide = true)]
    keep_order: bool,
    /// What they print: group, lines, raw or none
    #[arg(long, value_enum, default_value_t = Where::Group, value_name = "HOW", help_heading = "Output")]
    output: Where,
    /// Begin each line with the task
    ///
    /// Or with a template, where {} is the task, {#} its number and {%} its slot.
    #[arg(long, value_name = "TEMPLATE", num_args = 0..=1, require_equals = true, default_missing_value = "{}\t", help_heading = "Output")]
    tag: Option<OsString>,
    /// Print a JSON object for each task, with what it printed
    #[arg(long, conflicts_with = "tag", help_heading = "Output", hide_short_help = true)]
    json: bool,
    /// How it stands: on a terminal a bar, elsewhere a line each 10 s
    #[arg(long, value_enum, default_value_t = Show::Auto, value_name = "HOW", help_heading = "Output", hide_short_help = true)]
    progress: Show,
    #[arg(long, visible_alias = "eta", hide = true, overrides_with = "progress")]
    bar: bool,
    /// Print the commands and run nothing
    #[arg(long, help_heading = "Output")]
    dry_run: bool,

    /// Stop an attempt after 30s, or N% of the median
    #[arg(short, long, value_name = "DUR|N%", help_heading = "Failure")]
    timeout: Option<Timeout>,
    /// Stop everything after so long, exit 124
    #[arg(long, value_name = "DUR", value_parser = duration::parse, help_heading = "Failure", hide_short_help = true)]
    deadline: Option<Duration>,
    /// Try a failed task N times more
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Failure")]
    retries: u32,
    /// Before the first retry; doubled up to 30 s, a quarter more or less [default: 1s]
    #[arg(long, value_name = "DUR", value_parser = duration::parse, requires = "retries", help_heading = "Failure", hide_short_help = true)]
    retry_delay: Option<Duration>,
    /// For what: crash, timeout, oom, fail, all, exit codes [default: crash,timeout,oom]
    #[arg(long, value_name = "LIST", value_parser = words::retry_on, requires = "retries", help_heading = "Failure", hide_short_help = true)]
    retry_on: Option<RetryOn>,
    /// Set a task aside that has crashed so often
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Failure", hide_short_help = true)]
    crash_limit: u32,
    /// When enough is enough, as in now,fail=1
    ///
    /// now or soon; fail, success or done; a number, or a percentage: as in GNU parallel.
    #[arg(long, value_name = "WHEN,WHY=N", value_parser = words::halt, help_heading = "Failure")]
    halt: Option<Bound<Halt>>,
    /// Stop everything at the first failure: --halt now,fail=1
    #[arg(short = 'e', long, conflicts_with = "halt", help_heading = "Failure", hide_short_help = true)]
    fail_fast: bool,
    /// How a program is told to stop
    #[arg(long, value_name = "SIG", default_value = "TERM", value_parser = words::signal, help_heading = "Failure", hide_short_help = true)]
    stop_signal: i32,
    /// After which it is killed, with all it has started
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = duration::parse, help_heading = "Failure", hide_short_help = true)]
    stop_timeout: Duration,

    #[command(flatten)]
    around: Around,

    /// For each process, as in memory=512M; see --help
    ///
    /// memory=512M cpu-time=30s nofile=1024 fsize=1G core=0 output=64M; several by commas, or by more -l. One that cannot be
    /// enforced keeps the run from beginning.
    #[arg(short, long, value_name = "KEY=VALUE", value_delimiter = ',', help_heading = "Limits")]
    limit: Vec<Budget>,
    /// At most N starts a second (N/s, N/m, N/h)
    #[arg(long, value_name = "N/s", help_heading = "Limits", hide_short_help = true)]
    rate: Option<Rate>,
    /// At least so long between two starts
    #[arg(long, value_name = "DUR", value_parser = duration::parse, help_heading = "Limits", hide_short_help = true)]
    delay: Option<Duration>,

    /// Log each task
    ///
    /// A table as GNU parallel's; JSON lines if its name ends in .ndjson or .jsonl.
    #[arg(long, value_name = "FILE", help_heading = "Record")]
    joblog: Option<PathBuf>,
    /// Pass over tasks that are in the log
    #[arg(long, requires = "joblog", conflicts_with_all = ["resume_failed", "retry_failed"], help_heading = "Record")]
    resume: bool,
    /// Pass over tasks that went well by the log
    #[arg(
        long,
        requires = "joblog",
        conflicts_with = "retry_failed",
        help_heading = "Record",
        hide_short_help = true
    )]
    resume_failed: bool,
    /// Take as tasks those that failed by the log; there is no other input
    #[arg(
        long,
        requires = "joblog",
        conflicts_with = "arg_file",
        help_heading = "Record",
        hide_short_help = true
    )]
    retry_failed: bool,
    /// Write tasks that did not succeed, ready to be fed again
    #[arg(long, value_name = "FILE", help_heading = "Record", hide_short_help = true)]
    failed: Option<PathBuf>,
    /// Write what each printed also to DIR/NUMBER/stdout and stderr
    #[arg(long, value_name = "DIR", help_heading = "Record", hide_short_help = true)]
    results: Option<PathBuf>,
}

/// What keeps the tool from beginning, or going on.
struct Refusal(Code, String);

impl Refusal {
    fn usage(text: impl Into<String>) -> Self {
        Self(Code::Own, text.into())
    }
}

impl MapArgs {
    pub(super) fn run(self) -> Code {
        match self.try_run() {
            Ok(code) => code,
            Err(Refusal(code, text)) => {
                say(text);
                code
            }
        }
    }

    fn mode(&self) -> Mode {
        match self.mode {
            How::Args => Mode::Args,
            How::Stdin => Mode::Stdin,
            How::Lines => Mode::Lines,
            How::Json => Mode::Json,
        }
    }

    /// Refuses what contradicts itself.
    fn check(&self, tasks: Option<&[OsString]>) -> Result<(), Refusal> {
        let long_lived = matches!(self.mode, How::Lines | How::Json);
        let printed = matches!(self.output, Where::Group | Where::Lines);
        let delimited = self.null || self.delimiter.is_some();
        let limits_output = self.limit.iter().any(|budget| matches!(budget, Budget::Output(_)));
        let table = [
            (
                tasks.is_some() && self.arg_file.is_some(),
                "tasks come from ::: or from -a, not both; leave one out",
            ),
            (
                tasks.is_some() && self.retry_failed,
                "--retry-failed takes its tasks from the log; leave ::: out",
            ),
            (
                self.prefetch.is_some() && !long_lived,
                "--prefetch is for long-lived programs; add --mode lines or --mode json",
            ),
            (
                long_lived && matches!(self.output, Where::Lines | Where::Raw),
                "a long-lived program's lines are its answers: leave --output out, or say --output none",
            ),
            (
                self.mode == How::Lines && delimited,
                "--mode lines speaks in lines; leave -0 and -d out, or use --mode json",
            ),
            (self.tag.is_some() && !printed, "--tag has nothing to tag; leave it out, or --output"),
            (self.json && self.output != Where::Group, "--json holds what tasks print; leave --output out"),
            (
                limits_output && !printed && !long_lived,
                "-l output= is enforced where output passes through us; use --output group or lines",
            ),
            (
                self.placeholder.is_some() && self.mode != How::Args,
                "-I is a place among arguments; leave it out, or --mode",
            ),
            (
                self.dry_run && self.mode != How::Args,
                "--dry-run shows commands by task; there is one for all in this mode",
            ),
            (
                self.batch.is_some() && self.mode != How::Args,
                "--batch makes arguments of tasks; leave it out, or --mode",
            ),
            (self.batch.is_some() && self.sh.is_some(), "--sh has one task at a time; leave --batch out"),
            (
                self.max_args.is_some(),
                "-n is not for map, lest it be taken for the copies of run: for so many tasks to a process say --batch N",
            ),
            (
                self.results.is_some() && self.output != Where::Group,
                "--results needs all that a task prints together; leave --output out",
            ),
            (self.crash_limit == 0, "--crash-limit 0 would set aside every task; use 1 or more"),
            (self.window == Some(0), "--window 0 lets nothing run; use 1 or more"),
        ];
        match table.into_iter().find(|(wrong, _)| *wrong) {
            Some((_, text)) => Err(Refusal::usage(text)),
            None => Ok(()),
        }
    }

    fn map(&self, words: &[OsString]) -> Map {
        let jobs = self.jobs.map_or_else(crate::cpu_count, Jobs::count);
        let print = match self.output {
            Where::Group => Print::Group,
            Where::Lines => Print::Lines,
            Where::Raw => Print::Raw,
            Where::None => Print::None,
        };
        let mut map = Map::new(&words[0])
            .args(&words[1..])
            .jobs(jobs)
            .mode(self.mode())
            .print(print)
            .unordered(self.unordered)
            .retries(self.retries)
            .crash_limit(self.crash_limit)
            .stop_with(self.stop_signal, self.stop_timeout)
            .terminator(if self.null || self.delimiter.is_some() { &b""[..] } else { b"\n" })
            .subreaper(true);
        if self.around.clean_env {
            map = map.env_clear();
        }
        map = self.around.chdir.iter().fold(map, Map::current_dir);
        map = map.several(self.batch.is_some());
        if let Some(place) = &self.placeholder {
            map = map.placeholder(place.as_bytes());
        }
        for budget in &self.limit {
            map = match *budget {
                Budget::Output(bytes) => map.output_limit(bytes),
                Budget::Of(limit) => map.limit(limit),
            };
        }
        map = self.prefetch.into_iter().fold(map, Map::prefetch);
        map = self.window.into_iter().fold(map, Map::window);
        map = self.deadline.into_iter().fold(map, Map::deadline);
        map = self.retry_delay.into_iter().fold(map, Map::retry_delay);
        map = self.retry_on.clone().into_iter().fold(map, Map::retry_on);
        map = self.delay.into_iter().fold(map, Map::spacing);
        map = self.rate.into_iter().fold(map, |map, rate| map.spacing(rate.0));
        map = match self.timeout {
            Some(Timeout::Fixed(limit)) => map.timeout(limit),
            Some(Timeout::Percent(percent)) => map.timeout_percent(percent),
            None => map,
        };
        match self.halt {
            Some(Bound(Some(halt))) => map.halt(halt),
            _ if self.fail_fast => map.halt(Halt::FIRST_FAILURE),
            _ => map,
        }
    }

    fn try_run(self) -> Result<Code, Refusal> {
        let at = self.command.iter().position(|word| word == ":::");
        let (words, tasks) = match at {
            Some(at) => (&self.command[..at], Some(&self.command[at + 1..])),
            None => (&self.command[..], None),
        };
        let script = self.script(words)?;
        let words = script.as_deref().unwrap_or(words);
        if words.is_empty() {
            return Err(Refusal::usage(
                "there is no program before :::; type procession map -- PROG ::: TASK",
            ));
        }
        self.check(tasks)?;
        self.around.settle().map_err(Refusal::usage)?;
        let mut map = self.map(words);
        for (key, value) in self.around.variables().map_err(Refusal::usage)? {
            map = map.env(key, value);
        }
        let template = map.plan().template();
        // Where it works, and by which PATH it is found, it knows better.
        if template.is_fixed() && self.around.chdir.is_none() && !self.around.clean_env {
            words::find(&words[0]).map_err(|cause| {
                let name = words[0].display();
                let next = if cause.is_not_found() {
                    "is it installed, and its directory in PATH?"
                } else {
                    "chmod +x it"
                };
                Refusal(Code::of_failed_start(cause), format!("{name}: {cause}; {next}"))
            })?;
        }
        let (input, log) = self.input(tasks)?;
        if self.dry_run {
            return dry_run(&template, input);
        }
        let watched = signals::Watched::begin();
        let system = |error: io::Error| Refusal::usage(error.to_string());
        let remote = map.remote().map_err(system)?;
        let reopen = Arc::default();
        watched.steer(&remote, &reopen).map_err(system)?;
        let show = if self.bar { Show::Bar } else { self.progress };
        let progress = Progress::begin(show, remote).map_err(system)?;
        let failed = match &self.failed {
            Some(path) => Some(
                std::fs::File::create(path)
                    .map_err(|error| Refusal::usage(format!("cannot write {}: {error}", path.display())))?,
            ),
            None => None,
        };
        if log.is_none() && failed.is_none() && !self.json {
            map = map.lazy();
        }
        let mut printer = Printer::new(print::Style {
            tag: self.tag.clone(),
            json: self.json,
            template,
            log,
            reopen,
            results: self.results.clone(),
            failed,
            terminator: if self.null { 0 } else { self.delimiter.unwrap_or(b'\n') },
            explains: !matches!(self.progress, Show::None),
            progress: &progress,
        })
        .map_err(|error| Refusal::usage(format!("standard output: {error}")))?;
        let result = map.run_numbered(input, |news| match news {
            News::Idle => printer.flush(),
            News::Piece(piece) => printer.piece(&piece),
            News::Report(report) => printer.report(report),
        });
        drop(printer);
        progress.end(result.as_ref().ok());
        match result {
            Ok(summary) => Ok(code_of(&summary, self.halt.is_some() || self.fail_fast)),
            Err(MapError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Code::Signal(crate::sys::signals::SIGPIPE))
            }
            Err(MapError::Spawn(error)) => {
                let code = Code::of_failed_start(error.cause());
                Err(Refusal(code, error.to_string()))
            }
            Err(error) => Err(Refusal::usage(error.to_string())),
        }
    }

    /// The command that runs a shell's script, if that is wanted.
    fn script(&self, words: &[OsString]) -> Result<Option<Vec<OsString>>, Refusal> {
        let Some(script) = &self.sh else { return Ok(None) };
        if !words.is_empty() {
            return Err(Refusal::usage(
                "--sh is the program; leave PROG out, tasks come behind ::: or by stdin",
            ));
        }
        let place = self.placeholder.as_deref().map_or(&b"{}"[..], OsStrExt::as_bytes);
        let places = [(place, "1"), (b"{#}", "PROCESSION_SEQ"), (b"{%}", "PROCESSION_SLOT")];
        let line = OsString::from_vec(words::with_variables(script.as_bytes(), &places));
        let mut words = vec!["sh".into(), "-c".into(), line, "sh".into()];
        if self.mode == How::Args {
            words.push(OsStr::from_bytes(place).into());
        }
        Ok(Some(words))
    }

    /// The tasks, and the log that is written; what is in it is passed over.
    #[allow(clippy::type_complexity, reason = "two things that belong together")]
    fn input(&self, tasks: Option<&[OsString]>) -> Result<(input::Tasks, Option<JobLog>), Refusal> {
        let Some(path) = &self.joblog else { return Ok((self.source(tasks)?, None)) };
        let refuse = |error: io::Error| Refusal::usage(format!("job log {}: {error}", path.display()));
        let goes_on = self.resume || self.resume_failed || self.retry_failed;
        let source = if self.retry_failed {
            let history = History::read(path).map_err(refuse)?;
            input::numbered(history.failed())
        } else if goes_on {
            let history = History::read(path).map_err(refuse)?;
            let resume = if self.resume { Resume::Logged } else { Resume::Done };
            input::without(self.source(tasks)?, history, resume)
        } else {
            self.source(tasks)?
        };
        if self.dry_run {
            return Ok((source, None));
        }
        let log =
            JobLog::open(path, if goes_on { Opening::Append } else { Opening::Anew }).map_err(refuse)?;
        Ok((source, Some(log)))
    }

    fn source(&self, tasks: Option<&[OsString]>) -> Result<input::Tasks, Refusal> {
        let single = self.single(tasks)?;
        Ok(match self.batch {
            Some(count) => input::batched(single, count),
            None => single,
        })
    }

    fn single(&self, tasks: Option<&[OsString]>) -> Result<input::Tasks, Refusal> {
        let delimiter = if self.null { 0 } else { self.delimiter.unwrap_or(b'\n') };
        match (tasks, &self.arg_file) {
            (Some(tasks), _) => input::given(tasks, self.mode == How::Lines).map_err(Refusal::usage),
            (None, Some(path)) if path.as_os_str() != "-" => {
                let file = std::fs::File::open(path).map_err(|error| {
                    Refusal::usage(format!("cannot read tasks from {}: {error}", path.display()))
                })?;
                Ok(input::records(file, delimiter))
            }
            _ => Ok(input::records(io::stdin(), delimiter)),
        }
    }
}

/// What the run means for the shell.
fn code_of(summary: &Summary, halts: bool) -> Code {
    match summary.ending {
        Ending::Deadline => Code::Deadline,
        Ending::Asked(signal) => {
            if [crate::sys::SIGINT, crate::sys::SIGTERM, crate::sys::signals::SIGHUP].contains(&signal) {
                crate::sys::signals::die_of(signal);
            }
            Code::Signal(signal)
        }
        Ending::Halted | Ending::Complete if halts && summary.poisoned > 0 => Code::GaveUp,
        _ if summary.failed > 0 => Code::Failed,
        _ => Code::Ok,
    }
}

fn dry_run(template: &Template, input: input::Tasks) -> Result<Code, Refusal> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (number, task) in (1..).zip(input) {
        let task = task.map_err(|error| Refusal::usage(format!("cannot read tasks: {error}")))?;
        let Some(task) = task else { continue };
        let mut line = quoted(&template.fill(&task, number, 1));
        line.push(b'\n');
        if let Err(error) = out.write_all(&line) {
            return broken(&error);
        }
    }
    match out.flush() {
        Ok(()) => Ok(Code::Ok),
        Err(error) => broken(&error),
    }
}

fn broken(error: &io::Error) -> Result<Code, Refusal> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(Code::Signal(crate::sys::signals::SIGPIPE)),
        _ => Err(Refusal::usage(format!("standard output: {error}"))),
    }
}

/// For the lookup of a program.
const fn not_found(errno: i32) -> Cause {
    Cause::Spawn { stage: crate::program::Stage::Exec, errno }
}
