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

/// How many files this process may have open.
pub(crate) fn open_files_limit() -> usize {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    limit.map_or(1024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

pub(crate) use libc::{
    E2BIG, EACCES, EAGAIN, ECANCELED, ECHILD, EDQUOT, EINVAL, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOTDIR,
    ENXIO, EPERM, ESRCH, ETOOMANYREFS, O_NONBLOCK, SIGABRT, SIGCONT, SIGINT, SIGKILL, SIGSEGV, SIGSTOP,
    SIGTERM, SIGXCPU, SIGXFSZ,
};
