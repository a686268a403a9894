//! Other processes to measure against: this very program started again to play a part, or another one.
#![allow(dead_code, reason = "all benchmarks share it, and none of them needs all of it")]

use crate::support::Outcome;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const PART: &str = "--part=";
/// So long may a peer take to end after its input has.
const PARTING: Duration = Duration::from_secs(5);

/// The part that this process was started to play, if it was.
pub(crate) fn part() -> Option<String> {
    std::env::args().nth(1)?.strip_prefix(PART).map(str::to_owned)
}

/// The program itself, to be started again for a part.
pub(crate) fn again(part: &str) -> Outcome<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(format!("{PART}{part}"));
    Ok(command)
}

/// A process that answers each line with a line. It first says `ready`, and it ends when its input does.
pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it said when it was ready, after that word.
    pub(crate) greeting: String,
}

impl Peer {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(command: &mut Command) -> Outcome<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.ok_or("no output")?);
        let mut peer = Self { child, input, output, greeting: String::new() };
        let said = peer.read()?;
        let greeting = said.strip_prefix("ready").ok_or_else(|| format!("{name} is not ready"))?;
        greeting.trim().clone_into(&mut peer.greeting);
        Ok(peer)
    }

    /// Asks for a number.
    pub(crate) fn ask(&mut self, question: &str) -> Outcome<f64> {
        let input = self.input.as_mut().ok_or("no input")?;
        input.write_all(format!("{question}\n").as_bytes())?;
        Ok(self.read()?.parse()?)
    }

    /// SIGKILL, without a word; waits until it is dead.
    pub(crate) fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn read(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.input.take());
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < PARTING {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays the part of a [`Peer`] in this process.
pub(crate) fn answer(greeting: &str, mut reply: impl FnMut(&str) -> Outcome<f64>) -> Outcome {
    println!("ready {greeting}");
    for line in std::io::stdin().lines() {
        println!("{}", reply(&line?)?);
    }
    Ok(())
}
