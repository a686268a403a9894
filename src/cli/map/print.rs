//! What is printed of tasks: their bytes, with tags or as JSON; the log; the tasks that failed.

use super::progress::Progress;
use crate::cause::Cause;
use crate::map::joblog::JobLog;
use crate::map::json::string;
use crate::map::template::Template;
use crate::map::{Piece, Report};
use crate::supervise::{Pen, stamp};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How it is to be printed.
pub(super) struct Style<'a> {
    pub(super) tag: Option<OsString>,
    pub(super) json: bool,
    pub(super) template: Template,
    pub(super) log: Option<JobLog>,
    /// The log was moved.
    pub(super) reopen: Arc<AtomicBool>,
    pub(super) failed: Option<File>,
    /// Where what each task printed is kept.
    pub(super) results: Option<PathBuf>,
    pub(super) terminator: u8,
    /// Says of each task that fails why, as long as they are few.
    pub(super) explains: bool,
    pub(super) progress: &'a Progress,
}

pub(super) struct Printer<'a> {
    style: Style<'a>,
    tag: Option<Template>,
    out: BufWriter<File>,
    err: BufWriter<File>,
    failed: Vec<u8>,
    pens: [Pen; 2],
    explained: usize,
}

/// So many failures are explained one by one.
const EXPLAINED: usize = 10;
/// So much of a task is shown there.
const SHOWN: usize = 60;

impl<'a> Printer<'a> {
    /// # Errors
    /// EMFILE, or the stream is closed.
    pub(super) fn new(style: Style<'a>) -> io::Result<Self> {
        let own = |fd: &dyn AsFd| -> io::Result<_> {
            Ok(BufWriter::with_capacity(64 << 10, fd.as_fd().try_clone_to_owned()?.into()))
        };
        let tag = style.tag.as_ref().map(|tag| Template::new(std::slice::from_ref(tag), b"{}", false));
        Ok(Self {
            tag,
            out: own(&io::stdout())?,
            err: own(&io::stderr())?,
            failed: Vec::new(),
            pens: Default::default(),
            explained: 0,
            style,
        })
    }

    pub(super) fn piece(&mut self, piece: &Piece) -> io::Result<()> {
        let tag = self.tag_of(&piece.task, piece.seq, piece.slot);
        let (out, err) = (&mut self.out, &mut self.err);
        let to = if piece.is_err { err } else { out };
        // Parts of a line that is too long come one by one.
        let mut bytes = Vec::with_capacity(piece.bytes.len() + 64);
        let pen = &mut self.pens[usize::from(piece.is_err)];
        pen.write(piece.seq, tag.as_deref().unwrap_or_default(), &piece.bytes, &mut bytes);
        let done = to.write_all(&bytes);
        if piece.is_err { Ok(()) } else { done }
    }

    fn tag_of(&self, task: &[u8], seq: u64, slot: usize) -> Option<Vec<u8>> {
        let words = self.tag.as_ref()?.fill(task, seq, slot);
        words.into_iter().next().map(OsString::into_vec)
    }

    pub(super) fn report(&mut self, mut report: Report) -> io::Result<()> {
        if let Some(log) = &mut self.style.log {
            log.note(&report, &self.style.template.fill(&report.task, report.seq, report.slot));
        }
        if self.style.failed.is_some() && !report.cause.is_ok() {
            // Of several arguments each is a task again.
            let ends = |byte: &u8| if *byte == 0 { self.style.terminator } else { *byte };
            self.failed.extend(report.task.iter().map(ends));
            self.failed.push(self.style.terminator);
        }
        if let Some(dir) = &self.style.results {
            keep(dir, &mut report).map_err(|error| {
                io::Error::other(format!("cannot write results into {}: {error}", dir.display()))
            })?;
        }
        if self.style.json {
            return record(report, &mut self.out);
        }
        let (why, slot) = ((report.cause, report.cut), report.slot);
        let (seq, task) = (report.seq, report.task.clone());
        self.say(report)?;
        self.explain(why, seq, &task, slot);
        Ok(())
    }

    /// Why a task has failed: one line each, and the first few only.
    fn explain(&mut self, (cause, cut): (Cause, bool), seq: u64, task: &[u8], slot: usize) {
        if !self.style.explains || cause.is_ok() || cut || self.explained > EXPLAINED {
            return;
        }
        self.explained += 1;
        let line = if self.explained > EXPLAINED {
            "procession: and more; --joblog FILE or --json tells of each\n".to_owned()
        } else {
            let text = String::from_utf8_lossy(task);
            let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
            let more = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
            let what = match cause {
                Cause::Spawn { .. } => {
                    let words = self.style.template.fill(task, seq, slot);
                    let program =
                        words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
                    let script = if program.contains(' ') { "; for a script use --sh" } else { "" };
                    format!("{program:?} {cause}{script}")
                }
                _ => cause.to_string(),
            };
            format!("procession: task {seq} ({shown}{more}): {what}\n")
        };
        // Nobody may be there to hear complaints.
        let _ = self.err.write_all(line.as_bytes());
    }

    fn say(&mut self, mut report: Report) -> io::Result<()> {
        if report.out.is_empty() && report.err.is_empty() {
            return Ok(());
        }
        let large = report.out.len() + report.err.len() > 32 << 10;
        if large {
            self.flush_streams()?;
        }
        let tag = self.tag_of(&report.task, report.seq, report.slot);
        let (out, err) = (&mut self.out, &mut self.err);
        let print = || match tag {
            Some(tag) => {
                report.out.write_to(&mut Tagged { tag: tag.clone(), to: &mut *out, fresh: true })?;
                let _ = report.err.write_to(&mut Tagged { tag, to: &mut *err, fresh: true });
                Ok(())
            }
            None => {
                report.out.write_to(out)?;
                // Nobody may be there to hear complaints.
                let _ = report.err.write_to(err);
                Ok(())
            }
        };
        if large { self.style.progress.aside(print) } else { print() }
    }

    fn flush_streams(&mut self) -> io::Result<()> {
        if self.out.buffer().is_empty() && self.err.buffer().is_empty() {
            return Ok(());
        }
        let (out, err) = (&mut self.out, &mut self.err);
        self.style.progress.aside(|| {
            let printed = out.flush();
            let _ = err.flush();
            printed
        })
    }

    /// Passes on all that was printed, and only then says in the log that it was.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.flush_streams()?;
        let explain =
            |what: &str, error: &io::Error| io::Error::other(format!("cannot write the {what}: {error}"));
        if let Some(log) = &mut self.style.log {
            let reopen = self.style.reopen.swap(false, Ordering::AcqRel);
            let written = if reopen { log.reopen() } else { log.flush() };
            written.map_err(|error| explain("job log", &error))?;
        }
        if let Some(file) = &mut self.style.failed
            && !self.failed.is_empty()
        {
            file.write_all(&self.failed).map_err(|error| explain("list of failed tasks", &error))?;
            self.failed.clear();
        }
        Ok(())
    }
}

impl Drop for Printer<'_> {
    fn drop(&mut self) {
        // What could not be printed is not to be tried again.
        let closed = File::open("/dev/null").map(BufWriter::new);
        if let Ok(closed) = closed {
            let (_, _) = std::mem::replace(&mut self.out, closed).into_parts();
        }
    }
}

/// What a task printed, in a directory of its own.
fn keep(dir: &Path, report: &mut Report) -> io::Result<()> {
    let dir = dir.join(report.seq.to_string());
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("task"), &report.task)?;
    report.out.write_to(&mut File::create(dir.join("stdout"))?)?;
    report.err.write_to(&mut File::create(dir.join("stderr"))?)
}

/// Begins each line with a tag.
struct Tagged<'a, W> {
    tag: Vec<u8>,
    to: &'a mut W,
    fresh: bool,
}

impl<W: Write> Write for Tagged<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.fresh {
                self.to.write_all(&self.tag)?;
            }
            self.to.write_all(line)?;
            self.fresh = line.ends_with(b"\n");
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// One task as a JSON object.
fn record(report: Report, out: &mut impl Write) -> io::Result<()> {
    let Report {
        seq, task, cause, attempts, slot, pid, started, wall, usage, leaked, out: printed, err, ..
    } = report;
    let number = |number: Option<i64>| number.map_or_else(|| "null".into(), |number| number.to_string());
    let signal = match cause {
        Cause::Signal { signal, .. } => Some(signal.into()),
        _ => None,
    };
    let exit = match cause {
        Cause::Ok => Some(0),
        Cause::Exit(code) => Some(code.into()),
        _ => None,
    };
    write!(out, "{{\"v\":1,\"seq\":{seq}")?;
    bytes("task", &task, out)?;
    write!(
        out,
        ",\"status\":\"{}\",\"exit\":{},\"signal\":{},\"attempts\":{attempts},\"slot\":{slot},\"pid\":{}",
        cause.word(),
        number(exit),
        number(signal),
        number(pid.map(i64::from)),
    )?;
    write!(
        out,
        ",\"start\":\"{}\",\"wall\":{:.6},\"user\":{:.6},\"sys\":{:.6},\"rss\":{},\"leaked\":{leaked}",
        stamp(started),
        wall.as_secs_f64(),
        usage.user.as_secs_f64(),
        usage.sys.as_secs_f64(),
        usage.max_rss
    )?;
    bytes("out", &printed.into_bytes()?, out)?;
    bytes("err", &err.into_bytes()?, out)?;
    out.write_all(b"}\n")
}

/// As text, or by `_b64` if it is none.
fn bytes(key: &str, value: &[u8], out: &mut impl Write) -> io::Result<()> {
    if std::str::from_utf8(value).is_ok() {
        write!(out, ",\"{key}\":")?;
        out.write_all(&string(value))
    } else {
        write!(out, ",\"{key}_b64\":\"")?;
        base64(value, out)?;
        out.write_all(b"\"")
    }
}

fn base64(value: &[u8], out: &mut impl Write) -> io::Result<()> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for three in value.chunks(3) {
        let word =
            three.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let digits = [18, 12, 6, 0].map(|shift| DIGITS[(word >> shift & 63) as usize]);
        let count = three.len() + 1;
        out.write_all(&digits[..count])?;
        out.write_all(&b"=="[..4 - count])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_and_bytes_are_written_as_others_read_them() {
        let at = |seconds| stamp(UNIX_EPOCH + Duration::from_millis(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(at(4_102_444_799_000), "2099-12-31T23:59:59.000Z");
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xff\xfe\xfd\xfc", "//79/A=="),
        ] {
            let mut out = Vec::new();
            base64(bytes, &mut out).unwrap();
            assert_eq!(out, text.as_bytes());
        }
    }
}
