//! The child's cellar: all `unsafe` of this crate and its raw system calls. Each block names the invariant it rests on.

pub mod crowd;
pub mod door;
pub mod drill;
pub mod fd;
pub mod image;
pub mod life;
pub mod memory;
pub mod plain;
pub mod segment;
pub mod shm;
pub mod socket;
pub mod start;
pub mod watch;

pub use libc::{EAGAIN, ECONNRESET, EIO, EMFILE, EMSGSIZE, ENFILE, EPIPE};
