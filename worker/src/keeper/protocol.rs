//! What is said between a keeper and its owner: asks down, replies up, as messages of one socket. Pure; the picture is in
//! `README.md` beside this file.

pub use crate::sys::exec::{LIMITS, Stage};
pub use crate::sys::vigil::Usage;
use std::ffi::CStr;

/// An ask is at most so long; the strings of a longer one come in a memory file.
pub const ASK: usize = 32 * 1024;
/// And those are at most so long: the kernel takes no more than 6 MiB of arguments and environment.
pub const STRINGS: usize = 8 << 20;
/// A message of replies is at most so long.
pub const REPLIES: usize = 4096;
/// Descriptors that can be passed besides the standard streams.
pub const PASSED: usize = 64;
/// A program as it is asked for, but for its strings and descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// The owner's number for it.
    pub id: u64,
    /// It is to begin when nothing is left of the program of this number; 0 for at once.
    pub after: u64,
    /// Which of its standard streams come as descriptors; the others are /dev/null.
    pub streams: [bool; 3],
    /// What numbers the other descriptors are to have.
    pub passed: Vec<i32>,
    /// At most so much of each kind, in the order of [`Stage`].
    pub limits: [Option<u64>; LIMITS],
    /// How many paths are to be tried, one after the other.
    pub paths: u32,
    /// How many arguments, the program's name included.
    pub args: u32,
    /// How many variables.
    pub env: u32,
}

impl Start {
    /// So many descriptors come with it, not counting the strings'.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.streams.iter().filter(|given| **given).count() + self.passed.len()
    }

    /// Writes the ask. The strings follow, unless they come in a memory file.
    pub fn write(&self, apart: bool, out: &mut Vec<u8>) {
        out.push(Kind::Start as u8);
        out.extend_from_slice(&self.id.to_ne_bytes());
        out.extend_from_slice(&self.after.to_ne_bytes());
        let bits = (0..).zip(self.streams).map(|(at, given)| u8::from(given) << at).sum::<u8>();
        out.push(bits | u8::from(apart) << 3);
        out.push(u8::try_from(self.passed.len()).unwrap_or(u8::MAX));
        for number in &self.passed {
            out.extend_from_slice(&number.to_ne_bytes());
        }
        for limit in self.limits {
            out.push(u8::from(limit.is_some()));
            out.extend_from_slice(&limit.unwrap_or(0).to_ne_bytes());
        }
        for count in [self.paths, self.args, self.env] {
            out.extend_from_slice(&count.to_ne_bytes());
        }
    }
}

/// The strings of a program: its directory (empty: the keeper's own), its paths, arguments and variables.
#[derive(Debug, Clone, Copy)]
pub struct Strings<'a> {
    bytes: &'a [u8],
    paths: usize,
    args: usize,
    env: usize,
}

impl<'a> Strings<'a> {
    /// Believes the bytes if they are exactly as many strings as the ask says, each with its end.
    #[must_use]
    pub fn check(start: &Start, bytes: &'a [u8]) -> Option<Self> {
        let [paths, args, env] = [start.paths, start.args, start.env].map(|n| usize::try_from(n).ok());
        let (paths, args, env) = (paths?, args?, env?);
        let wanted = paths.checked_add(args)?.checked_add(env)?.checked_add(1)?;
        let ends = bytes.iter().filter(|byte| **byte == 0).count();
        let whole = bytes.last() == Some(&0) && ends == wanted && paths > 0 && args > 0;
        whole.then_some(Self { bytes, paths, args, env })
    }

    fn all(self) -> impl Iterator<Item = &'a CStr> {
        self.bytes.split_inclusive(|byte| *byte == 0).filter_map(|part| CStr::from_bytes_with_nul(part).ok())
    }

    /// Where it is to work, if not where the keeper does.
    #[must_use]
    pub fn dir(self) -> Option<&'a CStr> {
        self.all().next().filter(|dir| !dir.is_empty())
    }

    /// What is to be executed: the first of these that can be.
    pub fn paths(self) -> impl Iterator<Item = &'a CStr> {
        self.all().skip(1).take(self.paths)
    }

    /// Its arguments.
    pub fn args(self) -> impl Iterator<Item = &'a CStr> {
        self.all().skip(1 + self.paths).take(self.args)
    }

    /// Its environment.
    pub fn env(self) -> impl Iterator<Item = &'a CStr> {
        self.all().skip(1 + self.paths + self.args).take(self.env)
    }
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Start = 1,
    Signal,
    Stop,
    Kill,
    Recall,
    Ready,
    Refused,
    Started,
    Failed,
    Exited,
    Gone,
}

/// What an owner asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Start a program; its strings lie here, or come in a memory file as the last descriptor.
    Start(Start, Option<&'a [u8]>),
    /// Signal everything that the program is and has started.
    Signal(u64, i32),
    /// The same and SIGCONT; and what is left when the program ends is not a leak: it may take its time.
    Stop(u64, i32),
    /// Kill everything that the program is and has started.
    Kill(u64),
    /// Do not start a program that is still to follow another. Too late, it changes nothing.
    Recall(u64),
}

impl<'a> Ask<'a> {
    /// Reads one message.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        let kind = rest.byte()?;
        let id = rest.long()?;
        let ask = match kind {
            kind if kind == Kind::Start as u8 => return Self::read_start(id, rest),
            kind if kind == Kind::Signal as u8 => Self::Signal(id, rest.int()?),
            kind if kind == Kind::Stop as u8 => Self::Stop(id, rest.int()?),
            kind if kind == Kind::Kill as u8 => Self::Kill(id),
            kind if kind == Kind::Recall as u8 => Self::Recall(id),
            _ => return None,
        };
        rest.0.is_empty().then_some(ask)
    }

    fn read_start(id: u64, mut rest: Reader<'a>) -> Option<Self> {
        let after = rest.long()?;
        let bits = rest.byte()?;
        if bits >= 16 {
            return None;
        }
        let streams = [0, 1, 2].map(|at| bits >> at & 1 == 1);
        let passed = usize::from(rest.byte()?);
        if passed > PASSED {
            return None;
        }
        let passed = (0..passed).map(|_| rest.int()).collect::<Option<Vec<_>>>()?;
        let mut limits = [None; LIMITS];
        for limit in &mut limits {
            let (is_set, value) = (rest.byte()?, rest.long()?);
            *limit = (is_set == 1).then_some(value);
            if is_set > 1 || (is_set == 0 && value != 0) {
                return None;
            }
        }
        let (paths, args, env) = (rest.count()?, rest.count()?, rest.count()?);
        let start = Start { id, after, streams, passed, limits, paths, args, env };
        match bits >> 3 {
            0 => Some(Self::Start(start, Some(rest.0))),
            _ => rest.0.is_empty().then_some(Self::Start(start, None)),
        }
    }

    /// Writes the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (kind, id, signal) = match self {
            Self::Start(start, strings) => {
                start.write(strings.is_none(), out);
                out.extend_from_slice(strings.unwrap_or_default());
                return;
            }
            Self::Signal(id, signal) => (Kind::Signal, id, Some(signal)),
            Self::Stop(id, signal) => (Kind::Stop, id, Some(signal)),
            Self::Kill(id) => (Kind::Kill, id, None),
            Self::Recall(id) => (Kind::Recall, id, None),
        };
        out.push(kind as u8);
        out.extend_from_slice(&id.to_ne_bytes());
        if let Some(signal) = signal {
            out.extend_from_slice(&signal.to_ne_bytes());
        }
    }
}

/// What a keeper tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It lives, and can do its work here.
    Ready,
    /// It cannot: what it tried, and an errno.
    Refused(u8, i32),
    /// The program runs; its pidfd comes along.
    Started {
        /// The owner's number for it.
        id: u64,
        /// The process id.
        pid: u32,
    },
    /// The program does not run.
    Failed {
        /// The owner's number for it.
        id: u64,
        /// How far it came.
        stage: Stage,
        /// What the system said.
        errno: i32,
    },
    /// The program has ended.
    Exited {
        /// The owner's number for it.
        id: u64,
        /// As wait(2) has it.
        status: i32,
        /// What it used.
        usage: Usage,
        /// So many that it has started are still there; if any, `Gone` follows.
        left: u32,
    },
    /// And now nothing is left of it.
    Gone {
        /// The owner's number for it.
        id: u64,
    },
}

impl Reply {
    /// The longest one.
    pub const LARGEST: usize = 1 + 8 + 4 + 3 * 8 + 4;

    /// Does a descriptor go with it?
    #[must_use]
    pub const fn has_descriptor(&self) -> bool {
        matches!(self, Self::Started { .. })
    }

    /// Appends it to a message.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Ready => out.push(Kind::Ready as u8),
            Self::Refused(step, errno) => {
                out.extend_from_slice(&[Kind::Refused as u8, step]);
                out.extend_from_slice(&errno.to_ne_bytes());
            }
            Self::Started { id, pid } => {
                out.push(Kind::Started as u8);
                out.extend_from_slice(&id.to_ne_bytes());
                out.extend_from_slice(&pid.to_ne_bytes());
            }
            Self::Failed { id, stage, errno } => {
                out.push(Kind::Failed as u8);
                out.extend_from_slice(&id.to_ne_bytes());
                out.push(stage as u8);
                out.extend_from_slice(&errno.to_ne_bytes());
            }
            Self::Exited { id, status, usage, left } => {
                out.push(Kind::Exited as u8);
                out.extend_from_slice(&id.to_ne_bytes());
                out.extend_from_slice(&status.to_ne_bytes());
                for number in [usage.user, usage.sys, usage.max_rss] {
                    out.extend_from_slice(&number.to_ne_bytes());
                }
                out.extend_from_slice(&left.to_ne_bytes());
            }
            Self::Gone { id } => {
                out.push(Kind::Gone as u8);
                out.extend_from_slice(&id.to_ne_bytes());
            }
        }
    }
}

/// The replies of one message; `None` among them is nonsense, and the last.
#[derive(Debug)]
pub struct Replies<'a>(Reader<'a>);

impl<'a> Replies<'a> {
    /// Those in `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(Reader(bytes))
    }

    fn read(&mut self) -> Option<Reply> {
        let rest = &mut self.0;
        Some(match rest.byte()? {
            kind if kind == Kind::Ready as u8 => Reply::Ready,
            kind if kind == Kind::Refused as u8 => Reply::Refused(rest.byte()?, rest.int()?),
            kind if kind == Kind::Started as u8 => Reply::Started { id: rest.long()?, pid: rest.count()? },
            kind if kind == Kind::Failed as u8 => {
                let (id, stage) = (rest.long()?, Stage::from_number(rest.byte()?)?);
                Reply::Failed { id, stage, errno: rest.int()? }
            }
            kind if kind == Kind::Exited as u8 => {
                let (id, status) = (rest.long()?, rest.int()?);
                let usage = Usage { user: rest.long()?, sys: rest.long()?, max_rss: rest.long()? };
                Reply::Exited { id, status, usage, left: rest.count()? }
            }
            kind if kind == Kind::Gone as u8 => Reply::Gone { id: rest.long()? },
            _ => return None,
        })
    }
}

impl Iterator for Replies<'_> {
    type Item = Option<Reply>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.0.is_empty() {
            return None;
        }
        let reply = self.read();
        if reply.is_none() {
            self.0 = Reader(&[]);
        }
        Some(reply)
    }
}

#[derive(Debug)]
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn int(&mut self) -> Option<i32> {
        self.array().map(i32::from_ne_bytes)
    }

    fn count(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start() -> impl Strategy<Value = Start> {
        let passed = prop::collection::vec(any::<i32>(), 0..PASSED);
        let counts = any::<(u32, u32, u32)>();
        (any::<(u64, u64)>(), any::<[bool; 3]>(), passed, any::<[Option<u64>; LIMITS]>(), counts).prop_map(
            |((id, after), streams, passed, limits, (paths, args, env))| Start {
                id,
                after,
                streams,
                passed,
                limits,
                paths,
                args,
                env,
            },
        )
    }

    fn reply() -> impl Strategy<Value = Reply> {
        let stage = prop::sample::select(&Stage::ALL[..]);
        prop_oneof![
            Just(Reply::Ready),
            any::<(u8, i32)>().prop_map(|(step, errno)| Reply::Refused(step, errno)),
            any::<(u64, u32)>().prop_map(|(id, pid)| Reply::Started { id, pid }),
            (any::<u64>(), stage, any::<i32>()).prop_map(|(id, stage, errno)| Reply::Failed {
                id,
                stage,
                errno
            }),
            any::<(u64, i32, u64, u64, u64, u32)>().prop_map(|(id, status, user, sys, max_rss, left)| {
                Reply::Exited { id, status, usage: Usage { user, sys, max_rss }, left }
            }),
            any::<u64>().prop_map(|id| Reply::Gone { id }),
        ]
    }

    proptest! {
        #[test]
        fn an_ask_comes_back(start in start(), strings: Option<Vec<u8>>, id: u64, signal: i32) {
            let asks = [
                Ask::Start(start, strings.as_deref()), Ask::Signal(id, signal), Ask::Stop(id, signal), Ask::Kill(id),
                Ask::Recall(id),
            ];
            for ask in asks {
                let mut bytes = Vec::new();
                ask.write(&mut bytes);
                prop_assert_eq!(Ask::read(&bytes), Some(ask));
            }
        }

        #[test]
        fn any_other_bytes_are_refused_or_mean_what_they_say(bytes: Vec<u8>) {
            if let Some(ask) = Ask::read(&bytes) {
                let mut again = Vec::new();
                ask.write(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn replies_come_back(replies in prop::collection::vec(reply(), 0..20)) {
            let mut bytes = Vec::new();
            for reply in &replies {
                let before = bytes.len();
                reply.write(&mut bytes);
                prop_assert!(bytes.len() - before <= Reply::LARGEST);
            }
            prop_assert_eq!(Replies::new(&bytes).collect::<Option<Vec<_>>>(), Some(replies));
        }

        #[test]
        fn any_other_bytes_end_the_replies(bytes: Vec<u8>) {
            let all: Vec<_> = Replies::new(&bytes).collect();
            prop_assert!(all.iter().rev().skip(1).all(Option::is_some));
            let mut again = Vec::new();
            all.iter().flatten().for_each(|reply| reply.write(&mut again));
            prop_assert!(bytes.starts_with(&again));
        }

        #[test]
        fn strings_are_as_many_as_was_said(strings in prop::collection::vec("[a-z]{0,3}", 0..9), paths: u32, args in 0..9_u32) {
            let paths = paths % 9;
            let bytes: Vec<u8> = strings.iter().flat_map(|text| text.bytes().chain([0])).collect();
            let env = u32::try_from(strings.len()).unwrap().saturating_sub(1 + paths + args);
            let start = Start { paths, args, env, ..Start::default() };
            match Strings::check(&start, &bytes) {
                Some(all) => {
                    let dir = all.dir().unwrap_or_default();
                    let parts: Vec<_> = [dir].into_iter().chain(all.paths()).chain(all.args()).chain(all.env()).collect();
                    prop_assert_eq!(parts.len(), strings.len());
                    prop_assert!(parts.iter().zip(&strings).all(|(part, text)| part.to_bytes() == text.as_bytes()));
                }
                None => prop_assert!(paths == 0 || args == 0 || strings.len() as u64 != 1 + u64::from(paths + args + env)),
            }
        }
    }
}
