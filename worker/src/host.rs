//! The process of an actor: it owns a state, and lets whoever has a connection call functions on it, one at a time.

use crate::ipc::handoff::{self, Handle, Incoming};
use crate::method::{self, Turn};
use crate::sys::crowd::Crowd;
use crate::sys::life;
use crate::wire::connection::{End, PACKET, ReceiveTrouble};
use crate::wire::frame::MAX_PAYLOAD;
use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The door's number among the connections.
const DOOR: u64 = 0;
/// A long answer gets a thread; if there is none to be had, its caller has so long to read it.
const PATIENCE: Duration = Duration::from_secs(1);

struct Host {
    crowd: Crowd,
    /// None when nobody is left who could open another connection.
    door: Option<End>,
    connections: HashMap<u64, End>,
    last: u64,
}

/// Serves until nobody has a handle any more. New connections come in by the `door`.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM at the start.
pub fn serve(door: End, state: &mut dyn Any) -> io::Result<()> {
    let crowd = Crowd::new()?;
    crowd.add(&door, DOOR)?;
    let mut host = Host { crowd, door: Some(door), connections: HashMap::new(), last: DOOR };
    let mut ready = Vec::new();
    while host.door.is_some() || !host.connections.is_empty() {
        host.crowd.wait(&mut ready);
        // One call of each, in the order in which they came.
        for (turn, (number, hung_up)) in ready.drain(..).enumerate() {
            match number {
                DOOR => host.let_in(),
                // The first is as it was seen just now; who comes after a call may have gone meanwhile.
                number => host.hear(number, state, (turn == 0).then_some(hung_up)),
            }
        }
    }
    Ok(())
}

impl Host {
    fn let_in(&mut self) {
        while let Some(door) = &self.door {
            match door.receive(0, Some(Instant::now()), |_, came| handoff::unpack(came, End::take)) {
                Ok(Some(Ok(end))) => {
                    self.last += 1;
                    if self.crowd.add(&end, self.last).is_ok() {
                        self.connections.insert(self.last, end);
                    }
                }
                Ok(None) => {
                    self.crowd.remove(door);
                    self.door = None;
                }
                Err(ReceiveTrouble::Late | ReceiveTrouble::System(_)) => return,
                // Nobody can come in who has no descriptor here; whoever tried is told by the end of its connection.
                Ok(Some(Err(_))) | Err(_) => {}
            }
        }
    }

    fn hear(&mut self, number: u64, state: &mut dyn Any, hung_up: Option<bool>) {
        let Some(end) = self.connections.get(&number) else { return };
        let heard = end.receive(MAX_PAYLOAD, Some(Instant::now()), |call, came| {
            // Who has not waited for its turn does not want it.
            let hung_up = hung_up.unwrap_or_else(|| life::hung_up(end.as_fd()));
            (!hung_up).then(|| run(&call, came, state))
        });
        let stays = match heard {
            Ok(Some(Some((answer, handles)))) => self.answer(number, answer, handles),
            // A call that its caller has taken back.
            Err(ReceiveTrouble::Late) => true,
            Ok(None | Some(None)) | Err(_) => false,
        };
        if !stays && let Some(end) = self.connections.remove(&number) {
            self.crowd.remove(&end);
        }
    }

    /// Does the connection stay?
    fn answer(&self, number: u64, answer: Vec<u8>, handles: Vec<Handle>) -> bool {
        let Some(end) = self.connections.get(&number) else { return false };
        if answer.len() < PACKET && handles.is_empty() {
            // A caller waits for one answer at a time, so there is room.
            return end.send(&answer, &handles, Some(Instant::now())).is_ok();
        }
        // Its caller may be slow to read, which is no concern of the others.
        let sender = end.clone();
        let long = std::sync::Arc::new((answer, handles));
        let again = std::sync::Arc::clone(&long);
        let thread = std::thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || sender.send(&again.0, &again.1, None));
        if thread.is_err() {
            return end.send(&long.0, &long.1, Some(Instant::now() + PATIENCE)).is_ok();
        }
        true
    }
}

fn run(call: &[u8], came: Incoming, state: &mut dyn Any) -> (Vec<u8>, Vec<Handle>) {
    let (answer, handles) = (Vec::new(), Vec::new());
    let mut turn = Turn { state, args: method::args(call), came, answer, handles };
    method::run(call, &mut turn);
    (turn.answer, turn.handles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::Token;
    use crate::sys::{memory, socket};
    use crate::wire::codec;
    use crate::wire::connection;
    use proptest::prelude::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    /// What a stranger says: packets with or without a descriptor, and some that speak of a file.
    type Talk = Vec<(Vec<u8>, u8)>;

    fn say(socket: impl AsFd, talk: &Talk) {
        let file = File::from(memory::unsealed_memfd(c"stranger").unwrap());
        for (packet, how) in talk.iter().filter(|(packet, _)| !packet.is_empty()) {
            memory::put_into(&file, 0, packet).unwrap();
            let (_stub, label) = socket::pair().unwrap();
            let fds = [file.as_raw_fd(), label.as_raw_fd()];
            let mut packet = packet.clone();
            if how & 4 != 0 {
                packet = [&[1], &(packet.len() as u64).to_le_bytes()[..], &[0; 8]].concat();
            }
            if socket::send(&socket, &packet, &fds[..usize::from(how % 3)], false).is_err() {
                return;
            }
        }
    }

    /// Through the door goes one end of a new pair; the other is this.
    fn enter(door: &End) -> End {
        let (near, far) = connection::pair().unwrap();
        socket::send(door, &[0], &[far.as_fd().as_raw_fd()], true).unwrap();
        near
    }

    fn call(of: &End, n: u64) -> u64 {
        let token = Token::of::<u64, (u64,), _>(|sum: &mut u64, n: u64| {
            *sum += n;
            *sum
        });
        let mut call = token.unwrap().to_bytes().to_vec();
        codec::encode_into(&(n,), &mut call).unwrap();
        of.send(&call, &[], None).unwrap();
        let answer = of.receive(MAX_PAYLOAD, None, |answer, _| answer.to_vec()).unwrap().unwrap();
        codec::decode(&answer[1..]).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

        /// Whoever says whatever, at the door or behind it: the others are served, and at last the host goes.
        #[test]
        fn strangers_are_in_nobodys_way(
            at_door in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..20), any::<u8>()), 0..6),
            behind in prop::collection::vec(
                (any::<bool>(), prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), any::<u8>()), 0..4)),
                0..4,
            ),
        ) {
            let (inner, outer) = connection::pair().unwrap();
            std::thread::scope(|scope| {
                let host = scope.spawn(move || serve(inner, &mut 0_u64));
                let honest = enter(&outer);
                prop_assert_eq!(call(&honest, 1), 1);
                say(&outer, &at_door);
                let mut strangers = Vec::new();
                for (stays, talk) in &behind {
                    let stranger = enter(&outer);
                    say(&stranger, talk);
                    if *stays {
                        strangers.push(stranger);
                    }
                }
                prop_assert_eq!(call(&honest, 1), 2);
                prop_assert_eq!(call(&enter(&outer), 1), 3);
                drop((honest, outer, strangers));
                prop_assert!(host.join().unwrap().is_ok());
                Ok(())
            })?;
        }
    }
}
