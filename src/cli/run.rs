//! `procession run`: copies kept alive.

use super::around::Around;
use super::budget::Budget;
use super::happenings::Teller;
use super::signals::Ears;
use super::{Code, duration, place, say, size};
use crate::control::{self, Server};
use crate::program::Program;
use crate::supervise::{LogDir, Outcome, Place, Supervisor, SupervisorBuilder};
use crate::supervisor::{ExitSet, OnLimit, Restart, RestartLimit, Until};
use crate::sys::{ENXIO, O_NONBLOCK, signals};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Keeps copies of a program alive
#[derive(Debug, Args)]
#[command(after_long_help = super::exit::TABLE, override_usage = "procession run [OPTIONS] -- PROG [ARG]...")]
pub(super) struct Run {
    /// So many copies
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    copies: u32,
    /// Theirs, and the socket's [the program's]
    #[arg(long, value_name = "NAME", value_parser = place::name)]
    name: Option<String>,
    /// The socket that `status`, `stop` and the others talk to [$XDG_RUNTIME_DIR/procession/NAME.sock]
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    socket: Option<PathBuf>,
    /// Keeps this process's number in a file, as long as it runs
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pidfile: Option<PathBuf>,

    /// When: no, on-failure, on-crash or always
    ///
    /// A crash is a signal or a limit, not an exit code.
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", help_heading = "Restart")]
    restart: When,
    /// Before the first restart; doubles with each in a row, ±25 % [100ms]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Restart", hide_short_help = true)]
    restart_delay: Option<Duration>,
    /// The longest it becomes [30s]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Restart", hide_short_help = true)]
    restart_max_delay: Option<Duration>,
    /// Up (or ready) for so long, all is forgiven [10s]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Restart", hide_short_help = true)]
    stable_after: Option<Duration>,
    /// So many in a row (10), 5/1m in a time, or none
    ///
    /// In a row: without one that was stable. A limit that the growing delays make unreachable is refused.
    #[arg(long, value_parser = limit, value_name = "LIMIT", help_heading = "Restart")]
    restart_limit: Option<RestartLimit>,
    /// At the limit: this copy has failed, or all are stopped
    #[arg(long, value_enum, value_name = "ACTION", help_heading = "Restart", hide_short_help = true)]
    on_limit: Option<AtLimit>,
    /// Exit codes and signals that are a success, as in 0,143,TERM [0]
    #[arg(long, value_name = "LIST", help_heading = "Restart", hide_short_help = true)]
    success_exit: Option<ExitSet>,
    /// Exit codes and signals after which there is no restart
    #[arg(long, value_name = "LIST", help_heading = "Restart", hide_short_help = true)]
    fatal_exit: Option<ExitSet>,
    /// Over when any, all or never one ended for good
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", help_heading = "Restart")]
    until: End,

    /// How they say they are ready: notify, line:REGEX
    ///
    /// notify: as sd_notify(3) has it; line: it prints a line that matches.
    #[arg(long, value_parser = ready, value_name = "MODE", help_heading = "Start and stop")]
    ready: Option<Ready>,
    /// How long that may take [60s]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", requires = "ready", help_heading = "Start and stop", hide_short_help = true)]
    start_timeout: Option<Duration>,
    /// The signal that asks a copy and all it has started to end; CONT follows [TERM]
    #[arg(long, value_parser = signal, value_name = "SIGNAL", help_heading = "Start and stop", hide_short_help = true)]
    stop_signal: Option<i32>,
    /// Whom it goes to: tree, all that a copy has started; mixed, the copy alone, and when that has ended the rest is killed
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "MODE",
        help_heading = "Start and stop",
        hide_short_help = true
    )]
    kill_mode: KillMode,
    /// Then KILL; 0 = at once [10s]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Start and stop")]
    stop_timeout: Option<Duration>,
    /// Replace copies of this age, ±10 %, one at a time
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Start and stop", hide_short_help = true)]
    max_age: Option<Duration>,
    /// Replace copies with so much memory, one at a time
    ///
    /// ±10 %, so that it is not all of them at once.
    #[arg(long, value_parser = size::parse, value_name = "SIZE", help_heading = "Start and stop", hide_short_help = true)]
    max_rss: Option<u64>,

    #[command(flatten)]
    around: Around,
    /// For each process, as in memory=512M; see --help
    ///
    /// memory=512M cpu-time=30s nofile=1024 fsize=1G core=0 output=64M; several by commas, or by more -l. One that cannot be
    /// enforced keeps the run from beginning.
    #[arg(short, long = "limit", value_name = "KEY=VALUE", value_delimiter = ',', help_heading = "Process")]
    limits: Vec<Budget>,

    /// lines, raw or none [lines; none with --log-dir]
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Output")]
    output: Option<Output>,
    /// Before each line; {name} and {id} are replaced
    ///
    /// So it is on a terminal, with more than one copy.
    #[arg(long, value_name = "TEMPLATE", num_args = 0..=1, require_equals = true, default_missing_value = TAG, help_heading = "Output")]
    tag: Option<String>,
    /// Begin each line with the time, in UTC
    #[arg(long, help_heading = "Output", hide_short_help = true)]
    timestamps: bool,
    /// Tags in colours, one for each copy [on a terminal, unless NO_COLOR is set]
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = "Output",
        hide_short_help = true
    )]
    color: Color,
    /// A JSON object for each line that a copy prints
    #[arg(long, conflicts_with_all = ["tag", "timestamps"], help_heading = "Output", hide_short_help = true)]
    json: bool,
    /// Write what happens, a JSON object a line, into a file, or a descriptor: fd:3
    #[arg(long, value_name = "FILE|fd:N", help_heading = "Output", hide_short_help = true)]
    events: Option<PathBuf>,
    /// Into files NAME.ID.log
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    log_dir: Option<PathBuf>,
    /// None gets larger [10M]
    #[arg(long, value_parser = size::parse, value_name = "SIZE", requires = "log_dir", help_heading = "Output", hide_short_help = true)]
    log_size: Option<u64>,
    /// So many older ones are kept [5]
    #[arg(long, value_name = "N", requires = "log_dir", help_heading = "Output", hide_short_help = true)]
    log_keep: Option<u32>,
    /// Says nothing but errors
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    quiet: bool,
    /// Says every start and end
    #[arg(short, long, help_heading = "Output")]
    verbose: bool,

    /// The program and its arguments; it reads from /dev/null
    #[arg(required = true, trailing_var_arg = true, value_name = "PROG", hide_short_help = true)]
    command: Vec<OsString>,
}

type SetTime = fn(SupervisorBuilder, Duration) -> SupervisorBuilder;

const TAG: &str = "{name}:{id} | ";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum When {
    No,
    #[default]
    OnFailure,
    OnCrash,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AtLimit {
    Fail,
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum End {
    Any,
    #[default]
    All,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Lines,
    Raw,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum KillMode {
    #[default]
    Tree,
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    fn is_on(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Ready {
    Notify,
    Line(regex_lite::Regex),
}

fn limit(text: &str) -> Result<RestartLimit, String> {
    let refuse = || format!("`{text}` is no limit; type for example 10, 5/1m, or none");
    if text == "none" {
        return Ok(RestartLimit::None);
    }
    match text.split_once('/') {
        None => Ok(RestartLimit::InARow(text.parse().map_err(|_| refuse())?)),
        Some((count, window)) => {
            Ok(RestartLimit::Within(count.parse().map_err(|_| refuse())?, duration::parse(window)?))
        }
    }
}

fn signal(text: &str) -> Result<i32, String> {
    signals::number(text).ok_or_else(|| format!("`{text}` is no signal; type for example TERM, INT, 15"))
}

fn ready(text: &str) -> Result<Ready, String> {
    match text.split_once(':') {
        None if text == "notify" => Ok(Ready::Notify),
        Some(("line", pattern)) => {
            regex_lite::Regex::new(pattern).map(Ready::Line).map_err(|error| format!("`{pattern}`: {error}"))
        }
        _ => Err(format!("`{text}` is no mode; type notify, or line:REGEX")),
    }
}

impl Run {
    pub(super) fn run(self) -> Code {
        match self.try_run() {
            Ok(code) => code,
            Err(text) => {
                say(text);
                Code::Own
            }
        }
    }

    fn try_run(mut self) -> Result<Code, String> {
        self.check()?;
        self.around.settle()?;
        let ears = Ears::new();
        let given = self.name.is_some() || self.socket.is_some();
        let name = self.name.take().unwrap_or_else(|| place::of_program(&self.command[0]));
        let alone = self.copies == 1 && self.restart == When::No;
        let teller = Teller::new(
            self.quiet || alone && !self.verbose,
            self.verbose,
            self.restart_limit.unwrap_or_default(),
        );
        let (stop_timeout, socket) = (self.stop_timeout, self.socket.take());
        let events = self.events.as_deref().map(open_events).transpose()?;
        let mut server = Server::claim(&name, socket.as_deref(), given)?;
        // Not before: who comes second leaves the first one's alone.
        let pidfile = self.pidfile.take().map(PidFile::write).transpose()?;
        let seen = self.output() == Output::Lines || self.log_dir.is_some();
        let mut builder = self.builder(&name)?.on_happening(teller.into_ear());
        if seen {
            builder = builder.listen(server.keep_tails());
        }
        if let Some(mut file) = events {
            // A full disk, or a pipe that nobody reads, is no reason to stop.
            builder = builder.on_happening(move |happening| drop(file.write(&control::event(happening))));
        }
        let supervisor = builder.start().map_err(|error| error.to_string())?;
        let remote = supervisor.remote();
        let grace = stop_timeout.unwrap_or(Duration::from_secs(10));
        let opened = server.open(remote.clone()).and_then(|()| ears.listen(remote, grace));
        opened.map_err(|error| format!("cannot start a thread: {error}"))?;
        let outcome = supervisor.wait();
        let unheard = supervisor.output_error();
        drop((server, supervisor, pidfile));
        Ok(verdict(&outcome, alone, unheard))
    }

    /// What can be said without trying.
    fn check(&self) -> Result<(), String> {
        let with_restarts = [
            ("--restart-delay", self.restart_delay.is_some()),
            ("--restart-max-delay", self.restart_max_delay.is_some()),
            ("--restart-limit", self.restart_limit.is_some()),
            ("--on-limit", self.on_limit.is_some()),
            ("--stable-after", self.stable_after.is_some()),
            ("--fatal-exit", self.fatal_exit.is_some()),
        ];
        if self.restart == When::No
            && let Some((flag, _)) = with_restarts.iter().find(|(_, given)| *given)
        {
            return Err(format!("{flag} means nothing with --restart no: leave one of them out"));
        }
        if self.tag.is_some() && self.output() != Output::Lines {
            return Err("--tag needs --output lines: only lines can be tagged".into());
        }
        if (self.json || self.timestamps) && self.output() != Output::Lines {
            return Err("--json and --timestamps are of lines: leave --output out, or --log-dir".into());
        }
        if self.limits.iter().any(|limit| matches!(limit, Budget::Output(_))) && self.output() == Output::Raw
        {
            return Err(
                "-l output= is enforced where output passes through us: use --output lines or none".into()
            );
        }
        if matches!(self.ready, Some(Ready::Line(_))) && self.output() == Output::Raw {
            return Err("--ready line:… needs --output lines or none: raw output is not seen".into());
        }
        Ok(())
    }

    fn output(&self) -> Output {
        self.output.unwrap_or(if self.log_dir.is_some() { Output::None } else { Output::Lines })
    }

    fn builder(self, name: &str) -> Result<SupervisorBuilder, String> {
        let output = self.output();
        let default_tag = self.copies > 1 && io::stdout().is_terminal();
        let tag = self.tag.clone().or_else(|| default_tag.then(|| TAG.into()));
        let most = self.limits.iter().rev().find_map(|limit| match limit {
            Budget::Output(bytes) => Some(*bytes),
            Budget::Of(_) => None,
        });
        let tag_in_color =
            tag.as_ref().filter(|_| self.color.is_on()).map(|tag| format!("{{color}}{tag}\x1b[0m"));
        let mut builder = Supervisor::builder(name, describe(&self)?)
            .subreaper(true)
            .copies(self.copies)
            .restart(match self.restart {
                When::No => Restart::No,
                When::OnFailure => Restart::OnFailure,
                When::OnCrash => Restart::OnCrash,
                When::Always => Restart::Always,
            })
            .restart_limit(self.restart_limit.unwrap_or_default())
            .on_limit(if self.on_limit == Some(AtLimit::Stop) { OnLimit::Stop } else { OnLimit::Fail })
            .stop_main_first(self.kill_mode == KillMode::Mixed)
            .until(match self.until {
                End::Any => Until::Any,
                End::All => Until::All,
                End::Never => Until::Never,
            });
        let times: [(Option<Duration>, SetTime); 6] = [
            (self.restart_delay, SupervisorBuilder::restart_delay),
            (self.restart_max_delay, SupervisorBuilder::restart_max_delay),
            (self.stable_after, SupervisorBuilder::stable_after),
            (self.start_timeout, SupervisorBuilder::start_timeout),
            (self.stop_timeout, SupervisorBuilder::stop_timeout),
            (self.max_age, SupervisorBuilder::max_age),
        ];
        for (time, set) in times {
            if let Some(time) = time {
                builder = set(builder, time);
            }
        }
        if let Some(set) = self.success_exit {
            builder = builder.success_exit(set);
        }
        if let Some(set) = self.fatal_exit {
            builder = builder.fatal_exit(set);
        }
        if let Some(signal) = self.stop_signal {
            builder = builder.stop_signal(signal);
        }
        if let Some(bytes) = most {
            builder = builder.output_limit(bytes);
        }
        if let Some(bytes) = self.max_rss {
            builder = builder.max_rss(bytes);
        }
        builder = match self.ready {
            Some(Ready::Notify) => builder.ready_on_notify(),
            Some(Ready::Line(pattern)) => {
                builder.ready_on_line(move |line| pattern.is_match(&String::from_utf8_lossy(line)))
            }
            None => builder,
        };
        builder = match output {
            Output::Lines if self.json => builder.lines(None).form(Box::new(control::printed)),
            Output::Lines => {
                let tag = tag.filter(|_| !self.color.is_on()).or(tag_in_color);
                builder.lines(tag.as_deref()).timestamps(self.timestamps)
            }
            Output::Raw => builder,
            Output::None => builder.quiet(),
        };
        if let Some(dir) = self.log_dir {
            let mut logs = LogDir::new(dir);
            logs = self.log_size.map_or(logs.clone(), |size| logs.size(size));
            builder = builder.log_dir(self.log_keep.map_or(logs.clone(), |keep| logs.keep(keep)));
        }
        Ok(builder)
    }
}

/// Where what happens is to be told.
fn open_events(path: &Path) -> Result<File, String> {
    let number = path.to_str().and_then(|text| text.strip_prefix("fd:"));
    let mut options = File::options();
    options.append(true).custom_flags(O_NONBLOCK);
    let opened = match number {
        Some(number) => options.open(format!("/proc/self/fd/{number}")),
        None => options.create(true).open(path),
    };
    opened.map_err(|error| {
        let remedy = if error.raw_os_error() == Some(ENXIO) { "; start its reader first" } else { "" };
        format!("cannot write events to {}: {error}{remedy}", path.display())
    })
}

/// A file with this process's number, as long as it lives.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: PathBuf) -> Result<Self, String> {
        std::fs::write(&path, format!("{}\n", std::process::id()))
            .map_err(|error| format!("cannot write --pidfile {}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another may have written his own since.
        let ours =
            std::fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if ours {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// The program, as often as it is wanted.
fn describe(run: &Run) -> Result<impl FnMut(&Place<'_>) -> Program + Send + 'static, String> {
    let around = run.around.clone();
    let mut envs = around.variables()?;
    let (command, limits) = (run.command.clone(), run.limits.clone());
    let mut is_first = true;
    Ok(move |_: &Place<'_>| {
        let mut program = Program::new(&command[0]).args(&command[1..]);
        if !std::mem::take(&mut is_first) {
            around.renew(&mut envs);
        }
        if around.clean_env {
            program = program.env_clear();
        }
        if let Some(dir) = &around.chdir {
            program = program.current_dir(dir);
        }
        program = envs.iter().fold(program, |program, (key, value)| program.env(key, value));
        limits.iter().fold(program, |program, limit| match *limit {
            Budget::Of(limit) => program.limit(limit),
            Budget::Output(_) => program,
        })
    })
}

fn verdict(outcome: &Outcome, alone: bool, unheard: Option<io::ErrorKind>) -> Code {
    use crate::cause::Cause;
    use crate::exit::Exit;
    // It was told when it happened.
    if let Some((cause, _)) = outcome.never_ran() {
        return Code::of_failed_start(cause);
    }
    match unheard {
        Some(io::ErrorKind::BrokenPipe) => return Code::Signal(13),
        Some(_) => return Code::Own,
        None => {}
    }
    // Whether it was killed or had ended by then: what it printed is not whole.
    if let (true, Some((cause @ Cause::OutputLimit, _))) = (alone, outcome.last()) {
        return Code::Child(u8::try_from(cause.exit_code()).unwrap_or(125));
    }
    if let (true, Some((cause, exit))) = (alone, outcome.last())
        && cause != Cause::StartTimeout
    {
        return match exit {
            Some(Exit::Code(code)) => Code::Child(u8::try_from(code).unwrap_or(255)),
            Some(Exit::Signal(signal)) => {
                // So that whoever waits for us sees the same end.
                signals::die_of(signal);
                Code::Signal(signal)
            }
            None => Code::Own,
        };
    }
    match () {
        () if outcome.gave_up() => Code::GaveUp,
        () if outcome.failed() => Code::Failed,
        () => Code::Ok,
    }
}
