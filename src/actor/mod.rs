//! A state that lives in a process of its own, and is called from anywhere.

mod dict;
mod fate;
mod list;
mod namespace;

pub use dict::Dict;
pub use list::List;
pub use namespace::Namespace;

use crate::error::{Codec, Half, Panic, SpawnError, TaskError};
use crate::process::Process;
use fate::{Fate, Teller};
use procession_worker::ipc::handoff::{self, Handle, Incoming};
use procession_worker::method::{Came, Method, Token};
use procession_worker::sys::{image, socket};
use procession_worker::task::Task;
use procession_worker::wire::codec;
use procession_worker::wire::connection::{self, End, ReceiveTrouble, SendTrouble};
use procession_worker::wire::frame::MAX_PAYLOAD;
use procession_worker::wire::message::PanicRecord;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A handle to a state of type `S` that lives in a process of its own: Python's `Manager`, with any type and any function.
///
/// [`call`](Self::call) runs a function on it there. Calls are run one at a time, so each is one step; those of one caller in
/// their order, those of several in the order in which they came. Handles are cloned, and sent to other processes as
/// arguments, results and items; each process has its own private connection.
///
/// ```
/// use procession::{Actor, Pool};
/// use std::collections::BTreeMap;
///
/// type Words = BTreeMap<String, u32>;
///
/// fn count(words: &mut Words, word: String) {
///     *words.entry(word).or_default() += 1;
/// }
///
/// fn read(words: Actor<Words>, text: String) {
///     for word in text.split(' ') {
///         words.call(count, (word.to_string(),)).expect("the words are alive");
///     }
/// }
///
/// let words = Actor::start(Words::new)?;
/// let pool = Pool::new(2)?;
/// pool.starmap(read, ["a b a", "b a c"].map(|text| (words.clone(), text.to_string())))?;
/// assert_eq!(words.call(|words: &mut Words| words["a"], ())?, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The process ends when the last handle anywhere is gone, and then the state is dropped there; it dies with the process that
/// started it. (So an actor whose state holds a handle to itself ends only then.)
///
/// - A panic in a call is that call's error ([`TaskError::Panicked`]), and the actor lives on, with its state as the panic left it.
/// - When the process dies, every call that has no answer, and every later one, is [`TaskError::Lost`], in every process,
///   with the exit that its starter saw.
/// - A caller that dies, or has stopped waiting ([`call_timeout`](Self::call_timeout)), before its turn is passed over; what runs
///   already runs to its end.
///
/// In the process that uses it, a handle holds three open descriptors, and one more for each call that is made at the same time
/// as others.
#[doc(alias("Manager", "SyncManager", "BaseManager", "BaseProxy", "SharedMemoryManager"))]
#[must_use = "dropped by its last holder, the actor ends, and its state is gone"]
pub struct Actor<S> {
    line: Arc<Line>,
    /// Only where it was started.
    teller: Option<Arc<Teller>>,
    state: PhantomData<fn(S)>,
}

/// How this process reaches the actor.
struct Line {
    door: End,
    fate: Handle,
    pid: u32,
    name: Arc<str>,
    /// Connections on which nobody waits.
    idle: Mutex<Vec<End>>,
}

/// So many connections are kept for the next calls.
const IDLE: usize = 8;

impl<S: 'static> Actor<S> {
    /// Starts a process in which `f` makes the state. Returns as soon as the process exists; if `f` panics there, the first
    /// call says so.
    ///
    /// # Errors
    /// The function lies in a shared library, or the system said no: EMFILE, EAGAIN, ENOMEM.
    pub fn start<F: Task<(), Output = S>>(f: F) -> Result<Self, SpawnError> {
        Self::builder().start(f, ())
    }

    /// As [`start`](Self::start), with arguments for `f`, and a name, an environment and so on for the process.
    ///
    /// ```
    /// use procession::Actor;
    ///
    /// let numbers = Actor::builder().name("numbers").start(|n: usize| vec![0_u8; n], (10,))?;
    /// assert_eq!(numbers.call(|numbers: &mut Vec<u8>| numbers.len(), ())?, 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> ActorBuilder<S> {
        ActorBuilder { name: None, env: Vec::new(), birth_limit: None, state: PhantomData }
    }

    /// Runs `f` on the state, there, and gives what it returns. `args` is the tuple of the arguments that follow the state.
    ///
    /// A closure that captures something does not compile:
    ///
    /// ```compile_fail
    /// let sum = procession::Actor::start(|| 0_u64).unwrap();
    /// let n = 1_u64;
    /// sum.call(move |sum: &mut u64| *sum += n, ()).unwrap();
    /// ```
    ///
    /// # Errors
    /// `f` panicked, the actor's process died, or arguments or result could not be encoded or decoded.
    pub fn call<A, F>(&self, f: F, args: A) -> Result<F::Output, TaskError>
    where
        F: Method<S, A>,
        F::Output: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned + 'static,
    {
        self.call_until(f, &args, None).and_then(|output| output.ok_or(TaskError::Cancelled))
    }

    /// [`call`](Self::call), waiting only so long; `None` if there was no answer by then.
    ///
    /// If the call's turn had not come yet, it will not be run; if it was running, it goes on, and its result is lost.
    ///
    /// # Errors
    /// As `call`.
    pub fn call_timeout<A, F>(&self, f: F, args: A, limit: Duration) -> Result<Option<F::Output>, TaskError>
    where
        F: Method<S, A>,
        F::Output: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned + 'static,
    {
        self.call_until(f, &args, Instant::now().checked_add(limit))
    }

    fn call_until<A, F>(
        &self,
        f: F,
        args: &A,
        deadline: Option<Instant>,
    ) -> Result<Option<F::Output>, TaskError>
    where
        F: Method<S, A>,
        F::Output: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned + 'static,
    {
        let token = Token::of::<S, A, F>(f).map_err(SpawnError::from)?;
        let mut call = token.to_bytes().to_vec();
        let (encoded, handles) = handoff::pack_for::<A, _>(|| codec::encode_into(args, &mut call));
        encoded.map_err(|error| TaskError::Encode(Codec::new(Half::Arguments, error)))?;
        self.line.exchange(&call, &handles, deadline, understand)
    }

    /// The process id of the actor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.line.pid
    }

    /// The name of the actor's process.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.line.name
    }

    /// Ends the process by SIGKILL, with all that it has started; nothing if it has ended. Only where it was started.
    ///
    /// # Errors
    /// `Unsupported` in another process than the one that started it.
    pub fn kill(&self) -> io::Result<()> {
        match &self.teller {
            Some(teller) => teller.kill(),
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "an actor is killed by the process that started it; here, drop the handle",
            )),
        }
    }
}

impl Line {
    /// One call and its answer, which `take` understands; `None` at the deadline.
    fn exchange<R>(
        &self,
        call: &[u8],
        handles: &[Handle],
        deadline: Option<Instant>,
        take: impl Fn(&[u8], Incoming) -> Result<R, TaskError>,
    ) -> Result<Option<R>, TaskError> {
        let waiting = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let end = match waiting.map_or_else(|| self.connect(deadline), Ok) {
            Ok(end) => end,
            Err(trouble) => return self.trouble(trouble),
        };
        if let Err(trouble) = end.send(call, handles, deadline) {
            return self.trouble(trouble);
        }
        match end.receive(MAX_PAYLOAD, deadline, |answer, came| take(&answer, came)) {
            Ok(Some(answer)) => {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() < IDLE {
                    idle.push(end);
                }
                answer.map(Some)
            }
            Err(ReceiveTrouble::Late) => Ok(None),
            Err(ReceiveTrouble::System(errno)) => self.trouble(SendTrouble::System(errno)),
            Err(ReceiveTrouble::NoPlace(errno)) => {
                let error = handoff::HandoffError::Lost(errno);
                Err(TaskError::Decode(Codec::new(Half::Result, error)))
            }
            Ok(None) | Err(ReceiveTrouble::TooLong { .. } | ReceiveTrouble::Nonsense) => {
                self.trouble(SendTrouble::Closed)
            }
        }
    }

    /// A new connection: one end stays here, the other goes through the door.
    fn connect(&self, deadline: Option<Instant>) -> Result<End, SendTrouble> {
        let system = |error: io::Error| SendTrouble::System(error.raw_os_error().unwrap_or(0));
        let (near, far) = connection::pair().map_err(system)?;
        let (given, handles) = handoff::pack(|| far.give());
        given.map_err(|_| SendTrouble::Refused)?;
        self.door.send(&[], &handles, deadline)?;
        Ok(near)
    }

    fn trouble<R>(&self, trouble: SendTrouble) -> Result<Option<R>, TaskError> {
        match trouble {
            SendTrouble::Late => Ok(None),
            SendTrouble::System(errno) => {
                Err(SpawnError::System { stage: "calling the actor", errno }.into())
            }
            SendTrouble::Closed | SendTrouble::Refused => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                Err(Fate::lost(Fate::learn(&self.fate), self.pid, &self.name))
            }
        }
    }
}

fn understand<R: DeserializeOwned>(answer: &[u8], came: Incoming) -> Result<R, TaskError> {
    let undecodable = |error: &dyn fmt::Display| TaskError::Decode(Codec::new(Half::Result, error));
    let Some((&kind, rest)) = answer.split_first() else { return Err(undecodable(&"an empty answer")) };
    let text = || String::from_utf8_lossy(rest).into_owned();
    match Came::from_kind(kind) {
        Some(Came::Value) => {
            handoff::unpack(came, || codec::decode(rest)).map_err(|error| undecodable(&error))
        }
        Some(Came::Panicked) => match codec::decode::<PanicRecord>(rest) {
            Ok(record) => Err(TaskError::Panicked(Panic::new(record))),
            Err(error) => Err(undecodable(&error)),
        },
        Some(Came::Undecodable) => Err(TaskError::Decode(Codec::new(Half::Arguments, text()))),
        Some(Came::Unencodable) => Err(TaskError::Encode(Codec::new(Half::Result, text()))),
        None => Err(undecodable(&"an answer of unknown kind")),
    }
}

/// What the process of an actor is to be; see [`Actor::builder`].
#[must_use = "nothing runs until it is started"]
pub struct ActorBuilder<S> {
    name: Option<String>,
    env: Vec<(std::ffi::OsString, Option<std::ffi::OsString>)>,
    birth_limit: Option<Duration>,
    state: PhantomData<fn() -> S>,
}

impl<S: 'static> ActorBuilder<S> {
    /// Names the process; `Process-N` unless given.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets an environment variable of the process.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes an environment variable from the process.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// How long the process may take until it is ready to work; 30 s unless given.
    pub fn birth_timeout(mut self, limit: Duration) -> Self {
        self.birth_limit = Some(limit);
        self
    }

    /// Starts the process, in which `f` makes the state from `args`. Returns as soon as the process exists.
    ///
    /// # Errors
    /// The arguments could not be encoded, the function lies in a shared library, or the system said no.
    pub fn start<A, F>(self, f: F, args: A) -> Result<Actor<S>, SpawnError>
    where
        F: Task<A, Output = S>,
        A: Serialize + DeserializeOwned + 'static,
    {
        const {
            assert!(
                size_of::<F>() == 0,
                "this closure captures something from its surroundings, or is a function pointer; another process \
                 cannot see what it captures: pass everything as an argument, and name the function itself"
            );
        }
        let _ = f;
        let (door, inner) = connection::pair().map_err(SpawnError::system("making the actor's door"))?;
        let (told, fate) = socket::pair().map_err(SpawnError::system("making the actor's door"))?;
        let mut process = Process::new(host::<S, F, A>, (Door(inner), args));
        if let Some(name) = &self.name {
            process = process.name(name);
        }
        for (key, value) in self.env {
            process = match value {
                Some(value) => process.env(key, value),
                None => process.env_remove(key),
            };
        }
        if let Some(limit) = self.birth_limit {
            process = process.birth_timeout(limit);
        }
        let child = process.start()?;
        let (pid, name) = (child.pid(), child.name().into());
        let teller = Teller::start(child, fate).map_err(SpawnError::system("watching the actor"))?;
        let line = Line { door, fate: Arc::new(told), pid, name, idle: Mutex::default() };
        Ok(Actor { line: Arc::new(line), teller: Some(teller), state: PhantomData })
    }
}

/// What the actor's process runs.
fn host<S: 'static, F: Task<A, Output = S>, A>(Door(door): Door, args: A) {
    let f: F = image::conjure();
    let mut state = f.run(args);
    // Without descriptors it cannot serve; its callers are told that it has ended.
    let _ = procession_worker::host::serve(door, &mut state);
}

/// The end of the door at which connections come in.
struct Door(End);

impl Serialize for Door {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.give().map_err(S::Error::custom)?;
        to.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Door {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <()>::deserialize(from)?;
        End::take().map(Self).map_err(D::Error::custom)
    }
}

impl<S> Clone for Actor<S> {
    fn clone(&self) -> Self {
        Self { line: Arc::clone(&self.line), teller: self.teller.clone(), state: PhantomData }
    }
}

impl<S> fmt::Debug for Actor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Actor")
            .field("name", &self.line.name)
            .field("pid", &self.line.pid)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for ActorBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Only in a message of this crate; anywhere else it is an error.
impl<S> Serialize for Actor<S> {
    fn serialize<T: Serializer>(&self, to: T) -> Result<T::Ok, T::Error> {
        self.line.door.give().map_err(T::Error::custom)?;
        handoff::give(Handle::clone(&self.line.fate)).map_err(T::Error::custom)?;
        (self.line.pid, &*self.line.name).serialize(to)
    }
}

impl<'de, S> Deserialize<'de> for Actor<S> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (pid, name) = <(u32, String)>::deserialize(from)?;
        let door = End::take().map_err(D::Error::custom)?;
        let fate = Arc::new(handoff::take().map_err(D::Error::custom)?);
        let line = Line { door, fate, pid, name: name.into(), idle: Mutex::default() };
        Ok(Self { line: Arc::new(line), teller: None, state: PhantomData })
    }
}
