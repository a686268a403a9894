//! `procession run`: copies kept alive.

use super::happenings::Teller;
use super::signals::Ears;
use super::{Code, duration, place, say, size};
use crate::control::Server;
use crate::program::{Limit, Program};
use crate::supervise::{LogDir, Outcome, Place, Supervisor, SupervisorBuilder};
use crate::supervisor::{ExitSet, OnLimit, Restart, RestartLimit, Until};
use crate::sys::signals;
use clap::{Args, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// Keeps copies of a program alive
#[derive(Debug, Args)]
#[command(after_help = super::exit::TABLE)]
pub(super) struct Run {
    /// So many copies
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    copies: u32,
    /// Name of the copies, and of the socket [the program's]
    #[arg(long, value_name = "NAME", value_parser = place::name)]
    name: Option<String>,
    /// The socket that `status`, `stop` and the others talk to [$XDG_RUNTIME_DIR/procession/NAME.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// When a copy that ended is started again; a crash is a signal or a limit, not an exit code
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", help_heading = "Restart")]
    restart: When,
    /// Before the first restart; doubles with each in a row, ±25 % [100ms]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Restart")]
    restart_delay: Option<Duration>,
    /// The longest it becomes [30s]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Restart")]
    restart_max_delay: Option<Duration>,
    /// Up (or ready) for so long, all is forgiven [10s]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Restart")]
    stable_after: Option<Duration>,
    /// N: restarts in a row without being stable; N/TIME: within a time; none [10]
    #[arg(long, value_parser = limit, value_name = "N|N/TIME|none", help_heading = "Restart")]
    restart_limit: Option<RestartLimit>,
    /// At the limit: this copy has failed, or all are stopped
    #[arg(long, value_enum, value_name = "ACTION", help_heading = "Restart")]
    on_limit: Option<AtLimit>,
    /// Exit codes and signals that are a success, as in 0,143,TERM [0]
    #[arg(long, value_name = "LIST", help_heading = "Restart")]
    success_exit: Option<ExitSet>,
    /// Exit codes and signals after which there is no restart
    #[arg(long, value_name = "LIST", help_heading = "Restart")]
    fatal_exit: Option<ExitSet>,
    /// It is over when any, all or never a copy has ended for good
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", help_heading = "Restart")]
    until: End,

    /// How a copy says that it is ready: notify (sd_notify), or line:REGEX (it prints such a line)
    #[arg(long, value_parser = ready, value_name = "MODE", help_heading = "Start and stop")]
    ready: Option<Ready>,
    /// How long that may take [60s]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", requires = "ready", help_heading = "Start and stop")]
    start_timeout: Option<Duration>,
    /// The signal that asks a copy and all it has started to end; CONT follows [TERM]
    #[arg(long, value_parser = signal, value_name = "SIGNAL", help_heading = "Start and stop")]
    stop_signal: Option<i32>,
    /// Then KILL; 0 = at once [10s]
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Start and stop")]
    stop_timeout: Option<Duration>,
    /// Replace copies of this age, ±10 %, one at a time
    #[arg(long, value_parser = duration::parse, value_name = "TIME", help_heading = "Start and stop")]
    max_age: Option<Duration>,
    /// Replace copies with so much memory, ±10 %, one at a time
    #[arg(long, value_parser = size::parse, value_name = "SIZE", help_heading = "Start and stop")]
    max_rss: Option<u64>,

    /// Where the copies work
    #[arg(short = 'C', long, value_name = "DIR", help_heading = "Process")]
    chdir: Option<PathBuf>,
    /// Sets a variable; may be repeated
    #[arg(long = "env", value_parser = variable, value_name = "KEY=VALUE", help_heading = "Process")]
    envs: Vec<(String, String)>,
    /// Sets variables from lines KEY=VALUE; # begins a comment
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    env_file: Vec<PathBuf>,
    /// Starts with no variables but these
    #[arg(long, help_heading = "Process")]
    clean_env: bool,
    /// memory=512M, cpu-time=30s, nofile=1024, fsize=1G, core=0; may be repeated
    #[arg(short, long = "limit", value_parser = rlimit, value_name = "KEY=VALUE", help_heading = "Process")]
    limits: Vec<Limit>,

    /// lines: whole lines; raw: the copies' own; none [lines; none with --log-dir]
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Output")]
    output: Option<Output>,
    /// Before each line; {name} and {id} are replaced [on a terminal, with more than one copy]
    #[arg(long, value_name = "TEMPLATE", num_args = 0..=1, require_equals = true, default_missing_value = TAG, help_heading = "Output")]
    tag: Option<String>,
    /// Into files NAME.ID.log
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    log_dir: Option<PathBuf>,
    /// None gets larger [10M]
    #[arg(long, value_parser = size::parse, value_name = "SIZE", requires = "log_dir", help_heading = "Output")]
    log_size: Option<u64>,
    /// So many older ones are kept [5]
    #[arg(long, value_name = "N", requires = "log_dir", help_heading = "Output")]
    log_keep: Option<u32>,
    /// Says nothing but errors
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    quiet: bool,
    /// Says every start and end
    #[arg(short, long, help_heading = "Output")]
    verbose: bool,

    /// The program and its arguments; it reads from /dev/null
    #[arg(required = true, trailing_var_arg = true, value_name = "PROG")]
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

fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` has no =; type KEY=VALUE"))?;
    if key.is_empty() {
        Err("a variable needs a name before the =".into())
    } else {
        Ok((key.into(), value.into()))
    }
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

fn rlimit(text: &str) -> Result<Limit, String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no =; type for example memory=512M"))?;
    Ok(match key {
        "memory" => Limit::Memory(size::parse(value)?),
        "cpu-time" => Limit::CpuTime(duration::parse(value)?),
        "nofile" => Limit::OpenFiles(value.parse().map_err(|_| format!("`{value}` is no number"))?),
        "fsize" => Limit::FileSize(size::parse(value)?),
        "core" => Limit::CoreSize(size::parse(value)?),
        _ => {
            return Err(format!(
                "there is no limit `{key}`; there are memory, cpu-time, nofile, fsize, core"
            ));
        }
    })
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
        let mut server = Server::claim(&name, socket.as_deref(), given)?;
        let seen = self.output() == Output::Lines || self.log_dir.is_some();
        let mut builder = self.builder(&name)?.on_happening(teller.into_ear());
        if seen {
            builder = builder.listen(server.keep_tails());
        }
        let supervisor = builder.start().map_err(|error| error.to_string())?;
        let remote = supervisor.remote();
        let grace = stop_timeout.unwrap_or(Duration::from_secs(10));
        let opened = server.open(remote.clone()).and_then(|()| ears.listen(remote, grace));
        opened.map_err(|error| format!("cannot start a thread: {error}"))?;
        let outcome = supervisor.wait();
        let unheard = supervisor.output_error();
        drop((server, supervisor));
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
            Output::Lines => builder.lines(tag.as_deref()),
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

/// The program, as often as it is wanted.
fn describe(run: &Run) -> Result<impl FnMut(&Place<'_>) -> Program + Send + 'static, String> {
    let mut envs: Vec<(OsString, OsString)> = Vec::new();
    for file in &run.env_file {
        let bytes = std::fs::read(file)
            .map_err(|error| format!("cannot read --env-file {}: {error}", file.display()))?;
        for (number, line) in (1..).zip(bytes.split(|&b| b == b'\n')) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let at = line.iter().position(|&b| b == b'=').filter(|&at| at > 0);
            let at = at.ok_or_else(|| format!("{}:{number}: a line must be KEY=VALUE", file.display()))?;
            envs.push((OsStr::from_bytes(&line[..at]).into(), OsStr::from_bytes(&line[at + 1..]).into()));
        }
    }
    envs.extend(run.envs.iter().map(|(key, value)| (key.into(), value.into())));
    let (command, clean, dir, limits) =
        (run.command.clone(), run.clean_env, run.chdir.clone(), run.limits.clone());
    Ok(move |_: &Place<'_>| {
        let mut program = Program::new(&command[0]).args(&command[1..]);
        if clean {
            program = program.env_clear();
        }
        if let Some(dir) = &dir {
            program = program.current_dir(dir);
        }
        program = envs.iter().fold(program, |program, (key, value)| program.env(key, value));
        limits.iter().fold(program, |program, &limit| program.limit(limit))
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
