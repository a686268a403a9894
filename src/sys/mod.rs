//! The parent's cellar: all `unsafe` of this crate and its raw system calls. Each block names the invariant it rests on.

pub(crate) mod bell;
pub(crate) mod futex;
pub(crate) mod notify;
pub(crate) mod pidfd;
pub(crate) mod poller;
pub(crate) mod processors;
pub(crate) mod robust;
#[cfg_attr(
    not(feature = "cli"),
    allow(dead_code, unused_imports, reason = "some of it is for the tool alone")
)]
pub(crate) mod signals;
pub(crate) mod spawn;
pub(crate) mod wait;

pub(crate) use libc::{
    E2BIG, EACCES, EAGAIN, ECANCELED, ECHILD, EINVAL, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOTDIR, EPERM,
    ESRCH, ETOOMANYREFS, SIGABRT, SIGCONT, SIGINT, SIGKILL, SIGSEGV, SIGSTOP, SIGTERM, SIGXCPU, SIGXFSZ,
};
