//! The child's cellar: all `unsafe` of this crate and its raw system calls. Each block names the invariant it rests on.

pub mod drill;
pub mod exec;
pub mod fd;
pub mod image;
pub mod life;
pub mod memory;
pub mod socket;
pub mod start;
pub mod tree;
pub mod vigil;

pub use libc::{E2BIG, EAGAIN, ECONNRESET, EEXIST, EINVAL, EMFILE, ENFILE, EPIPE, SIGCONT, SIGKILL, SIGSTOP};
