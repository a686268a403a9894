//! How many processors may be used here, and what says so.

use std::fmt;
use std::path::{Path, PathBuf};

/// Overrides everything else, for tests and for operators who know better.
const OVERRIDE: &str = "PROCESSION_CPU_COUNT";

/// What limits the number of processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CpuLimit {
    /// The machine has no more.
    Machine,
    /// This thread's affinity mask: taskset, a cpuset.
    Affinity,
    /// A quota of this process's control group or one above it: containers, systemd.
    Cgroup,
    /// `SLURM_CPUS_PER_TASK`: the batch scheduler's allocation.
    Slurm,
    /// `PROCESSION_CPU_COUNT`.
    Override,
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "the machine",
            Self::Affinity => "the affinity mask",
            Self::Cgroup => "a cgroup quota",
            Self::Slurm => "SLURM_CPUS_PER_TASK",
            Self::Override => OVERRIDE,
        })
    }
}

/// How many processors this process may use; at least 1.
///
/// The smallest of: the affinity mask, the quotas (v1 and v2) of its control group and of every one above, rounded up,
/// and `SLURM_CPUS_PER_TASK`. The variable `PROCESSION_CPU_COUNT` overrides them all. Python's function of this name
/// counts the machine's processors instead, whether they may be used or not.
#[must_use]
#[doc(alias = "process_cpu_count")]
pub fn cpu_count() -> usize {
    cpu_limit().0
}

/// [`cpu_count`], and which limit won.
#[must_use]
pub fn cpu_limit() -> (usize, CpuLimit) {
    limit(&Host::here())
}

/// What the decision rests on.
#[derive(Debug, Default)]
struct Host {
    online: Option<usize>,
    affinity: Option<usize>,
    quota: Option<usize>,
    slurm: Option<String>,
    wanted: Option<String>,
}

impl Host {
    fn here() -> Self {
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            online: crate::sys::processors::online(),
            affinity: crate::sys::processors::affinity(),
            quota: quota(&cgroups, &mounts, &|path| std::fs::read_to_string(path).ok()),
            slurm: std::env::var("SLURM_CPUS_PER_TASK").ok(),
            wanted: std::env::var(OVERRIDE).ok(),
        }
    }
}

fn limit(host: &Host) -> (usize, CpuLimit) {
    let number = |text: &Option<String>| text.as_ref()?.trim().parse::<usize>().ok().filter(|&n| n > 0);
    if let Some(wanted) = number(&host.wanted) {
        return (wanted, CpuLimit::Override);
    }
    [
        (host.online, CpuLimit::Machine),
        (host.affinity, CpuLimit::Affinity),
        (host.quota, CpuLimit::Cgroup),
        (number(&host.slurm), CpuLimit::Slurm),
    ]
    .into_iter()
    .filter_map(|(count, limit)| Some((count?.max(1), limit)))
    // The first of equals: a mask that allows the whole machine limits nothing.
    .min_by_key(|&(count, _)| count)
    .unwrap_or((1, CpuLimit::Machine))
}

/// The smallest quota, in whole processors, from this process's control group up to the root of each hierarchy.
fn quota(cgroups: &str, mounts: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    let mut smallest = None::<usize>;
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let v2 = controllers.is_empty();
        if !v2 && !controllers.split(',').any(|name| name == "cpu") {
            continue;
        }
        let Some((mount, root)) = mount_point(mounts, v2) else { continue };
        // Inside a container the mount shows only a part of the tree, and the path may be told from outside it.
        let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(path));
        let below = below.strip_prefix("/").unwrap_or(below);
        let mut dir = mount.join(below);
        loop {
            let here = if v2 { quota_v2(&dir, read) } else { quota_v1(&dir, read) };
            smallest = match (smallest, here) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if dir == mount || !dir.pop() {
                break;
            }
        }
    }
    smallest
}

/// Where a hierarchy is mounted, and which part of it.
fn mount_point(mounts: &str, v2: bool) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut tail = tail.split(' ');
        let (kind, _, options) = (tail.next()?, tail.next()?, tail.next()?);
        let fits =
            if v2 { kind == "cgroup2" } else { kind == "cgroup" && options.split(',').any(|o| o == "cpu") };
        let mut head = head.split(' ').skip(3);
        let (root, mount) = (head.next()?, head.next()?);
        fits.then(|| (mount.into(), root.into()))
    })
}

fn quota_v2(dir: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    let text = read(&dir.join("cpu.max"))?;
    let mut parts = text.split_whitespace();
    processors(parts.next()?, parts.next()?)
}

fn quota_v1(dir: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    processors(read(&dir.join("cpu.cfs_quota_us"))?.trim(), read(&dir.join("cpu.cfs_period_us"))?.trim())
}

/// A quota of "max" or -1 is none.
fn processors(quota: &str, period: &str) -> Option<usize> {
    let (quota, period) = (quota.parse::<usize>().ok()?, period.parse::<usize>().ok().filter(|&n| n > 0)?);
    Some(quota.div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_smallest_limit_wins_and_is_named() {
        let host = |affinity, quota, slurm: Option<&str>, wanted: Option<&str>| Host {
            online: Some(16),
            affinity,
            quota,
            slurm: slurm.map(Into::into),
            wanted: wanted.map(Into::into),
        };
        assert_eq!(limit(&host(Some(16), None, None, None)), (16, CpuLimit::Machine));
        assert_eq!(limit(&host(Some(8), Some(12), None, None)), (8, CpuLimit::Affinity));
        assert_eq!(limit(&host(Some(8), Some(2), Some("4"), None)), (2, CpuLimit::Cgroup));
        assert_eq!(limit(&host(Some(8), Some(6), Some("4"), None)), (4, CpuLimit::Slurm));
        assert_eq!(limit(&host(Some(8), Some(6), Some("4"), Some("100"))), (100, CpuLimit::Override));
        assert_eq!(
            limit(&host(Some(8), None, Some("none"), Some("0"))),
            (8, CpuLimit::Affinity),
            "nonsense is no limit"
        );
        assert_eq!(limit(&Host::default()), (1, CpuLimit::Machine));
    }

    fn tree(files: &[(&str, &str)]) -> impl Fn(&Path) -> Option<String> + use<> {
        let files: HashMap<PathBuf, String> =
            files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        move |path| files.get(path).cloned()
    }

    const V2: &str = "31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "33 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct";

    #[test]
    fn every_ancestor_counts_in_v2() {
        let read = tree(&[
            ("/sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/a/b/c/cpu.max", "800000 100000\n"),
        ]);
        assert_eq!(quota("0::/a/b/c\n", V2, &read), Some(2), "1.5 processors keep two workers busy");
        assert_eq!(quota("0::/\n", V2, &read), None);
    }

    #[test]
    fn every_ancestor_counts_in_v1() {
        let read = tree(&[
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "50000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n"),
        ]);
        let cgroups = "9:memory:/job\n3:cpu,cpuacct:/job/step\n0::/\n";
        assert_eq!(quota(cgroups, V1, &read), Some(1));
    }

    #[test]
    fn a_container_sees_its_own_root() {
        let mounts = "40 30 0:27 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw";
        let read = tree(&[("/sys/fs/cgroup/cpu.max", "300000 100000")]);
        assert_eq!(quota("0::/docker/abc\n", mounts, &read), Some(3));
    }

    #[test]
    fn here_there_is_at_least_one() {
        assert!(cpu_count() >= 1);
    }
}
