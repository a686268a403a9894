//! Tasks as they come in: records of a stream, words of the command line, what a log has left.

use crate::map::joblog::{History, Resume};
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;

/// Nothing stands for a number that is passed over.
pub(super) type Tasks = Box<dyn Iterator<Item = io::Result<Option<Box<[u8]>>>> + Send>;

/// Each ends with this byte, the last one perhaps with the stream.
pub(super) fn records(stream: impl Read + Send + 'static, delimiter: u8) -> Tasks {
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    Box::new(std::iter::from_fn(move || {
        let mut record = Vec::new();
        match stream.read_until(delimiter, &mut record) {
            Ok(0) => None,
            Ok(_) => {
                record.pop_if(|last| *last == delimiter);
                Some(Ok(Some(record.into())))
            }
            Err(error) => Some(Err(error)),
        }
    }))
}

/// So many together, with a NUL between them; the last may be fewer.
pub(super) fn batched(mut tasks: Tasks, count: u32) -> Tasks {
    let mut failed = None;
    Box::new(std::iter::from_fn(move || {
        if let Some(error) = failed.take() {
            return Some(Err(error));
        }
        let mut batch = Vec::new();
        for _ in 0..count {
            match tasks.next() {
                Some(Ok(Some(task))) => batch.push(task),
                Some(Ok(None)) => {}
                Some(Err(error)) if batch.is_empty() => return Some(Err(error)),
                Some(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                None => break,
            }
        }
        (!batch.is_empty()).then(|| Ok(Some(batch.join(&0).into())))
    }))
}

/// Words behind `:::`.
pub(super) fn given(tasks: &[OsString], as_lines: bool) -> Result<Tasks, String> {
    if as_lines && let Some(bad) = tasks.iter().find(|task| task.as_bytes().contains(&b'\n')) {
        return Err(format!(
            "{bad:?} is more than one line, which --mode lines cannot send; use --mode json"
        ));
    }
    let tasks: Vec<_> = tasks.iter().map(|task| Ok(Some(task.as_bytes().into()))).collect();
    Ok(Box::new(tasks.into_iter()))
}

/// Tasks under numbers of their own, which rise.
pub(super) fn numbered(tasks: Vec<(u64, Box<[u8]>)>) -> Tasks {
    let mut next = 1;
    Box::new(tasks.into_iter().flat_map(move |(number, task)| {
        let gap = number.saturating_sub(next);
        next = next.max(number) + 1;
        let gap = std::iter::repeat_with(|| Ok(None)).take(usize::try_from(gap).unwrap_or(0));
        gap.chain([Ok(Some(task))])
    }))
}

/// Without those that were done before.
pub(super) fn without(tasks: Tasks, mut history: History, resume: Resume) -> Tasks {
    Box::new(tasks.map(move |task| Ok(task?.filter(|task| !history.passes(task, resume)))))
}
