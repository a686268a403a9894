//! What all ends are besides: cloned, shown, polled, and sent in messages.

use super::ends::{Connection, Receiver, Sender};
use super::listener::Peer;
use procession_worker::wire::connection::End;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

macro_rules! handle {
    ($name:ident<$($of:ident),+>, $self:ident => $end:expr, $clone:expr, $word:literal) => {
        impl<$($of),+> Clone for $name<$($of),+> {
            fn clone(&$self) -> Self {
                $clone
            }
        }

        impl<$($of),+> fmt::Debug for $name<$($of),+> {
            fn fmt(&$self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple($word).field(&$end.as_fd()).finish()
            }
        }

        /// What to poll: ready when there is something to receive, or the other end is closed.
        impl<$($of),+> AsFd for $name<$($of),+> {
            fn as_fd(&$self) -> BorrowedFd<'_> {
                $end.as_fd()
            }
        }
    };
}

handle!(Sender<T>, self => self.end, Self::new(self.end.clone()), "Sender");
handle!(Receiver<T>, self => self.end, Self::new(self.end.clone()), "Receiver");
handle!(Connection<A, B>, self => self.sender.end, Self::new(self.sender.end.clone(), self.peer), "Connection");

fn give<S: Serializer>(end: &End) -> Result<(), S::Error> {
    end.give().map_err(S::Error::custom)
}

fn take<'de, D: Deserializer<'de>>() -> Result<End, D::Error> {
    End::take().map_err(D::Error::custom)
}

impl<T> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        give::<S>(&self.end)?;
        serializer.serialize_unit()
    }
}

impl<'de, T> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer)?;
        Ok(Self::new(take::<D>()?))
    }
}

impl<T> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        give::<S>(&self.end)?;
        serializer.serialize_unit()
    }
}

impl<'de, T> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer)?;
        Ok(Self::new(take::<D>()?))
    }
}

impl<A, B> Serialize for Connection<A, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        give::<S>(&self.sender.end)?;
        self.peer.serialize(serializer)
    }
}

impl<'de, A, B> Deserialize<'de> for Connection<A, B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let peer = Option::<Peer>::deserialize(deserializer)?;
        Ok(Self::new(take::<D>()?, peer))
    }
}
