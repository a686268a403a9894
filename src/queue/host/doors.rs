//! How others come: tickets, and the doors behind them.

use super::{DOOR, Host};
use crate::queue::desk::{Desk, DoorId};
use crate::queue::item::{Note, Word};
use crate::queue::line::Line;
use crate::queue::quota::{Held, Purpose};
use crate::reactor::{Interest, Source, reactor};
use crate::sys::bell::Bell;
use procession_worker::ipc::lane::{Flag, Lane};
use procession_worker::sys::socket;
use slotmap::Key;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Host {
    /// A ticket: whoever has it may come, and it may be used more than once.
    pub(in super::super) fn ticket(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = socket::pair()?;
        self.open_door(&mut self.desk(), ours, None)?;
        Ok(theirs)
    }

    pub(super) fn open_door(&self, desk: &mut Desk, door: OwnedFd, held: Option<Held>) -> io::Result<()> {
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let reactor = reactor()?;
        desk.doors.try_insert_with_key(|id| {
            let watch =
                reactor.add(&door, Interest::Read, me as Arc<dyn Source>, DOOR | id.data().as_ffi())?;
            Ok::<_, io::Error>((door, watch, held))
        })?;
        desk.state.door_opened();
        Ok(())
    }

    /// Somebody comes by a ticket, or nobody has it any more.
    pub(super) fn at_door(&self, desk: &mut Desk, id: DoorId) {
        loop {
            let Some((door, ..)) = desk.doors.get(id) else { return };
            let (mut bytes, mut fds) = ([0; Note::SIZE], Vec::new());
            match socket::receive(door, &mut bytes, &mut fds, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(received) if received.len > 0 => {
                    let note = Note::from_bytes(&bytes[..received.len]);
                    if note.is_some_and(|note| note.word == Word::Enter)
                        && let (Some(lane), Some(socket)) = (fds.pop(), fds.pop())
                    {
                        // Without room for it, it sees its socket closed.
                        let _ = self.admit(desk, socket, lane);
                    }
                }
                _ => {
                    if let (Some((door, watch, _held)), Ok(reactor)) = (desk.doors.remove(id), reactor()) {
                        reactor.remove(watch, &door);
                        desk.state.door_closed();
                    }
                    return;
                }
            }
        }
    }

    fn admit(&self, desk: &mut Desk, socket: OwnedFd, lane: OwnedFd) -> io::Result<()> {
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let lane = Lane::open(lane)?;
        let Some(held) = Held::take(Purpose::Guests, 2) else {
            return Err(io::ErrorKind::QuotaExceeded.into());
        };
        let client = desk.state.enter();
        let watch = reactor().and_then(|reactor| {
            reactor.add(&socket, Interest::Read, me as Arc<dyn Source>, client.data().as_ffi())
        });
        let watch = watch.inspect_err(|_| desk.state.leave(client))?;
        let mut line = Line::new(lane, socket, watch, held);
        if let Some(bell) = self.bell().and_then(|bell| bell.share().ok()) {
            line.send(Note::new(Word::Bell, 0, 0), vec![Arc::new(bell)]);
            line.has_bell = true;
        }
        if desk.state.is_closed() {
            line.lane.set(Flag::Closed, 1);
        }
        desk.lines.all.insert(client, line);
        // Those who sleep here may now sleep on the bell.
        desk.lines.wake_local |= desk.state.local_waits();
        Ok(())
    }

    fn bell(&self) -> Option<&Bell> {
        if self.bell.get().is_none() {
            let bell = Bell::new().ok()?;
            let _ = self.bell.set(bell);
        }
        self.bell.get()
    }
}
