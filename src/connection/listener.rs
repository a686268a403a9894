//! A named place where clients are let in.

use super::ends::Connection;
use super::host::{Host, Rules};
use super::name;
use procession_worker::sys::door::{self, Credentials};
use procession_worker::wire::handshake::Key;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// A process at the other end, as the kernel noted it down when the two were connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its process id then.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Peer {
    pub(super) const fn of(Credentials { pid, uid, gid }: Credentials) -> Self {
        Self { pid, uid, gid }
    }
}

/// A named place where [`Client`](crate::Client)s of any program on this machine are let in.
///
/// The name is a path, or, after an `@` (or a zero byte, as in Python), a name in the abstract namespace that leaves no file. Let in is
/// who belongs to the same user and, if there is a key, proves to know it; the client has the same proof of us.
/// Messages then go over a private pair of sockets. There is no network in it.
///
/// A name in the abstract namespace belongs to whoever takes it first, of any user, so a client of such a name should have a key; with one, a
/// process that has taken the name cannot pass on what it hears either, unless it is in another PID namespace. The types of the messages are
/// not compared, since the two may be different programs: what does not fit is an error of `recv`.
///
/// Dropped, it listens no more and removes its file; connections live on. The file of a killed listener is taken over by the
/// next one.
///
/// ```
/// use procession::{Client, Listener};
///
/// let dir = tempfile::tempdir()?;
/// let name = dir.path().join("door");
/// let listener = Listener::builder().key(b"our secret").bind(&name)?;
/// let client = std::thread::spawn(move || {
///     let connection = Client::builder().key(b"our secret").connect::<String, usize>(&name)?;
///     connection.send("how long is this?".into()).map_err(std::io::Error::from)?;
///     Ok::<_, std::io::Error>(connection.recv()?)
/// });
/// let connection = listener.accept::<usize, String>()?;
/// assert_eq!(connection.peer().expect("it came by name").pid, std::process::id());
/// connection.send(connection.recv()?.expect("it is asked").len())?;
/// assert_eq!(client.join().expect("no panic")?, Some(17));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "dropped, it listens no more"]
pub struct Listener {
    host: Host,
}

/// How a [`Listener`] is to be.
#[derive(Debug, Clone)]
#[must_use = "it listens only when bound"]
pub struct ListenerBuilder {
    rules: Rules,
    backlog: u32,
    mode: u32,
}

impl Listener {
    /// Listens under that name, without a key.
    ///
    /// # Errors
    /// Somebody listens there, or a file is in the way (`AddrInUse`); the path is too long (107 bytes), or cannot be made; out
    /// of descriptors.
    pub fn bind(name: impl AsRef<Path>) -> io::Result<Self> {
        Self::builder().bind(name)
    }

    /// One with a key, or with other rules.
    pub fn builder() -> ListenerBuilder {
        let rules = Rules { key: None, any_user: false, patience: Duration::from_secs(10) };
        ListenerBuilder { rules, backlog: 128, mode: 0o600 }
    }

    /// Waits for the next client that may come in. Those that may not, that say nothing or nonsense, or are too slow, are passed over
    /// and keep nobody else out; [`turned_away`](Self::turned_away) counts them.
    ///
    /// Any number of threads may wait.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn accept<A, B>(&self) -> io::Result<Connection<A, B>> {
        loop {
            if let Some((end, peer)) = self.host.accept(None)? {
                return Ok(Connection::new(end, Some(peer)));
            }
        }
    }

    /// [`accept`](Self::accept) within a time limit; `None` when nobody came in.
    ///
    /// # Errors
    /// As `accept`.
    pub fn accept_timeout<A, B>(&self, limit: Duration) -> io::Result<Option<Connection<A, B>>> {
        let found = self.host.accept(Instant::now().checked_add(limit))?;
        Ok(found.map(|(end, peer)| Connection::new(end, Some(peer))))
    }

    /// The name, absolute if it is a path.
    #[must_use]
    #[doc(alias = "address")]
    pub fn name(&self) -> &Path {
        &self.host.claim.name
    }

    /// How many were not let in, and why the last of them was not.
    #[must_use]
    pub fn turned_away(&self) -> (u64, Option<String>) {
        let tally = self.host.tally();
        (tally.count, tally.last.as_deref().map(Into::into))
    }
}

/// Ready when somebody knocks; who that is, and whether it may come in, only `accept` finds out.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }
}

impl ListenerBuilder {
    /// What a client must know; it is never sent. Default: none, only the user is checked.
    #[doc(alias = "authkey")]
    pub fn key(mut self, key: &[u8]) -> Self {
        self.rules.key = Some(Key::new(key));
        self
    }

    /// Lets other users in, too; think of a key, and of [`mode`](Self::mode). Default: no.
    pub fn any_user(mut self) -> Self {
        self.rules.any_user = true;
        self
    }

    /// How long a client may take to prove who it is, counted from when `accept` sees it. Default: 10 s.
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.rules.patience = limit;
        self
    }

    /// How many may wait for `accept`; one more waits in `connect`. Default: 128.
    pub fn backlog(mut self, clients: u32) -> Self {
        self.backlog = clients;
        self
    }

    /// The permissions of the file; who may write may knock. Default: 0600.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Listens under that name.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind(self, name: impl AsRef<Path>) -> io::Result<Listener> {
        let (door, claim) = name::claim(name.as_ref(), self.mode)?;
        door::set_backlog(&door, self.backlog)?;
        Ok(Listener { host: Host::new(door, claim, self.rules) })
    }
}
