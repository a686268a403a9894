//! The verbs that talk to a running one.

use super::place::{Who, who};
use super::{Code, duration, say, table};
use crate::control::{Client, Request, Row, TalkError};
use crate::sys::signals;
use clap::Args;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Which one is meant
#[derive(Debug, Args)]
pub(super) struct Where {
    /// NAME, NAME:2 or NAME:*; not needed when only one runs
    #[arg(value_parser = who, value_name = "WORKER")]
    who: Vec<Who>,
    /// Its socket, instead of its name
    #[arg(short, long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Shows how the copies fare: a table on a terminal, tab-separated elsewhere
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    at: Where,
    /// A JSON object a line
    #[arg(long)]
    json: bool,
    /// Tab-separated, on a terminal too
    #[arg(long, conflicts_with = "json")]
    plain: bool,
    /// These columns, as in name,pid,state
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', value_parser = table::column)]
    output: Vec<usize>,
    /// Again and again, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// Stops copies, or all and the run itself; says who holds it up
#[derive(Debug, Args)]
pub(super) struct Stop {
    #[command(flatten)]
    at: Where,
}

/// Replaces copies, one after the other; files of variables are read again
#[derive(Debug, Args)]
#[command(visible_alias = "reload")]
pub(super) struct Restart {
    #[command(flatten)]
    at: Where,
}

/// Starts copies that were stopped or have failed
#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    at: Where,
}

/// Changes the number of copies
#[derive(Debug, Args)]
pub(super) struct Scale {
    /// NAME, which is not needed when only one runs, and the number
    #[arg(required = true, num_args = 1..=2, value_names = ["NAME", "N"])]
    words: Vec<String>,
    /// Its socket, instead of its name
    #[arg(short, long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Signals copies, with all that they have started
#[derive(Debug, Args)]
pub(super) struct Signal {
    /// By name or number, as in HUP
    #[arg(value_parser = |text: &str| signals::number(text).ok_or("no such signal; kill -l lists them"))]
    signal: i32,
    #[command(flatten)]
    at: Where,
}

/// Waits until copies are up (and ready), or gone
#[derive(Debug, Args)]
pub(super) struct Wait {
    #[command(flatten)]
    at: Where,
    /// Until they are up; ready, if they say so at all
    #[arg(long, conflicts_with = "stopped")]
    ready: bool,
    /// Until none of them lives [default]
    #[arg(long)]
    stopped: bool,
    /// At most so long
    #[arg(long, value_parser = duration::parse, value_name = "TIME")]
    timeout: Option<Duration>,
}

/// Prints what happens, a JSON object a line, as it happens
#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(flatten)]
    at: Where,
}

/// Prints what the copies printed
#[derive(Debug, Args)]
pub(super) struct Logs {
    #[command(flatten)]
    at: Where,
    /// And what they will print
    #[arg(short, long)]
    follow: bool,
    /// So many lines of each
    #[arg(short = 'n', long, default_value_t = 10, value_name = "N")]
    lines: usize,
}

/// Whom to ask, about which copies; none means all.
struct Found {
    client: Client,
    ids: Vec<u32>,
}

impl Where {
    fn find(&self) -> Result<Found, TalkError> {
        let name = self.who.first().map(|who| who.name.as_str());
        if self.who.iter().any(|who| Some(who.name.as_str()) != name) {
            return Err(TalkError::Refused("these are of several runs; ask for one at a time".into()));
        }
        let client = Client::find(self.socket.as_deref(), name)?;
        let all = self.who.iter().any(|who| who.id.is_none());
        let ids = if all { Vec::new() } else { self.who.iter().filter_map(|who| who.id).collect() };
        Ok(Found { client, ids })
    }
}

impl Found {
    fn is_meant(&self, row: &Row) -> bool {
        self.ids.is_empty() || self.ids.contains(&row.id)
    }

    fn rows(&self) -> Result<Vec<Row>, TalkError> {
        let rows = self.client.status()?;
        if let Some(id) = self.ids.iter().find(|id| !rows.iter().any(|row| row.id == **id)) {
            return Err(TalkError::Refused(format!("there is no copy {id}")));
        }
        Ok(rows.into_iter().filter(|row| self.is_meant(row)).collect())
    }

    /// Waits until the copies are as they should be; true if they are. After a second it says who holds it up.
    fn wait_until(&self, limit: Option<Duration>, is_so: impl Fn(&[Row]) -> bool) -> Result<bool, TalkError> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut events = self.client.ask(&Request::Events)?.1;
        let mut told = false;
        loop {
            if is_so(&self.rows()?) {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            let patience =
                if told { left } else { Some(left.unwrap_or(Duration::MAX).min(Duration::from_secs(1))) };
            match events.line(patience) {
                Ok(Some(_)) => {}
                // Too slow for all that happens, or it ended: the next look tells.
                Ok(None) => events = self.client.ask(&Request::Events)?.1,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    if !told {
                        told = true;
                        self.rows()?.iter().filter(|row| row.state == "stopping").for_each(tell_blocking);
                    }
                }
                Err(error) => return Err(TalkError::Refused(error.to_string())),
            }
        }
    }
}

fn tell_blocking(row: &Row) {
    let pid = row.pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
    let left = row.due.map_or_else(
        || "it was killed".into(),
        |due| format!("SIGKILL in {}", duration::show(Duration::try_from_secs_f64(due).unwrap_or_default())),
    );
    say(format_args!("waiting for {}:{}{pid}, which has not ended; {left}", row.name, row.id));
}

/// What becomes of an answer.
fn end(answer: Result<Code, TalkError>) -> Code {
    match answer {
        Ok(code) => code,
        Err(TalkError::Nobody(text)) => {
            say(text);
            Code::Nobody
        }
        Err(TalkError::Refused(text)) => {
            say(text);
            Code::Refused
        }
    }
}

/// False when nobody reads any more.
fn print(bytes: &[u8]) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).is_ok()
}

impl Status {
    pub(super) fn run(self) -> Code {
        end(self.try_run())
    }

    fn try_run(&self) -> Result<Code, TalkError> {
        let found = self.at.find()?;
        let terminal = io::stdout().is_terminal();
        let mut events = if self.watch { Some(found.client.ask(&Request::Events)?.1) } else { None };
        loop {
            let rows = found.rows()?;
            let text = match () {
                () if self.json => rows.iter().map(|row| table::json(row, &self.output)).collect(),
                () if !terminal || self.plain => table::tsv(&rows, &self.output),
                () if self.watch => format!("\x1b[H\x1b[2J{}", table::draw(&rows, &self.output)),
                () => table::draw(&rows, &self.output),
            };
            if !print(text.as_bytes()) {
                return Ok(Code::Signal(13));
            }
            let Some(events) = &mut events else {
                return Ok(if rows.iter().all(Row::is_up) { Code::Ok } else { Code::NotRunning });
            };
            // Times go on though nothing happens, for whoever watches.
            let patience = terminal.then_some(Duration::from_secs(1));
            match events.line(patience) {
                Ok(None) => return Ok(Code::Nobody),
                Err(error) if error.kind() != io::ErrorKind::TimedOut => {
                    return Err(TalkError::Refused(error.to_string()));
                }
                _ => {}
            }
        }
    }
}

impl Stop {
    pub(super) fn run(self) -> Code {
        end(self.at.find().and_then(|found| {
            found.client.ask(&Request::Stop { ids: found.ids.clone() })?;
            let rests = |rows: &[Row]| !rows.iter().any(Row::lives);
            match found.wait_until(None, rests) {
                // It has gone, as it was asked to.
                Err(TalkError::Nobody(_)) if found.ids.is_empty() => Ok(Code::Ok),
                waited => waited.map(|_| Code::Ok),
            }
        }))
    }
}

impl Restart {
    pub(super) fn run(self) -> Code {
        end(self.at.find().and_then(|found| {
            found.client.ask(&Request::Restart { ids: found.ids.clone() })?;
            Ok(Code::Ok)
        }))
    }
}

impl Start {
    pub(super) fn run(self) -> Code {
        end(self.at.find().and_then(|found| {
            found.client.ask(&Request::Start { ids: found.ids.clone() })?;
            Ok(Code::Ok)
        }))
    }
}

impl Scale {
    pub(super) fn run(self) -> Code {
        let (name, count) = match self.words.as_slice() {
            [name, count] => (Some(name.as_str()), count),
            [count] => (None, count),
            _ => return Code::Own,
        };
        let Ok(copies) = count.parse() else {
            say(format_args!("`{count}` is no number of copies; type for example: procession scale web 8"));
            return Code::Own;
        };
        end(Client::find(self.socket.as_deref(), name)
            .and_then(|client| client.ask(&Request::Scale { copies }))
            .map(|_| Code::Ok))
    }
}

impl Signal {
    pub(super) fn run(self) -> Code {
        end(self.at.find().and_then(|found| {
            found.client.ask(&Request::Signal { ids: found.ids.clone(), signal: self.signal })?;
            Ok(Code::Ok)
        }))
    }
}

impl Wait {
    pub(super) fn run(self) -> Code {
        let up = |rows: &[Row]| !rows.is_empty() && rows.iter().all(Row::is_up);
        let gone = |rows: &[Row]| !rows.iter().any(|row| row.lives() || row.state == "backoff");
        end(self.at.find().and_then(|found| {
            let waited = if self.ready {
                found.wait_until(self.timeout, up)
            } else {
                found.wait_until(self.timeout, gone)
            };
            match waited {
                Err(TalkError::Nobody(_)) if !self.ready => Ok(Code::Ok),
                Ok(false) => {
                    Err(TalkError::Refused("not in time; procession status says how far they are".into()))
                }
                waited => waited.map(|_| Code::Ok),
            }
        }))
    }
}

impl Events {
    pub(super) fn run(self) -> Code {
        end(self.at.find().and_then(|found| {
            let mut events = found.client.ask(&Request::Events)?.1;
            while let Ok(Some(line)) = events.line(None) {
                let id = serde_json::from_slice::<serde_json::Value>(&line)
                    .ok()
                    .and_then(|event| event.get("id")?.as_u64());
                let meant =
                    found.ids.is_empty() || found.ids.iter().any(|&wanted| Some(u64::from(wanted)) == id);
                if meant && !print(&line) {
                    return Ok(Code::Signal(13));
                }
            }
            Ok(Code::Ok)
        }))
    }
}

impl Logs {
    pub(super) fn run(self) -> Code {
        end(self.at.find().and_then(|found| {
            let request = Request::Logs { ids: found.ids.clone(), lines: self.lines, follow: self.follow };
            let mut stream = found.client.ask(&request)?.1;
            loop {
                match stream.bytes() {
                    Ok(bytes) if bytes.is_empty() => return Ok(Code::Ok),
                    Ok(bytes) if !print(&bytes) => return Ok(Code::Signal(13)),
                    Ok(_) => {}
                    Err(error) => return Err(TalkError::Refused(error.to_string())),
                }
            }
        }))
    }
}
