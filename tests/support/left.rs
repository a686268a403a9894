//! What this process has open and alive, and how it hears signals: before and after.

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use procession::{Pool, Process, active_children};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// What is made on first use and stays: the reactor, the lifeline. And whoever loses its parent below us becomes our
/// child, so that no orphan escapes the count.
pub(super) fn warm_up() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let pool = Pool::new(1).unwrap();
    assert_eq!(pool.apply(procession::drill::echo::<u8>, (1,)).unwrap(), 1);
    pool.join();
    Process::new(procession::drill::echo::<u8>, (1,)).start().unwrap().join().unwrap();
}

/// A process of ours, as `/proc/PID/stat` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kin {
    pid: i32,
    name: String,
    state: char,
    group: i32,
}

impl Kin {
    fn look(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut words = rest.split_whitespace();
        let (state, _parent, group) = (words.next()?.chars().next()?, words.next()?, words.next()?);
        Some(Self { pid, name: name.into(), state, group: group.parse().ok()? })
    }

    /// A worker is executed from `/proc/self/exe`, leads a group, and must be reaped by the library. Orphans are ours to
    /// reap; one that was killed between fork and exec bears its parent's name, and is in its parent's group.
    fn is_worker(&self) -> bool {
        self.name == "exe" && self.group == self.pid
    }
}

/// The state letter of a process; `None` when there is none.
pub(crate) fn state_of(pid: u32) -> Option<char> {
    Kin::look(i32::try_from(pid).unwrap()).map(|kin| kin.state)
}

/// Has this process ended? A zombie that waits for its parent has.
pub(crate) fn is_gone(pid: u32) -> bool {
    matches!(state_of(pid), None | Some('Z' | 'X'))
}

/// Takes an orphan that has ended from the list of our children.
pub(crate) fn reap_orphan(pid: u32) {
    let _ = waitpid(Pid::from_raw(i32::try_from(pid).unwrap()), Some(WaitPidFlag::WNOHANG));
}

/// Those who live on below us though their parent has gone.
pub(crate) fn orphans() -> Vec<i32> {
    children().into_iter().filter(|kin| !kin.is_worker() && kin.state != 'Z').map(|kin| kin.pid).collect()
}

fn children() -> Vec<Kin> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .filter_map(Kin::look)
        .collect()
}

fn descriptors() -> BTreeMap<i32, String> {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    open.flatten()
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, link.display().to_string()))
        })
        .filter(|(_, link)| !link.starts_with("/proc/"))
        .collect()
}

/// This thread's mask, and the process's dispositions (ignored, caught), as the kernel tells them.
fn signals() -> Vec<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let told = |line: &&str| ["SigBlk", "SigIgn", "SigCgt"].iter().any(|key| line.starts_with(key));
    status.lines().filter(told).map(Into::into).collect()
}

/// What the kernel says of each of our threads: for the watchdog's report.
pub(super) fn stacks() -> String {
    format!("children: {:?}\nactive: {:?}\n", children(), active_children())
}

/// The state of affairs before a test.
#[derive(Debug)]
pub(super) struct Standing {
    descriptors: BTreeMap<i32, String>,
    signals: Vec<String>,
}

impl Standing {
    /// What a test before this one has dropped may take another moment to be closed.
    pub(super) fn now() -> Self {
        let mut descriptors_now = descriptors();
        loop {
            std::thread::sleep(Duration::from_millis(2));
            let again = descriptors();
            if again == descriptors_now {
                return Self { descriptors: again, signals: signals() };
            }
            descriptors_now = again;
        }
    }

    pub(super) fn assert_unchanged(&self) {
        assert_eq!(active_children(), [], "the library still lists children");
        // An orphan that was killed may take a moment to die, and then waits for us.
        super::poll_or("a child is left", Duration::from_secs(2), || {
            let left = children();
            for orphan in left.iter().filter(|kin| !kin.is_worker() && kin.state == 'Z') {
                reap_orphan(orphan.pid.unsigned_abs());
            }
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        assert_eq!(self.signals, signals(), "a signal's mask or disposition was changed");
        super::poll_or("a descriptor is left", Duration::from_secs(1), || {
            let now = descriptors();
            let extra: Vec<_> =
                now.iter().filter(|(fd, link)| self.descriptors.get(fd) != Some(link)).collect();
            if extra.is_empty() { Ok(()) } else { Err(format!("{extra:?}")) }
        });
    }
}
