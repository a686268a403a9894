//! The tool under test, with a place of its own for sockets.

use crate::MINUTE;
use crate::support::{fresh, poll_or};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use tempfile::TempDir;

/// Where its sockets and files lie.
pub(crate) struct Place(TempDir);

/// A tool that runs.
pub(crate) struct Running<'a> {
    place: &'a Place,
    pub(crate) child: Child,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn tool(&self, args: &[&str]) -> Command {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_procession"));
        tool.args(args).env("XDG_RUNTIME_DIR", self.path()).stdin(Stdio::null());
        fresh(&mut tool);
        tool
    }

    /// To its end.
    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.tool(args).output().unwrap()
    }

    /// `run` with these flags, and a shell that runs a script.
    pub(crate) fn run(&self, flags: &str, script: &str) -> Output {
        self.output(&Self::arguments(flags, script))
    }

    pub(crate) fn start(&self, flags: &str, script: &str) -> Running<'_> {
        let mut tool = self.tool(&Self::arguments(flags, script));
        let child = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { place: self, child }
    }

    fn arguments<'a>(flags: &'a str, script: &'a str) -> Vec<&'a str> {
        let flags = flags.split_whitespace();
        ["run", "--name", "web"].into_iter().chain(flags).chain(["--", "sh", "-c", script]).collect()
    }

    /// The columns of `status`, without the head.
    pub(crate) fn status(&self) -> Vec<Vec<String>> {
        let output = self.output(&["status", "web"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().skip(1).map(|line| line.split('\t').map(Into::into).collect()).collect()
    }

    /// Waits until the states of all copies are so.
    #[track_caller]
    pub(crate) fn until(&self, states: &[&str]) -> Vec<Vec<String>> {
        poll_or("the copies are as expected", MINUTE / 3, || {
            let found: Vec<String> = self.status().into_iter().map(|row| row[3].clone()).collect();
            if found == states { Ok(()) } else { Err(format!("{found:?} instead of {states:?}")) }
        });
        self.status()
    }

    /// Waits until so many copies have said that their traps are set.
    #[track_caller]
    pub(crate) fn until_said(&self, copies: usize) {
        poll_or("all have said so", MINUTE / 3, || {
            let said = said(&self.output(&["logs", "web", "-n", "1"])).out;
            if said.lines().count() == copies { Ok(()) } else { Err(said) }
        });
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.status().iter().filter_map(|row| row[2].parse().ok()).collect()
    }
}

impl Running<'_> {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Its end, and what it said.
    pub(crate) fn end(mut self) -> Said {
        let child = std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap());
        said(&child.wait_with_output().unwrap())
    }

    /// As it is asked to, though nobody has read what it said so far.
    pub(crate) fn stop_unread(mut self) -> i32 {
        let mut stop = self.place.tool(&["stop", "web"]).spawn().unwrap();
        let (out, err) = (self.child.stdout.take(), self.child.stderr.take());
        for stream in
            [out.map(std::os::fd::OwnedFd::from), err.map(std::os::fd::OwnedFd::from)].into_iter().flatten()
        {
            std::thread::spawn(move || std::io::copy(&mut std::fs::File::from(stream), &mut std::io::sink()));
        }
        assert_eq!(code(stop.wait().unwrap()), 0);
        code(self.child.wait().unwrap())
    }

    /// As it is asked to.
    pub(crate) fn stop(self) -> Said {
        assert_eq!(code(self.place.output(&["stop", "web"]).status), 0);
        self.end()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: code(output.status), out: text(&output.stdout), err: text(&output.stderr) }
}

/// As a shell has it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}
