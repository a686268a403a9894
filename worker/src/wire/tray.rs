//! The Unix socket beside a channel: the descriptors of its messages travel on it, in the order of the messages.

use crate::ipc::handoff::{Handle, Incoming};
use crate::sys::{EAGAIN, ECONNRESET, EMFILE, EPIPE, fd, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// One end.
#[derive(Debug)]
pub struct Tray(OwnedFd);

/// What goes with each batch of descriptors: why there are none (an errno, or 0), and how many there should be.
const HEAD: usize = 8;

impl From<OwnedFd> for Tray {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for Tray {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tray {
    /// Sends what of these goes without waiting; how many that were. What the system refuses to send counts as sent: the
    /// receiver is told why it is missing.
    ///
    /// # Errors
    /// Nobody is at the other end.
    pub fn send(&self, handles: &[Handle]) -> io::Result<usize> {
        let mut sent = 0;
        for batch in handles.chunks(socket::AT_ONCE) {
            let numbers: Vec<RawFd> = batch.iter().map(AsRawFd::as_raw_fd).collect();
            let result = match self.send_batch(0, &numbers, batch.len()) {
                Err(error) => match error.raw_os_error() {
                    Some(EAGAIN | EPIPE | ECONNRESET) | None => Err(error),
                    Some(errno) => self.send_batch(errno, &[], batch.len()),
                },
                done => done,
            };
            match result {
                Ok(()) => sent += batch.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn send_batch(&self, errno: i32, numbers: &[RawFd], count: usize) -> io::Result<()> {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&errno.to_le_bytes());
        head[4..].copy_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        socket::send(self, &head, numbers, false)
    }

    /// Waits until there is room for more.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn wait_for_room(&self) -> io::Result<()> {
        fd::wait_writable(self)
    }

    /// Takes the descriptors of one message, `count` of them; without `wait` they must be here.
    ///
    /// # Errors
    /// They are not, or nobody is at the other end, or it sent something else.
    pub fn receive(&self, count: usize, wait: bool) -> io::Result<Incoming> {
        let (mut fds, mut trouble, mut seen) = (Vec::new(), None, 0);
        while seen < count {
            let (mut head, before) = ([0; HEAD], fds.len());
            let received = socket::receive(self, &mut head, &mut fds, wait)?;
            if received.len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let [a, b, c, d, e, f, g, h] = head;
            let (errno, due) = (i32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]) as usize);
            let whole = fds.len() - before == due;
            if received.len != HEAD || due == 0 || !whole && errno == 0 && !received.fds_lost {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if !whole {
                // What comes after a gap would be taken for what is missing.
                trouble = trouble.or(Some((before, if errno == 0 { EMFILE } else { errno })));
            }
            seen += due;
        }
        if seen > count {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if let Some((good, _)) = trouble {
            fds.truncate(good);
        }
        Ok(Incoming::new(fds, trouble.map(|(_, errno)| errno)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::handoff::{HandoffError, MOST, take, unpack};
    use std::fs::File;
    use std::sync::Arc;

    fn handles(count: usize) -> Vec<Handle> {
        (0..count).map(|_| Arc::new(File::open("/dev/null").unwrap().into())).collect()
    }

    fn pair() -> (Tray, Tray) {
        let (left, right) = socket::pair().unwrap();
        (left.into(), right.into())
    }

    #[test]
    fn more_than_fit_into_one_message_arrive() {
        let (left, right) = pair();
        assert_eq!(left.send(&handles(600)).unwrap(), 600);
        assert_eq!(left.send(&handles(1)).unwrap(), 1);
        unpack(right.receive(600, true).unwrap(), || {
            (0..600).for_each(|_| drop(take().unwrap()));
            assert_eq!(take().unwrap_err(), HandoffError::Missing);
        });
        right.receive(1, false).unwrap();
        assert!(right.receive(1, false).is_err());
    }

    #[test]
    fn a_message_with_all_it_may_have_leaves_room() {
        let (left, right) = pair();
        assert_eq!(left.send(&vec![handles(1).remove(0); MOST]).unwrap(), MOST);
        left.wait_for_room().unwrap();
        right
            .receive(MOST, false)
            .map(drop)
            .unwrap_or_else(|error| assert_eq!(error.raw_os_error(), Some(EMFILE)));
    }

    #[test]
    fn a_full_tray_takes_the_rest_later() {
        let (left, right) = pair();
        let one = handles(1);
        let mut sent = 0;
        while left.send(&one).unwrap() == 1 {
            sent += 1;
        }
        (0..sent).for_each(|_| drop(right.receive(1, true).unwrap()));
        left.wait_for_room().unwrap();
        assert_eq!(left.send(&one).unwrap(), 1);
        right.receive(1, true).unwrap();
    }

    #[test]
    fn nobody_there_and_nonsense_are_errors() {
        let (left, right) = pair();
        socket::send(&left, b"nonsense, and too long", &[], false).unwrap();
        assert!(right.receive(1, true).is_err());
        socket::send(&left, b"short", &[], false).unwrap();
        assert!(right.receive(1, true).is_err());
        assert_eq!(left.send(&handles(2)).unwrap(), 2);
        assert!(right.receive(1, true).is_err());
        drop(left);
        assert!(right.receive(1, true).is_err());
        assert!(right.send(&handles(1)).is_err());
    }
}
