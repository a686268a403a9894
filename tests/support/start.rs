//! How programs under test are started.
#![allow(unsafe_code, reason = "between fork and exec there is no other way")]

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// As from a fresh shell: whoever runs the tests in the background, or by nohup, has them ignore these signals, and ignored
/// they would stay.
pub(crate) fn fresh(command: &mut Command) -> &mut Command {
    let hear = || {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        for signal in [
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGHUP,
            Signal::SIGTERM,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            // SAFETY: the default action runs no code of ours.
            unsafe { sigaction(signal, &default) }?;
        }
        Ok(())
    };
    // SAFETY: it makes system calls only, and takes no memory.
    unsafe { command.pre_exec(hear) }
}

/// With its standard input as the terminal of a session of its own.
pub(crate) fn on_terminal(command: &mut Command) -> &mut Command {
    let settle = || {
        nix::unistd::setsid()?;
        // SAFETY: a plain ioctl, without memory.
        match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: it makes system calls only, and takes no memory.
    unsafe { command.pre_exec(settle) }
}

/// As somebody who may have so many processes and threads more than there are of his, and as nobody for that, if this is root,
/// whom the system does not count.
pub(crate) fn few_processes(command: &mut Command, more: u64) -> &mut Command {
    const NOBODY: u32 = 65534;
    let own = nix::unistd::geteuid();
    let uid = if own.is_root() { NOBODY } else { own.as_raw() };
    if own.is_root() {
        command.uid(uid).gid(uid);
    }
    let most = tasks_of(uid) + more;
    // SAFETY: it makes system calls only, and takes no memory.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NPROC, most, most)?)) }
}

/// Threads of all processes of a user.
fn tasks_of(uid: u32) -> u64 {
    let mut count = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        };
        if field("Uid:") == Some(u64::from(uid)) {
            count += field("Threads:").unwrap_or(0);
        }
    }
    count
}
