//! The log of jobs: GNU parallel's table with one more column, or a JSON object a line. What is in it need not be done again.
//!
//! A task is known by its bytes, not by its place; of equal ones, each counts.

use super::json::string;
use super::report::Report;
use super::template::{escaped, quoted, unescaped};
use crate::cause::Cause;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The first line of the table.
const HEAD: &str = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\tTask\n";

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Table,
    Json,
}

impl Form {
    /// By what the file is called.
    fn of(path: &Path) -> Self {
        let json = path.extension().is_some_and(|extension| extension == "ndjson" || extension == "jsonl");
        if json { Self::Json } else { Self::Table }
    }
}

/// What to do with a log that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Begin a new one.
    Anew,
    /// Go on where it ends.
    Append,
}

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct JobLog {
    path: PathBuf,
    file: File,
    form: Form,
    pending: Vec<u8>,
}

impl JobLog {
    /// # Errors
    /// What opening says.
    pub(crate) fn open(path: &Path, opening: Opening) -> io::Result<Self> {
        let form = Form::of(path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(opening == Opening::Anew);
        let mut file = options.open(path)?;
        let mut pending = Vec::new();
        if opening == Opening::Append {
            cut_torn_line(&mut file)?;
        }
        if form == Form::Table && file.seek(SeekFrom::End(0)).unwrap_or(0) == 0 {
            pending.extend_from_slice(HEAD.as_bytes());
        }
        let mut log = Self { path: path.into(), file, form, pending };
        log.flush()?;
        Ok(log)
    }

    /// Notes one job; written by [`flush`](Self::flush). What was only cut short or skipped is as if it had not been.
    pub(crate) fn note(&mut self, report: &Report, words: &[OsString]) {
        if report.cut {
            return;
        }
        let start = report.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let (wall, sent, received) = (report.wall.as_secs_f64(), 0, report.out.len());
        let (exit, signal) = codes(report.cause);
        let seq = report.seq;
        match self.form {
            Form::Table => {
                let head =
                    format!("{seq}\t:\t{start:.3}\t{wall:10.3}\t{sent}\t{received}\t{exit}\t{signal}\t");
                self.pending.extend_from_slice(head.as_bytes());
                self.pending.extend_from_slice(&quoted(words));
                self.pending.push(b'\t');
                self.pending.extend_from_slice(&escaped(&report.task, b'\t'));
            }
            Form::Json => {
                let head = format!("{{\"v\":1,\"seq\":{seq},\"start\":{start:.3},\"wall\":{wall:.3}");
                self.pending.extend_from_slice(head.as_bytes());
                let status = report.cause.word();
                let more = format!(
                    ",\"status\":\"{status}\",\"exit\":{exit},\"signal\":{signal},\"attempts\":{},\"received\":{received}",
                    report.attempts
                );
                self.pending.extend_from_slice(more.as_bytes());
                for (key, bytes) in
                    [(",\"command\":", quoted(words)), (",\"key\":", escaped(&report.task, b'\t'))]
                {
                    self.pending.extend_from_slice(key.as_bytes());
                    self.pending.extend_from_slice(&string(&bytes));
                }
                self.pending.push(b'}');
            }
        }
        self.pending.push(b'\n');
    }

    /// Writes what was noted: whole lines.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.file.write_all(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Somebody has moved it: from here on it is a new one, or goes on where there is one.
    ///
    /// # Errors
    /// What opening says.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        *self = Self::open(&self.path, Opening::Append)?;
        self.pending = pending;
        self.flush()
    }
}

/// Exit code and signal, as GNU parallel has them.
fn codes(cause: Cause) -> (i32, i32) {
    match cause {
        Cause::Signal { signal, .. } => (0, signal),
        Cause::Timeout => (-1, crate::sys::SIGTERM),
        other => (other.exit_code(), 0),
    }
}

/// Whoever wrote it was killed in the middle of a line: that line never was.
fn cut_torn_line(file: &mut File) -> io::Result<()> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut buffer = [0; 4096];
    while end > 0 {
        let size = end.min(buffer.len() as u64);
        file.seek(SeekFrom::Start(end - size))?;
        let part = &mut buffer[..usize::try_from(size).unwrap_or(0)];
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            end = end - size + at as u64 + 1;
            break;
        }
        end -= size;
    }
    file.set_len(end)
}

/// What a log says of one task, of which there may be several.
#[derive(Debug, Default)]
struct Past {
    /// By number: did the last attempt go well?
    fates: HashMap<u64, bool>,
}

/// What was done before.
#[derive(Debug, Default)]
pub(crate) struct History {
    tasks: HashMap<Box<[u8]>, Past>,
}

/// Which tasks are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Whatever is in the log.
    Logged,
    /// What went well.
    Done,
}

impl History {
    /// Reads a log; none is an empty one.
    ///
    /// # Errors
    /// It cannot be read, or a line in it was not written by us.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let mut history = Self::default();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(history),
            Err(error) => return Err(error),
        };
        let form = Form::of(path);
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        let mut number = 0_u64;
        while {
            line.clear();
            lines.read_until(b'\n', &mut line)?
        } > 0
        {
            number += 1;
            // The last line may be torn.
            let Some(text) = line.strip_suffix(b"\n") else { break };
            if form == Form::Table && number == 1 && text.starts_with(b"Seq\t") {
                continue;
            }
            let entry = match form {
                Form::Table => row(text),
                Form::Json => object(text),
            };
            let (seq, well, task) = entry.ok_or_else(|| {
                let text = format!(
                    "line {number} has no task of ours; a log that another tool wrote cannot be resumed, move it away"
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            history.note(seq, well, task);
        }
        Ok(history)
    }

    fn note(&mut self, seq: u64, well: bool, task: Box<[u8]>) {
        self.tasks.entry(task).or_default().fates.insert(seq, well);
    }

    /// Is the next task that looks so to be passed over? Each call is one task.
    pub(crate) fn passes(&mut self, task: &[u8], resume: Resume) -> bool {
        let Some(past) = self.tasks.get_mut(task) else { return false };
        let found =
            past.fates.iter().find(|(_, well)| resume == Resume::Logged || **well).map(|(seq, _)| *seq);
        found.is_some_and(|seq| past.fates.remove(&seq).is_some())
    }

    /// All that did not go well, with their numbers, in order.
    pub(crate) fn failed(self) -> Vec<(u64, Box<[u8]>)> {
        let mut failed = Vec::new();
        for (task, past) in self.tasks {
            let bad = past.fates.into_iter().filter(|(_, well)| !well);
            failed.extend(bad.map(|(seq, _)| (seq, task.clone())));
        }
        failed.sort();
        failed
    }
}

fn row(line: &[u8]) -> Option<(u64, bool, Box<[u8]>)> {
    let columns: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
    let [seq, _, _, _, _, _, exit, signal, _, task] = columns.as_slice() else { return None };
    let seq = std::str::from_utf8(seq).ok()?.parse().ok()?;
    Some((seq, *exit == b"0" && *signal == b"0", unescaped(task)?.into()))
}

fn object(line: &[u8]) -> Option<(u64, bool, Box<[u8]>)> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    let task = unescaped(value.get("key")?.as_str()?.as_bytes())?;
    Some((value.get("seq")?.as_u64()?, value.get("status")? == "ok", task.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tasks_are_counted_and_the_last_attempt_of_each_counts() {
        let mut history = History::default();
        for (seq, well) in [(1, true), (2, false), (2, true), (3, false)] {
            history.note(seq, well, b"a".as_slice().into());
        }
        let passes = (0..4).map(|_| history.passes(b"a", Resume::Done)).collect::<Vec<_>>();
        assert_eq!(passes, [true, true, false, false]);
        assert_eq!(history.failed(), [(3, b"a".as_slice().into())]);
    }

    #[test]
    fn a_torn_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let line = "1\t:\t1.0\t 0.1\t0\t0\t0\t0\techo x\tx\n";
        std::fs::write(&path, format!("{HEAD}{line}2\t:\t1.0")).unwrap();
        let mut history = History::read(&path).unwrap();
        assert!(history.passes(b"x", Resume::Logged) && !history.passes(b"x", Resume::Logged));
        drop(JobLog::open(&path, Opening::Append).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{HEAD}{line}"));
        std::fs::write(&path, "1\t:\tgnu\n").unwrap();
        assert!(History::read(&path).unwrap_err().to_string().contains("line 1"));
    }
}
