//! Who may in: what a listener and its client say to each other before there is a connection. Pure; the picture is in
//! `src/connection/README.md`.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::io;
use std::sync::Arc;

/// What both begin with; the last byte is the version.
const MAGIC: [u8; 11] = *b"procession\x01";
/// Magic, "I have a key", and a random number.
const HELLO: usize = MAGIC.len() + 1 + NONCE;
const NONCE: usize = 32;
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
        for part in [role, &MAGIC, &talk.client, &talk.listener] {
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

/// Why there will be no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It speaks something else, or another version.
    Stranger,
    /// One side has a key, the other has none.
    OneKey,
    /// The keys differ.
    WrongKey,
    /// The other side said no, without a reason.
    Declined,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stranger => "the peer does not speak this version of procession's handshake",
            Self::OneKey => "one side has a key and the other has none; give both the same, or none",
            Self::WrongKey => "the peer's key is another one",
            Self::Declined => "the peer declined; do both have the same key?",
        })
    }
}

/// The two random numbers.
#[derive(Debug)]
struct Talk {
    client: [u8; NONCE],
    listener: [u8; NONCE],
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
    state: State,
    heard: Vec<u8>,
}

impl Side {
    fn hello(&self, nonce: &[u8; NONCE]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(self.key.is_some().into());
        out.extend_from_slice(nonce);
        out
    }

    /// Takes the next `N` bytes, if they are here. What cannot become what is awaited is no reason to wait for the rest.
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let next = *self.heard.first_chunk()?;
        self.heard.drain(..N);
        Some(next)
    }

    /// Reads the peer's hello: its random number.
    fn meet(&mut self) -> Result<Option<[u8; NONCE]>, Refusal> {
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
        Ok(hello.last_chunk().copied())
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
    /// Of a new talk.
    #[must_use]
    pub fn new(key: Option<Key>, nonce: [u8; NONCE]) -> Self {
        let talk = Talk { client: [0; NONCE], listener: nonce };
        Self(Side { key, talk, state: State::Hello, heard: Vec::new() })
    }

    /// Hears what the client says, split anywhere.
    pub fn hear(&mut self, bytes: &[u8]) -> Step {
        let Self(side) = self;
        side.heard.extend_from_slice(bytes);
        let mut said = Vec::new();
        loop {
            match side.state {
                State::Hello => match side.meet() {
                    Ok(None) => break,
                    Ok(Some(nonce)) => {
                        side.talk.client = nonce;
                        said = side.hello(&side.talk.listener);
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
                        let word = side.hello(&side.talk.listener);
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
    /// Of a new talk, and its first words.
    #[must_use]
    pub fn new(key: Option<Key>, nonce: [u8; NONCE]) -> (Self, Vec<u8>) {
        let talk = Talk { client: nonce, listener: [0; NONCE] };
        let side = Side { key, talk, state: State::Hello, heard: Vec::new() };
        let said = side.hello(&nonce);
        (Self(side), said)
    }

    /// Hears what the listener says, split anywhere.
    pub fn hear(&mut self, bytes: &[u8]) -> Step {
        let Self(side) = self;
        side.heard.extend_from_slice(bytes);
        let mut said = Vec::new();
        loop {
            match side.state {
                State::Hello => match side.meet() {
                    Ok(None) => break,
                    Ok(Some(nonce)) => {
                        side.talk.listener = nonce;
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

    /// How it ends for the host and for the guest, when bytes arrive in pieces of that size.
    fn talk(host_key: Option<&str>, guest_key: Option<&str>, piece: usize) -> (Option<Step>, Option<Step>) {
        let mut host = Host::new(key(host_key), [1; NONCE]);
        let (mut guest, mut to_host) = Guest::new(key(guest_key), [2; NONCE]);
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

    #[test]
    fn a_proof_is_good_for_one_talk_and_one_side() {
        let mut host = Host::new(key(Some("k")), [1; NONCE]);
        let (mut guest, hello) = Guest::new(key(Some("k")), [2; NONCE]);
        let Step::Say(answer) = host.hear(&hello) else { panic!() };
        let Step::Say(proof) = guest.hear(&answer) else { panic!() };
        // Played again to another talk.
        let mut other = Host::new(key(Some("k")), [3; NONCE]);
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
            let mut host = Host::new(key(Some("k")), [1; NONCE]);
            let (mut guest, hello) = Guest::new(key(Some("k")), [2; NONCE]);
            if polite {
                let _ = host.hear(&hello);
                let _ = guest.hear(&Guest::new(key(Some("k")), [3; NONCE]).1);
            }
            for piece in pieces {
                prop_assert!(!matches!(host.hear(&piece), Step::Open(_)));
                prop_assert!(!matches!(guest.hear(&piece), Step::Open(_)));
            }
        }
    }
}
