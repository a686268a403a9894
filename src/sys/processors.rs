//! Which processors there are, which this thread may run on, and how it gives way to others.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::io;

pub(crate) fn online() -> Option<usize> {
    usize::try_from(sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten()?).ok()
}

pub(crate) fn affinity() -> Option<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    Some((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).count())
}

/// This thread, and all that it starts, run on these alone.
///
/// # Errors
/// EINVAL: one of them is not there, or not for this process.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for the tool alone"))]
pub(crate) fn use_only(cpus: &[usize]) -> io::Result<()> {
    let own = sched_getaffinity(Pid::from_raw(0))?;
    let mut set = CpuSet::new();
    for &cpu in cpus {
        // The kernel would pass over those that are not there.
        if !own.is_set(cpu).unwrap_or(false) {
            return Err(Errno::EINVAL.into());
        }
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// This thread, and all that it starts, give way to others by so much more.
///
/// # Errors
/// EPERM, EACCES: less is not for everybody.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for the tool alone"))]
#[allow(unsafe_code, reason = "the cellar")]
pub(crate) fn be_nice(more: i32) -> io::Result<()> {
    Errno::clear();
    // SAFETY: a plain system call, without memory.
    let now = unsafe { libc::nice(more) };
    // -1 is a value, too.
    if now == -1 && Errno::last_raw() != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
