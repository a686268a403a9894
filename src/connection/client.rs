//! The way to a listener.

use super::ends::Connection;
use super::error::ConnectError;
use super::listener::Peer;
use procession_worker::sys::{door, socket};
use procession_worker::wire::connection::End;
use procession_worker::wire::handshake::{self, Guest, Key, Process, Step};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Who connects to a [`Listener`](crate::Listener).
#[derive(Debug)]
pub struct Client(());

/// How to connect.
#[derive(Debug, Clone)]
#[must_use = "it connects only when told to"]
pub struct ClientBuilder {
    key: Option<Key>,
    any_user: bool,
    patience: Duration,
}

impl Client {
    /// Connects to the listener of that name, without a key, within 10 s.
    ///
    /// # Errors
    /// Nobody listens there, it did not answer in time, belongs to another user, or did not let us in.
    ///
    /// ```
    /// use procession::{Client, ConnectError};
    ///
    /// let error = Client::connect::<u32, u32>("@nobody is here").unwrap_err();
    /// assert!(matches!(error, ConnectError::Absent(_)));
    /// ```
    pub fn connect<A, B>(name: impl AsRef<Path>) -> Result<Connection<A, B>, ConnectError> {
        Self::builder().connect(name)
    }

    /// One with a key, or with other rules.
    pub fn builder() -> ClientBuilder {
        ClientBuilder { key: None, any_user: false, patience: Duration::from_secs(10) }
    }
}

impl ClientBuilder {
    /// What the listener must know, too; it is never sent. Default: none.
    #[doc(alias = "authkey")]
    pub fn key(mut self, key: &[u8]) -> Self {
        self.key = Some(Key::new(key));
        self
    }

    /// Connects to a listener of another user, too. Default: no.
    pub fn any_user(mut self) -> Self {
        self.any_user = true;
        self
    }

    /// How long all of it may take. Default: 10 s.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Connects to the listener of that name: a path, or after an `@` one in the abstract namespace.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect<A, B>(&self, name: impl AsRef<Path>) -> Result<Connection<A, B>, ConnectError> {
        let name = name.as_ref();
        let system = |error: io::Error| ConnectError::system(&error, name);
        let deadline = Instant::now().checked_add(self.patience);
        let stream = door::connect(name, deadline).map_err(system)?;
        let peer = Peer::of(door::credentials(&stream).map_err(system)?);
        if !self.any_user && peer.uid != door::own_uid() {
            return Err(ConnectError::Foreign(peer.uid));
        }
        let own = Process { space: door::pid_space(), pid: std::process::id() };
        let nonce = handshake::nonce().map_err(system)?;
        let (mut talk, hello) = Guest::new(self.key.clone(), nonce, own, peer.pid);
        let say = |bytes: &[u8]| match socket::send(&stream, bytes, &[], false) {
            // Who hung up has said why, perhaps.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(system(error)),
            _ => Ok(()),
        };
        say(&hello)?;
        let mut came: Vec<OwnedFd> = Vec::new();
        let mut buffer = [0; handshake::LONGEST];
        loop {
            let received = match socket::receive(&stream, &mut buffer, &mut came, false) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match socket::wait(&stream, false, deadline).map_err(system)? {
                        true => continue,
                        false => return Err(ConnectError::TimedOut),
                    }
                }
                Err(error) => return Err(system(error)),
            };
            if received.len == 0 {
                return Err(ConnectError::Closed);
            }
            match talk.hear(&buffer[..received.len]) {
                Step::Hear => {}
                Step::Say(bytes) => say(&bytes)?,
                Step::Refuse(refusal, _) => return Err(ConnectError::refused(refusal)),
                Step::Open(_) => {
                    return match came.pop().filter(|socket| socket::is_of_a_pair(socket)) {
                        Some(socket) => Ok(Connection::new(End::new(socket), Some(peer))),
                        None if received.fds_lost => Err(ConnectError::System(crate::sys::EMFILE)),
                        None => Err(ConnectError::refused(handshake::Refusal::Stranger)),
                    };
                }
            }
            // A listener sends one descriptor, with its last word.
            came.truncate(1);
        }
    }
}
