//! A program as a keeper is asked for it.

use super::{Piped, Program};
use crate::error::SpawnError;
use crate::sys::spawn::Stream;
use crate::sys::{E2BIG, EINVAL};
use procession_worker::keeper::protocol::{ASK, LIMITS, PASSED, STRINGS, Stage, Start};
use procession_worker::sys::memory::memfd;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Where to look when the program's environment does not say: what the C library does.
const PATH: &str = "/bin:/usr/bin";

/// All that it takes to ask for a program, as often as necessary.
pub(crate) struct Prepared {
    pub(crate) name: Arc<str>,
    pub(crate) limits: [Option<u64>; LIMITS],
    start: Start,
    /// What the message holds behind the ask; empty if `apart`.
    strings: Vec<u8>,
    apart: Option<File>,
    streams: [Stream; 3],
    passed: Vec<(OwnedFd, i32)>,
}

impl Prepared {
    /// Makes all that out. `home` is where the keeper works.
    ///
    /// # Errors
    /// A text with a NUL in it; too many descriptors; EMFILE, ENFILE.
    pub(crate) fn new(program: Program, home: Option<&Path>) -> Result<(Self, Piped), SpawnError> {
        let name: Arc<str> = program.display_name().into();
        let refuse = |stage, errno| SpawnError::Program { program: Arc::clone(&name), stage, errno };
        let numbers_fit = program.passed.iter().all(|(_, number)| (3..1 << 20).contains(number));
        if program.passed.len() > PASSED || !numbers_fit {
            return Err(refuse(Stage::Streams, EINVAL));
        }
        let mut strings = Strings::default();
        strings.push(&[directory(&program, home).as_deref().unwrap_or_default()]);
        let env = environment(&program);
        let paths = strings.add(|all| paths(&program.path, &env, all));
        let args = strings.add(|all| {
            all.push(&[program.name_inside.as_ref().unwrap_or(&program.path).as_bytes()]);
            program.arguments.iter().for_each(|argument| all.push(&[argument.as_bytes()]));
        });
        let env = strings.add(|all| {
            env.iter().for_each(|(key, value)| all.push(&[key.as_bytes(), b"=", value.as_bytes()]));
        });
        if strings.torn {
            return Err(refuse(Stage::Asking, EINVAL));
        }
        if strings.bytes.len() > STRINGS {
            return Err(refuse(Stage::Exec, E2BIG));
        }
        let failed = |error: io::Error| refuse(Stage::Streams, error.raw_os_error().unwrap_or(EINVAL));
        let (streams, piped) = program.streams.open().map_err(failed)?;
        let start = Start {
            id: 0,
            after: 0,
            streams: [0, 1, 2].map(|at| !matches!(streams[at], Stream::Null)),
            passed: program.passed.iter().map(|(_, number)| *number).collect(),
            limits: program.limits,
            paths,
            args,
            env,
        };
        let mut prepared = Self {
            limits: program.limits,
            start,
            strings: strings.bytes,
            apart: None,
            streams,
            passed: program.passed,
            name: Arc::clone(&name),
        };
        let mut head = Vec::new();
        prepared.start.write(false, &mut head);
        if head.len() + prepared.strings.len() > ASK {
            let file =
                memfd(c"procession-program", prepared.strings.len()).map(File::from).map_err(failed)?;
            file.write_all_at(&std::mem::take(&mut prepared.strings), 0).map_err(failed)?;
            prepared.apart = Some(file);
        }
        Ok((prepared, piped))
    }

    /// The message that asks for it under this number, perhaps when nothing is left of another, and what goes with it.
    pub(crate) fn message(&mut self, id: u64, after: Option<u64>) -> (Vec<u8>, Vec<RawFd>) {
        (self.start.id, self.start.after) = (id, after.unwrap_or(0));
        let mut bytes = Vec::with_capacity(128 + self.strings.len());
        self.start.write(self.apart.is_some(), &mut bytes);
        bytes.extend_from_slice(&self.strings);
        let own = [io::stdin().as_fd().as_raw_fd(), io::stdout().as_raw_fd(), io::stderr().as_raw_fd()];
        let streams = self.streams.iter().zip(own).filter_map(|(stream, own)| match stream {
            Stream::Inherit => Some(own),
            Stream::Null => None,
            Stream::Fd(fd) => Some(fd.as_raw_fd()),
        });
        let passed = self.passed.iter().map(|(fd, _)| fd.as_raw_fd());
        (bytes, streams.chain(passed).chain(self.apart.as_ref().map(AsRawFd::as_raw_fd)).collect())
    }
}

/// Strings one behind the other, each with a NUL at its end.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    count: u32,
    /// One of them has a NUL in it.
    torn: bool,
}

impl Strings {
    fn push(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.torn |= part.contains(&0);
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(0);
        self.count += 1;
    }

    /// How many `fill` adds.
    fn add(&mut self, fill: impl FnOnce(&mut Self)) -> u32 {
        let before = self.count;
        fill(self);
        self.count - before
    }
}

/// Where it is to work, if not where the keeper does.
fn directory(program: &Program, home: Option<&Path>) -> Option<Vec<u8>> {
    let here = std::env::current_dir().ok();
    let there = match (&program.dir, &here) {
        (Some(dir), Some(here)) => here.join(dir),
        (Some(dir), None) => dir.clone(),
        (None, Some(here)) if home != Some(here) => here.clone(),
        (None, _) => return None,
    };
    Some(there.into_os_string().as_bytes().to_vec())
}

fn environment(program: &Program) -> BTreeMap<OsString, OsString> {
    let mut all: BTreeMap<OsString, OsString> =
        if program.clear { BTreeMap::new() } else { std::env::vars_os().collect() };
    for (key, value) in &program.env {
        match value {
            Some(value) => all.insert(key.clone(), value.clone()),
            None => all.remove(key),
        };
    }
    all
}

/// What is to be tried, in turn.
fn paths(path: &OsStr, env: &BTreeMap<OsString, OsString>, all: &mut Strings) {
    let path = path.as_bytes();
    if path.contains(&b'/') || path.is_empty() {
        all.push(&[path]);
        return;
    }
    let dirs = env.get(OsStr::new("PATH")).map_or(PATH.as_bytes(), |dirs| dirs.as_bytes());
    for dir in dirs.split(|byte| *byte == b':') {
        match dir {
            b"" => all.push(&[b"./", path]),
            dir => all.push(&[dir, b"/", path]),
        }
    }
}
