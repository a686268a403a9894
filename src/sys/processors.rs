//! Which processors there are, and which this thread may run on.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

pub(crate) fn online() -> Option<usize> {
    usize::try_from(sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten()?).ok()
}

pub(crate) fn affinity() -> Option<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    Some((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).count())
}
