//! The child's cellar: all `unsafe` of this crate and its raw system calls. Each block names the invariant it rests on.

pub mod crowd;
pub mod door;
pub mod drill;
pub mod exec;
pub mod fd;
pub mod image;
pub mod life;
pub mod memory;
pub mod plain;
pub mod segment;
pub mod shm;
pub mod socket;
pub mod start;
pub mod tree;
pub mod vigil;

pub use libc::{
    E2BIG, EAGAIN, ECANCELED, ECONNRESET, EEXIST, EINVAL, EIO, EMFILE, EMSGSIZE, ENFILE, ENOMEM, EPIPE,
    SIGCONT, SIGKILL, SIGSTOP,
};
