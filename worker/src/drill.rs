//! Tasks that misbehave on purpose: what a buggy or hostile task can do to its worker, for tests and benchmarks.
//!
//! A [`Fault`] is what goes wrong; the functions below are the moments at which it does. Nothing here uses a door that a
//! task does not have: the worker's own descriptors and its page are found in `/proc/self`, as any task could find them.

use crate::entry::{FLAG, Spec};
use crate::sys::{drill, fd, life};
use crate::wire::frame;
use crate::wire::message::Up;
use serde::{Deserialize, Serialize, Serializer};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::RawFd;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

/// Gives back what it was given.
#[must_use]
pub fn echo<T>(value: T) -> T {
    value
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Fault {
    /// `exit(0)`: a success that is none.
    ExitZero,
    /// `exit(3)`.
    ExitThree,
    /// A panic.
    Panic,
    /// `abort()`.
    Abort,
    /// SIGKILL, as the out-of-memory killer sends it.
    Kill,
    /// A read of memory that cannot be read.
    Segfault,
    /// Recursion without end.
    Overflow,
    /// SIGSTOP: alive, and deaf.
    Stop,
    /// Closes the pipe of outcomes, and lives on.
    ClosePipe,
    /// Writes half a frame into the pipe, and is killed.
    HalfFrame,
    /// Writes half a frame into the pipe, and lives on.
    HalfFrameAndOn,
    /// Announces a frame that is longer than any may be, and lives on.
    FalseLength,
    /// Announces a frame of a length that is allowed, far beyond memory, and lives on.
    VastLength,
    /// Overwrites the whole page that it shares with its parent, and is killed.
    Garbage,
    /// Overwrites the whole page that it shares with its parent, and goes on as if nothing had happened.
    GarbageAndOn,
    /// Starts a process that holds the pipe open, and is killed.
    Grandchild,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 16] = [
        Self::ExitZero,
        Self::ExitThree,
        Self::Panic,
        Self::Abort,
        Self::Kill,
        Self::Segfault,
        Self::Overflow,
        Self::Stop,
        Self::ClosePipe,
        Self::HalfFrame,
        Self::HalfFrameAndOn,
        Self::FalseLength,
        Self::VastLength,
        Self::Garbage,
        Self::GarbageAndOn,
        Self::Grandchild,
    ];

    /// Does what it says, here and now. Returns if the process lives on.
    pub fn strike(self) {
        match self {
            Self::ExitZero => exit(0),
            Self::ExitThree => exit(3),
            Self::Panic => burst(),
            Self::Abort => std::process::abort(),
            Self::Kill => kill(),
            Self::Segfault => drill::touch_nothing(),
            Self::Overflow => drop(std::hint::black_box(sink_into(0))),
            Self::Stop => drop(life::signal_self(19)),
            Self::ClosePipe => drill::close(spec().map_or(-1, |spec| spec.outcomes)),
            Self::HalfFrame => {
                utter(100, 10);
                kill();
            }
            Self::HalfFrameAndOn => utter(100, 10),
            Self::FalseLength => utter(1 << 50, 10),
            Self::VastLength => utter(1 << 39, 10),
            Self::Garbage => {
                scribble();
                kill();
            }
            Self::GarbageAndOn => scribble(),
            Self::Grandchild => {
                leave_grandchild(None);
                kill();
            }
        }
    }

    /// Strikes in the middle of something: what lives on and is in no state to go on stays there for ever.
    pub fn strike_here(self) {
        self.strike();
        if !matches!(self, Self::GarbageAndOn) {
            hang();
        }
    }
}

/// Waits for ever.
pub fn hang() -> ! {
    loop {
        thread::park();
    }
}

/// In a call: gives back `value`, unless it is to strike.
#[must_use]
pub fn call(fault: Option<Fault>, value: u64) -> u64 {
    fault.inspect(|fault| fault.strike_here());
    value
}

/// A result that strikes while it is encoded.
#[derive(Debug, Clone, Deserialize)]
pub struct Awkward(#[serde(skip)] Option<Fault>, u64);

impl Awkward {
    /// What it carries.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.1
    }
}

impl Serialize for Awkward {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.inspect(|fault| fault.strike_here());
        serializer.serialize_newtype_struct("Awkward", &self.1)
    }
}

/// While encoding: gives back `value` in a wrapping that may strike.
#[must_use]
pub fn encode(fault: Option<Fault>, value: u64) -> Awkward {
    Awkward(fault, value)
}

/// What [`large`] promises: far more than a pipe holds, and nowhere alike.
#[must_use]
pub fn eight_mib() -> String {
    (0..1_u32 << 20).map(|n| format!("{n:07} ")).collect()
}

/// While writing a large result: a second thread strikes as soon as the first bytes of it lie in the pipe.
#[must_use]
pub fn large(fault: Option<Fault>) -> String {
    let result = eight_mib();
    if let Some(fault) = fault {
        let pipe = outcomes();
        thread::spawn(move || {
            while fd::unread(&pipe).is_ok_and(|unread| unread == 0) {
                thread::yield_now();
            }
            fault.strike();
        });
    }
    result
}

/// While idle: a second thread strikes as soon as somebody opens the named pipe at `trigger` for writing. The worker's
/// process id.
#[must_use]
pub fn idle(fault: Fault, trigger: String) -> u32 {
    thread::spawn(move || {
        if File::open(trigger).is_ok() {
            fault.strike();
        }
    });
    std::process::id()
}

static LAST: AtomicU8 = AtomicU8::new(u8::MAX);

extern "C" fn strike_at_exit() {
    if let Some(fault) = Fault::ALL.get(usize::from(LAST.load(Ordering::Relaxed))) {
        match fault {
            // `exit` in an exit handler is undefined; `_exit` is what such code means.
            Fault::ExitZero => life::exit_now(0),
            Fault::ExitThree => life::exit_now(3),
            _ => fault.strike(),
        }
    }
}

/// In shutdown: strikes when the process exits. Gives back `value`.
#[must_use]
pub fn at_exit(fault: Fault, value: u64) -> u64 {
    LAST.store(fault as u8, Ordering::Relaxed);
    drill::at_exit(strike_at_exit);
    value
}

/// The environment variable that [`at_birth`] obeys: a fault's name, as `Debug` writes it.
pub const AT_BIRTH: &str = "PROCESSION_DRILL_AT_BIRTH";

/// Before Hello, called from a constructor: strikes if this is a worker whose environment says so.
pub fn at_birth() {
    let Some(name) = std::env::var_os(AT_BIRTH) else { return };
    if spec().is_none() {
        return;
    }
    if let Some(fault) = Fault::ALL.into_iter().find(|fault| name.to_str() == Some(&format!("{fault:?}"))) {
        fault.strike();
    }
}

/// Starts a process that holds the pipe of outcomes open for an hour: in the worker's process group, or, so that nobody
/// can find it there, in a group of its own. Its process id.
pub fn leave_grandchild(group: Option<i32>) -> u32 {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("sleep");
    command.arg("3600").stdin(Stdio::null()).stdout(outcomes());
    group.map(|group| command.process_group(group));
    command.spawn().map_or(0, |child| child.id())
}

/// Starts a grandchild in a group of its own, and is killed.
pub fn desert() {
    leave_grandchild(Some(0));
    kill();
}

/// The environment variable that names the file to which a worker adds its process id (four bytes) at its first
/// [`mark`].
pub const AT_WORK: &str = "PROCESSION_DRILL_AT_WORK";

fn sign_on() {
    if let Some(path) = std::env::var_os(AT_WORK)
        && let Ok(mut file) = OpenOptions::new().append(true).open(path)
    {
        let _ = file.write_all(&std::process::id().to_ne_bytes());
    }
}

/// Adds 1 to byte `index` of the file at `path`, gives back `index`; the mark of one that runs. At `fatal` it is killed.
#[must_use]
pub fn mark(path: String, index: u64, fatal: u64) -> u64 {
    use std::os::unix::fs::FileExt;
    static FIRST: Once = Once::new();
    FIRST.call_once(sign_on);
    if let Ok(file) = OpenOptions::new().read(true).write(true).open(path) {
        let mut byte = [0];
        let _ = file.read_exact_at(&mut byte, index);
        let _ = file.write_all_at(&[byte[0] + 1], index);
    }
    if index == fatal {
        kill();
    }
    index
}

/// Runs until it is killed, without a system call: as busy as can be.
pub fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

#[expect(clippy::exit, reason = "the drill")]
fn exit(code: i32) {
    std::process::exit(code);
}

#[expect(clippy::panic, reason = "the drill")]
fn burst() {
    panic!("drill");
}

fn kill() {
    let _ = life::signal_self(9);
}

#[expect(unconditional_recursion, reason = "the drill")]
fn sink_into(depth: u64) -> [u64; 64] {
    let mut frame = std::hint::black_box([depth; 64]);
    frame[0] += sink_into(depth + 1)[1];
    frame
}

/// The numbers of this worker's descriptors, as its command line says. `None` in any other process.
fn spec() -> Option<Spec> {
    let line = std::fs::read("/proc/self/cmdline").ok()?;
    let spec = line.split(|&byte| byte == 0).find_map(|word| word.strip_prefix(FLAG.as_bytes()))?;
    Spec::parse(std::str::from_utf8(spec).ok()?)
}

fn through(number: RawFd) -> File {
    let path = format!("/proc/self/fd/{number}");
    OpenOptions::new().write(true).open(path).expect("a worker has this descriptor")
}

/// Another writer of the pipe of outcomes.
fn outcomes() -> File {
    through(spec().expect("only a worker has a pipe").outcomes)
}

/// Announces a value of `length` bytes and writes `bytes` of them.
fn utter(length: usize, bytes: usize) {
    let mut frame = Vec::new();
    frame::push_header(&mut frame, Up::Value as u8, length);
    frame.resize(frame.len() + bytes, 0xee);
    let _ = outcomes().write_all(&frame);
}

/// Fills the shared page with nonsense, through whichever door is open: the descriptor, before the worker has taken it,
/// or its memory.
fn scribble() {
    let nonsense = |len: usize| (0..len).map(|n| 0x80 | (n * 37 % 127) as u8).collect::<Vec<u8>>();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Some(range) = maps.lines().find(|line| line.contains("procession-page")) else {
        let _ = through(spec().map_or(-1, |spec| spec.page)).write_all(&nonsense(68 * 1024));
        return;
    };
    let numbers = range.split_whitespace().next().and_then(|range| range.split_once('-'));
    let Some((start, end)) = numbers else { return };
    let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
    let (start, end) = (number(start), number(end));
    if let Ok(mut memory) = OpenOptions::new().write(true).open("/proc/self/mem") {
        let _ = memory.seek(SeekFrom::Start(start));
        let _ = memory.write_all(&nonsense(usize::try_from(end - start).unwrap_or(0)));
    }
}
