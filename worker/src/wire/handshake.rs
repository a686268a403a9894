//! Who may in: what a listener and its client say to each other before there is a connection. Pure; the picture is in
//! `src/connection/README.md`.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::io;
use std::sync::Arc;

/// What both begin with; the last byte is the version.
const MAGIC: [u8; 11] = *b"procession\x02";
/// Magic, "I have a key", who says it, and a random number.
const HELLO: usize = MAGIC.len() + 1 + SELF + NONCE;
const NONCE: usize = 32;
/// A [`Process`] in bytes.
const SELF: usize = 12;
const PROOF: usize = 32;

/// The longest of what one side says at once.
pub const LONGEST: usize = HELLO;

/// The listener's last word.
const WELCOME: u8 = b'+';
const REFUSED: u8 = b'-';

/// What both sides know, and nobody else.
#[derive(Clone)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// Of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    fn mac(&self, role: &[u8], talk: &Talk) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        // The role, so that what one side says proves nothing in the other's mouth.
        for part in [role, &MAGIC, &talk.client.to_bytes(), &talk.listener.to_bytes()] {
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A random number that is used once.
///
/// # Errors
/// The system has none to give.
pub fn nonce() -> io::Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

/// A process, as it knows itself. Two numbers mean the same process only within one PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// Of its PID namespace, an inode; 0 if it cannot tell.
    pub space: u64,
    /// Its number there.
    pub pid: u32,
}

/// What one side says of itself.
#[derive(Debug, Clone, Copy, Default)]
struct Card {
    process: Process,
    nonce: [u8; NONCE],
}

impl Card {
    fn to_bytes(self) -> [u8; SELF + NONCE] {
        let mut bytes = [0; SELF + NONCE];
        bytes[..8].copy_from_slice(&self.process.space.to_le_bytes());
        bytes[8..SELF].copy_from_slice(&self.process.pid.to_le_bytes());
        bytes[SELF..].copy_from_slice(&self.nonce);
        bytes
    }

    fn from_bytes(bytes: &[u8; SELF + NONCE]) -> Self {
        let (space, rest) = bytes.split_first_chunk::<8>().expect("it is longer");
        let (pid, rest) = rest.split_first_chunk::<4>().expect("it is longer");
        let process = Process { space: u64::from_le_bytes(*space), pid: u32::from_le_bytes(*pid) };
        Self { process, nonce: *rest.first_chunk().expect("it is so long") }
    }
}

/// Why there will be no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It speaks something else, or another version.
    Stranger,
    /// One side has a key, the other has none.
    OneKey,
    /// The keys differ.
    WrongKey,
    /// Who speaks to us passes on what another process says.
    Relayed,
    /// The other side said no, without a reason.
    Declined,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stranger => "the peer does not speak this version of procession's handshake",
            Self::OneKey => "one side has a key and the other has none; give both the same, or none",
            Self::WrongKey => "the peer's key is another one",
            Self::Relayed => {
                "what it says is another process's; somebody in between has taken the listener's name"
            }
            Self::Declined => "the peer declined; do both have the same key?",
        })
    }
}

/// Both sides' cards.
#[derive(Debug)]
struct Talk {
    client: Card,
    listener: Card,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for more.
    Hear,
    /// Say this, and wait.
    Say(Vec<u8>),
    /// Say this, and let the peer in: with it goes (for a client: came) the connection's end.
    Open(Vec<u8>),
    /// Say this, and close.
    Refuse(Refusal, Vec<u8>),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Hello,
    Proof,
    Verdict,
    Over,
}

/// One side of the talk.
#[derive(Debug)]
struct Side {
    key: Option<Key>,
    talk: Talk,
    /// The other process's number, as the system says.
    peer: u32,
    state: State,
    heard: Vec<u8>,
}

impl Side {
    fn hello(&self, own: Card) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(self.key.is_some().into());
        out.extend_from_slice(&own.to_bytes());
        out
    }

    /// Takes the next `N` bytes, if they are here. What cannot become what is awaited is no reason to wait for the rest.
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let next = *self.heard.first_chunk()?;
        self.heard.drain(..N);
        Some(next)
    }

    /// Reads the peer's hello. With a key nobody can change what it says, so it must be said by the very process that is connected.
    fn meet(&mut self, own: Process) -> Result<Option<Card>, Refusal> {
        let begun = self.heard.len().min(MAGIC.len());
        if self.heard[..begun] != MAGIC[..begun] {
            return Err(Refusal::Stranger);
        }
        let Some(hello) = self.next::<HELLO>() else { return Ok(None) };
        match hello[MAGIC.len()] {
            0 if self.key.is_none() => {}
            1 if self.key.is_some() => {}
            0 | 1 => return Err(Refusal::OneKey),
            _ => return Err(Refusal::Stranger),
        }
        let card = Card::from_bytes(hello.last_chunk().expect("a hello is longer"));
        let one_space = own.space != 0 && own.space == card.process.space;
        if self.key.is_some() && one_space && card.process.pid != self.peer {
            return Err(Refusal::Relayed);
        }
        Ok(Some(card))
    }

    fn refuse(&mut self, refusal: Refusal, word: &[u8]) -> Step {
        self.state = State::Over;
        Step::Refuse(refusal, word.to_vec())
    }
}

/// The listener's side.
#[derive(Debug)]
pub struct Host(Side);

impl Host {
    /// Of a new talk of `own`, this process, with `peer`, as the system calls it here.
    #[must_use]
    pub fn new(key: Option<Key>, nonce: [u8; NONCE], own: Process, peer: u32) -> Self {
        let talk = Talk { client: Card::default(), listener: Card { process: own, nonce } };
        Self(Side { key, talk, peer, state: State::Hello, heard: Vec::new() })
    }

    /// Hears what the client says, split anywhere.
    pub fn hear(&mut self, bytes: &[u8]) -> Step {
        let Self(side) = self;
        side.heard.extend_from_slice(bytes);
        let mut said = Vec::new();
        loop {
            match side.state {
                State::Hello => match side.meet(side.talk.listener.process) {
                    Ok(None) => break,
                    Ok(Some(card)) => {
                        side.talk.client = card;
                        said = side.hello(side.talk.listener);
                        if side.key.is_none() {
                            side.state = State::Over;
                            said.push(WELCOME);
                            said.extend_from_slice(&[0; PROOF]);
                            return Step::Open(said);
                        }
                        side.state = State::Proof;
                    }
                    // A client hears whether there is a key here, so that it can say what is wrong.
                    Err(Refusal::OneKey) => {
                        let word = side.hello(side.talk.listener);
                        return side.refuse(Refusal::OneKey, &word);
                    }
                    Err(refusal) => return side.refuse(refusal, &[]),
                },
                State::Proof => {
                    let (Some(proof), Some(key)) = (side.next::<PROOF>(), side.key.clone()) else { break };
                    if key.mac(b"client", &side.talk).verify_slice(&proof).is_err() {
                        said.push(REFUSED);
                        return side.refuse(Refusal::WrongKey, &said);
                    }
                    side.state = State::Over;
                    said.push(WELCOME);
                    said.extend_from_slice(&key.mac(b"listener", &side.talk).finalize().into_bytes());
                    return Step::Open(said);
                }
                State::Verdict | State::Over => return side.refuse(Refusal::Stranger, &[]),
            }
        }
        if said.is_empty() { Step::Hear } else { Step::Say(said) }
    }
}

/// The client's side.
#[derive(Debug)]
pub struct Guest(Side);

impl Guest {
    /// Of a new talk of `own`, this process, with `peer`, as the system calls it here; and its first words.
    #[must_use]
    pub fn new(key: Option<Key>, nonce: [u8; NONCE], own: Process, peer: u32) -> (Self, Vec<u8>) {
        let talk = Talk { client: Card { process: own, nonce }, listener: Card::default() };
        let side = Side { key, talk, peer, state: State::Hello, heard: Vec::new() };
        let said = side.hello(side.talk.client);
        (Self(side), said)
    }

    /// Hears what the listener says, split anywhere.
    pub fn hear(&mut self, bytes: &[u8]) -> Step {
        let Self(side) = self;
        side.heard.extend_from_slice(bytes);
        let mut said = Vec::new();
        loop {
            match side.state {
                State::Hello => match side.meet(side.talk.client.process) {
                    Ok(None) => break,
                    Ok(Some(card)) => {
                        side.talk.listener = card;
                        side.state = State::Verdict;
                        if let Some(key) = &side.key {
                            said = key.mac(b"client", &side.talk).finalize().into_bytes().to_vec();
                        }
                    }
                    Err(refusal) => return side.refuse(refusal, &[]),
                },
                State::Verdict => {
                    match side.heard.first() {
                        None | Some(&WELCOME) => {}
                        Some(&REFUSED) => return side.refuse(Refusal::Declined, &[]),
                        Some(_) => return side.refuse(Refusal::Stranger, &[]),
                    }
                    let Some(word) = side.next::<{ 1 + PROOF }>() else { break };
                    if let Some(key) = &side.key
                        && key.mac(b"listener", &side.talk).verify_slice(&word[1..]).is_err()
                    {
                        return side.refuse(Refusal::WrongKey, &[]);
                    }
                    side.state = State::Over;
                    return Step::Open(said);
                }
                State::Proof | State::Over => return side.refuse(Refusal::Stranger, &[]),
            }
        }
        if said.is_empty() { Step::Hear } else { Step::Say(said) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: Option<&str>) -> Option<Key> {
        text.map(|text| Key::new(text.as_bytes()))
    }

    const fn process(space: u64, pid: u32) -> Process {
        Process { space, pid }
    }

    const HOST: Process = process(5, 10);
    const GUEST: Process = process(5, 20);

    fn a_host(key: Option<Key>, nonce: u8) -> Host {
        Host::new(key, [nonce; NONCE], HOST, GUEST.pid)
    }

    fn a_guest(key: Option<Key>, nonce: u8) -> (Guest, Vec<u8>) {
        Guest::new(key, [nonce; NONCE], GUEST, HOST.pid)
    }

    /// How it ends for the host and for the guest, when bytes arrive in pieces of that size.
    fn talk(host_key: Option<&str>, guest_key: Option<&str>, piece: usize) -> (Option<Step>, Option<Step>) {
        let (guest, to_host) = a_guest(key(guest_key), 2);
        talk_of(a_host(key(host_key), 1), guest, to_host, piece)
    }

    fn talk_of(
        mut host: Host,
        mut guest: Guest,
        mut to_host: Vec<u8>,
        piece: usize,
    ) -> (Option<Step>, Option<Step>) {
        let (mut host_end, mut guest_end, mut to_guest) = (None, None, Vec::new());
        while !(to_host.is_empty() && to_guest.is_empty()) {
            for part in std::mem::take(&mut to_host).chunks(piece) {
                if host_end.is_none() {
                    step(host.hear(part), &mut to_guest, &mut host_end);
                }
            }
            for part in std::mem::take(&mut to_guest).chunks(piece) {
                if guest_end.is_none() {
                    step(guest.hear(part), &mut to_host, &mut guest_end);
                }
            }
        }
        (host_end, guest_end)
    }

    fn step(step: Step, out: &mut Vec<u8>, end: &mut Option<Step>) {
        match step {
            Step::Hear => {}
            Step::Say(bytes) => out.extend(bytes),
            Step::Open(bytes) => {
                out.extend(bytes);
                *end = Some(Step::Open(vec![]));
            }
            Step::Refuse(why, bytes) => {
                out.extend(bytes);
                *end = Some(Step::Refuse(why, vec![]));
            }
        }
    }

    const OPEN: Step = Step::Open(Vec::new());

    const fn refused(why: Refusal) -> Step {
        Step::Refuse(why, Vec::new())
    }

    #[test]
    fn only_equal_keys_open_however_the_bytes_are_split() {
        for piece in 1..=100 {
            assert_eq!(talk(None, None, piece), (Some(OPEN), Some(OPEN)));
            assert_eq!(talk(Some("k"), Some("k"), piece), (Some(OPEN), Some(OPEN)));
            let (host, guest) = talk(Some("k"), Some("l"), piece);
            assert_eq!((host, guest), (Some(refused(Refusal::WrongKey)), Some(refused(Refusal::Declined))));
            for (host, guest) in [(None, Some("k")), (Some("k"), None)] {
                let one = || Some(refused(Refusal::OneKey));
                assert_eq!(talk(host, guest, piece), (one(), one()));
            }
        }
    }

    /// Whoever has taken the listener's name, or the client's place, may pass on every byte, and has nothing of it.
    #[test]
    fn a_process_in_between_is_seen() {
        let between = 99;
        let k = || key(Some("k"));
        for (host_sees, guest_sees) in [(between, HOST.pid), (GUEST.pid, between), (between, between)] {
            let host = Host::new(k(), [1; NONCE], HOST, host_sees);
            let (guest, hello) = Guest::new(k(), [2; NONCE], GUEST, guest_sees);
            let (host_end, guest_end) = talk_of(host, guest, hello, 1000);
            assert!(host_end != Some(OPEN) || guest_end == Some(refused(Refusal::Relayed)));
            assert!(host_end == Some(refused(Refusal::Relayed)) || guest_sees == between);
            assert_ne!(guest_end, Some(OPEN));
        }
        // Numbers of different namespaces say nothing; and what was changed on the way proves nothing.
        let host = Host::new(k(), [1; NONCE], HOST, 0);
        let (guest, hello) = Guest::new(k(), [2; NONCE], process(6, 20), 0);
        assert_eq!(talk_of(host, guest, hello, 1000), (Some(OPEN), Some(OPEN)));
        let host = Host::new(k(), [1; NONCE], HOST, between);
        let (guest, mut hello) = Guest::new(k(), [2; NONCE], GUEST, HOST.pid);
        let at = MAGIC.len() + 1 + 8;
        hello[at..at + 4].copy_from_slice(&between.to_le_bytes());
        assert_eq!(talk_of(host, guest, hello, 1000).0, Some(refused(Refusal::WrongKey)));
    }

    #[test]
    fn a_proof_is_good_for_one_talk_and_one_side() {
        let mut host = a_host(key(Some("k")), 1);
        let (mut guest, hello) = a_guest(key(Some("k")), 2);
        let Step::Say(answer) = host.hear(&hello) else { panic!() };
        let Step::Say(proof) = guest.hear(&answer) else { panic!() };
        // Played again to another talk.
        let mut other = a_host(key(Some("k")), 3);
        let _ = other.hear(&hello);
        assert!(matches!(other.hear(&proof), Step::Refuse(Refusal::WrongKey, _)));
        // Sent back where it came from.
        let mut mirror = answer;
        mirror.truncate(0);
        mirror.push(WELCOME);
        mirror.extend_from_slice(&proof);
        assert!(matches!(guest.hear(&mirror), Step::Refuse(Refusal::WrongKey, _)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_open_a_door_with_a_key(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..8),
            polite: bool,
        ) {
            let mut host = a_host(key(Some("k")), 1);
            let (mut guest, hello) = a_guest(key(Some("k")), 2);
            if polite {
                let _ = host.hear(&hello);
                let _ = guest.hear(&a_guest(key(Some("k")), 3).1);
            }
            for piece in pieces {
                prop_assert!(!matches!(host.hear(&piece), Step::Open(_)));
                prop_assert!(!matches!(guest.hear(&piece), Step::Open(_)));
            }
        }
    }
}
