//! The bare ping-pong: a process at the other end of two pipes, and nothing but `write` and `read`.

use crate::peer::again;
use crate::support::Outcome;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// The part of the other end.
pub(crate) const ECHO: &str = "echo";

/// This end.
pub(crate) struct Echo {
    pub(crate) child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Echo {
    /// Starts the other end.
    pub(crate) fn start() -> Outcome<Self> {
        let mut child = again(ECHO)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        Ok(Self { child, input: input.ok_or("no input")?, output: output.ok_or("no output")? })
    }

    /// Eight bytes there, and eight bytes back: one more.
    pub(crate) fn add_one(&mut self, value: u64) -> Outcome<u64> {
        self.input.write_all(&value.to_ne_bytes())?;
        let mut answer = [0; 8];
        self.output.read_exact(&mut answer)?;
        Ok(u64::from_ne_bytes(answer))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Standard input and output without std's buffers.
pub(crate) fn bare_streams() -> Outcome<(File, File)> {
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    let output = std::io::stdout().as_fd().try_clone_to_owned()?;
    Ok((input.into(), output.into()))
}

/// The other end, until the input ends.
pub(crate) fn echo() -> Outcome {
    let (mut input, mut output) = bare_streams()?;
    let mut value = [0; 8];
    while input.read_exact(&mut value).is_ok() {
        output.write_all(&(u64::from_ne_bytes(value) + 1).to_ne_bytes())?;
    }
    Ok(())
}
