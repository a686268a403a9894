//! The birth of a program below a keeper: like vfork, so that its cost does not grow with anything, and with every step told
//! apart.
#![allow(unsafe_code, reason = "the cellar")]

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

const STACK: usize = 64 * 1024;
const GUARD: usize = 64 * 1024;

/// Kinds of limits.
pub const LIMITS: usize = 5;

/// Where a program's birth ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Stage {
    /// The description is not one that can be carried out: too long, or too many descriptors.
    Asking = 1,
    /// Opening or passing its standard streams or other descriptors.
    Streams,
    /// Making the process.
    Process,
    /// Putting it into a session of its own, tied to the keeper's life.
    Session,
    /// Changing to its directory.
    Directory,
    /// Limiting its memory.
    Memory,
    /// Limiting its processor time.
    CpuTime,
    /// Limiting its open files.
    OpenFiles,
    /// Limiting the size of its files.
    FileSize,
    /// Limiting the size of its core dumps.
    CoreSize,
    /// Executing the program.
    Exec,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Self; 11] = [
        Self::Asking,
        Self::Streams,
        Self::Process,
        Self::Session,
        Self::Directory,
        Self::Memory,
        Self::CpuTime,
        Self::OpenFiles,
        Self::FileSize,
        Self::CoreSize,
        Self::Exec,
    ];

    /// The one with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage as u8 == number)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asking => "describing it",
            Self::Streams => "opening its streams",
            Self::Process => "making a process",
            Self::Session => "giving it a session of its own",
            Self::Directory => "changing to its directory",
            Self::Memory => "limiting its memory",
            Self::CpuTime => "limiting its cpu-time",
            Self::OpenFiles => "limiting its open files",
            Self::FileSize => "limiting the size of its files",
            Self::CoreSize => "limiting its core dumps",
            Self::Exec => "executing it",
        })
    }
}

/// A program in all its parts.
#[derive(Debug)]
pub struct Image<'a, P, A, E> {
    /// Where it works; `None`: where this process does.
    pub dir: Option<&'a CStr>,
    /// What is executed: the first of these that can be.
    pub paths: P,
    /// Its arguments.
    pub args: A,
    /// Its environment.
    pub env: E,
    /// Its standard streams; `None`: those of this process.
    pub streams: [Option<&'a OwnedFd>; 3],
    /// Its other descriptors, with the numbers that they are to have there.
    pub passed: &'a [(&'a OwnedFd, RawFd)],
    /// At most so much: memory, processor time, open files, file size, core size.
    pub limits: [Option<u64>; LIMITS],
    /// The limit of real-time work that marks it and all its descendants.
    pub tag: Option<u64>,
}

/// Starts programs, one at a time.
#[derive(Debug)]
pub struct Launcher {
    stack: NonNull<c_void>,
    own_pid: libc::pid_t,
    paths: Vec<*const c_char>,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    passed: Vec<(RawFd, RawFd)>,
}

/// What the new process finds in the memory it shares with us until it executes the program.
struct Orders {
    keeper: libc::pid_t,
    dir: *const c_char,
    paths: *const [*const c_char],
    args: *mut *const c_char,
    env: *const *const c_char,
    streams: [RawFd; 3],
    passed: *mut [(RawFd, RawFd)],
    limits: [Option<u64>; LIMITS],
    tag: Option<u64>,
    failure: Option<(Stage, c_int)>,
}

impl Launcher {
    /// One for this process, which must be the only thread of it.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new() -> io::Result<Self> {
        const ALL: NonZeroUsize = NonZeroUsize::new(STACK + GUARD).expect("it is not zero");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory that exists.
        let stack =
            unsafe { mmap_anonymous(None, ALL, access, MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK) }?;
        // SAFETY: the lower end of the mapping that was just made; nobody uses it yet.
        unsafe { mprotect(stack, GUARD, ProtFlags::PROT_NONE) }?;
        Ok(Self {
            stack,
            own_pid: nix::unistd::getpid().as_raw(),
            paths: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            passed: Vec::new(),
        })
    }

    /// Starts a program, in a session of its own: its number, and its descriptor. Returns when it is executed.
    ///
    /// # Errors
    /// How far it came, and what the system said there; nothing is left behind then.
    pub fn start<'a, P, A, E>(&mut self, image: Image<'a, P, A, E>) -> Result<(u32, OwnedFd), (Stage, i32)>
    where
        P: Iterator<Item = &'a CStr>,
        A: Iterator<Item = &'a CStr>,
        E: Iterator<Item = &'a CStr>,
    {
        let end = std::ptr::null();
        for list in [&mut self.paths, &mut self.args, &mut self.env] {
            list.clear();
        }
        self.paths.extend(image.paths.map(CStr::as_ptr));
        // In front of the arguments there is room for the shell, in case the file is a script that does not name one.
        self.args.extend([c"/bin/sh".as_ptr()].into_iter().chain(image.args.map(CStr::as_ptr)).chain([end]));
        self.env.extend(image.env.map(CStr::as_ptr).chain([end]));
        self.passed.clear();
        self.passed.extend(image.passed.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)));
        self.passed.sort_unstable_by_key(|(_, number)| *number);
        let mut orders = Orders {
            keeper: self.own_pid,
            dir: image.dir.map_or(end, CStr::as_ptr),
            paths: &raw const *self.paths,
            args: self.args.as_mut_ptr(),
            env: self.env.as_ptr(),
            streams: image.streams.map(|fd| fd.map_or(-1, AsRawFd::as_raw_fd)),
            passed: &raw mut *self.passed,
            limits: image.limits,
            tag: image.tag,
            failure: None,
        };
        let mut pidfd: RawFd = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: the stack is ours, grows down from its end, and is used by one child at a time, since we are suspended
        // (CLONE_VFORK) until it is done with our memory. `orders` and all it points to live until then, in this frame or
        // in `self`. The child makes only calls that touch nothing but their arguments, and never returns.
        let pid = unsafe {
            libc::clone(
                be_born,
                self.stack.as_ptr().byte_add(STACK + GUARD),
                flags,
                (&raw mut orders).cast(),
                &raw mut pidfd,
            )
        };
        if pid < 0 {
            return Err((Stage::Process, last_errno()));
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        // SAFETY: the child may have written here while we were suspended, so it is read anew; it has ended or left.
        match unsafe { (&raw const orders.failure).read_volatile() } {
            Some(failure) => {
                let _ = waitpid(Pid::from_raw(pid), None::<WaitPidFlag>);
                Err(failure)
            }
            None => Ok((pid.unsigned_abs(), pidfd)),
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nobody uses any more.
        let _ = unsafe { munmap(self.stack, STACK + GUARD) };
    }
}

fn last_errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// The new process, on its own stack in its parent's memory.
extern "C" fn be_born(orders: *mut c_void) -> c_int {
    // SAFETY: what `start` passed; nobody else looks at it while this runs.
    let orders = unsafe { &mut *orders.cast::<Orders>() };
    if let Err(stage) = carry_out(orders) {
        orders.failure = Some((stage, last_errno()));
    }
    // SAFETY: ends this process without touching what it shares with its parent.
    unsafe { libc::_exit(127) }
}

fn carry_out(orders: &Orders) -> Result<(), Stage> {
    let done = |result: c_int, stage| if result < 0 { Err(stage) } else { Ok(()) };
    // SAFETY: takes nothing.
    done(unsafe { libc::setsid() }, Stage::Session)?;
    // SAFETY: takes a signal's number.
    done(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }, Stage::Session)?;
    // SAFETY: takes nothing.
    if unsafe { libc::getppid() } != orders.keeper {
        // The keeper died before the line above could tie us to it.
        return Err(Stage::Session);
    }
    for (number, fd) in (0..).zip(orders.streams) {
        if fd >= 0 {
            // SAFETY: integers only; the table of descriptors is this process's own.
            done(unsafe { libc::dup2(fd, number) }, Stage::Streams)?;
        }
    }
    pass(orders).map_err(|()| Stage::Streams)?;
    if let Some(tag) = orders.tag {
        limit(libc::RLIMIT_RTTIME, tag, tag).map_err(|()| Stage::Session)?;
    }
    // SAFETY: a set of our own, emptied and then read.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    if !orders.dir.is_null() {
        // SAFETY: a string that lives in the ask.
        done(unsafe { libc::chdir(orders.dir) }, Stage::Directory)?;
    }
    set_limits(orders)?;
    execute(orders);
    Err(Stage::Exec)
}

/// Gives the other descriptors their numbers, and closes all that are meant for nobody.
fn pass(orders: &Orders) -> Result<(), ()> {
    // SAFETY: lives in the launcher, which is suspended.
    let passed = unsafe { &mut *orders.passed };
    let above = passed.last().map_or(3, |(_, number)| number.saturating_add(1));
    // First out of the way of each other's numbers.
    for (fd, _) in passed.iter_mut() {
        // SAFETY: integers only.
        *fd = unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, above) };
        if *fd < 0 {
            return Err(());
        }
    }
    let mut next = 3;
    for (fd, number) in passed.iter() {
        // SAFETY: integers only.
        if unsafe { libc::dup2(*fd, *number) } < 0 {
            return Err(());
        }
        if *number > next {
            close(next, *number - 1);
        }
        next = number + 1;
    }
    close(next, c_int::MAX);
    Ok(())
}

/// Everything of ours is closed by exec anyway; this is for what is not ours.
fn close(first: c_int, last: c_int) {
    // SAFETY: integers only. The table of descriptors is this process's own, and it owns nothing in it.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

fn limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> Result<(), ()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads a struct of our own.
    if unsafe { libc::setrlimit(resource, &raw const limit) } < 0 { Err(()) } else { Ok(()) }
}

fn set_limits(orders: &Orders) -> Result<(), Stage> {
    // In the order of `Stage`. The number of open files comes last: it would stop nothing here, but nothing is to depend on it.
    const RESOURCES: [libc::__rlimit_resource_t; LIMITS] =
        [libc::RLIMIT_AS, libc::RLIMIT_CPU, libc::RLIMIT_NOFILE, libc::RLIMIT_FSIZE, libc::RLIMIT_CORE];
    const STAGES: [Stage; LIMITS] =
        [Stage::Memory, Stage::CpuTime, Stage::OpenFiles, Stage::FileSize, Stage::CoreSize];
    for ((resource, stage), value) in RESOURCES.into_iter().zip(STAGES).zip(orders.limits) {
        if let Some(value) = value {
            // SIGXCPU first, and a second later SIGKILL for who does not listen.
            let hard = if matches!(stage, Stage::CpuTime) { value.saturating_add(1) } else { value };
            limit(resource, value, hard).map_err(|()| stage)?;
        }
    }
    Ok(())
}

/// As execvp(3) does it, with the paths made out before. Returns only if none could be executed, with errno set.
fn execute(orders: &Orders) {
    let mut denied = false;
    // SAFETY: lives in the launcher, which is suspended.
    for path in unsafe { &*orders.paths } {
        // SAFETY: strings and lists with a null at their end, all alive in the ask and the launcher.
        unsafe { libc::execve(*path, orders.args.add(1), orders.env) };
        match last_errno() {
            libc::ENOEXEC => {
                // SAFETY: there are at least two places before the null; and lists and strings as above.
                unsafe {
                    *orders.args.add(1) = *path;
                    libc::execve(*orders.args, orders.args, orders.env);
                }
                return;
            }
            libc::EACCES => denied = true,
            libc::ENOENT
            | libc::ENOTDIR
            | libc::ENAMETOOLONG
            | libc::ESTALE
            | libc::ENODEV
            | libc::ETIMEDOUT => {}
            _ => return,
        }
    }
    if denied {
        // SAFETY: this thread's own errno.
        unsafe { *libc::__errno_location() = libc::EACCES };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn a_program_is_born_and_failures_are_told_apart() {
        let mut launcher = Launcher::new().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        let start = |launcher: &mut Launcher, path, dir, limits| {
            launcher.start(Image {
                dir,
                paths: [c"/nonexistent/sh", path].into_iter(),
                args: [c"sh", c"-c", c"echo $X; pwd; ls -l /proc/self/fd | wc -l"].into_iter(),
                env: [c"X=y", c"PATH=/bin:/usr/bin"].into_iter(),
                streams: [None, Some(&writer), None],
                passed: &[],
                limits,
                tag: None,
            })
        };
        let none = [None; LIMITS];
        let (pid, _pidfd) = start(&mut launcher, c"/bin/sh", Some(c"/tmp"), none).unwrap();
        let failed = [
            (start(&mut launcher, c"/bin/nothing", None, none), (Stage::Exec, libc::ENOENT)),
            (start(&mut launcher, c"/etc/passwd", None, none), (Stage::Exec, libc::EACCES)),
            (start(&mut launcher, c"/bin/sh", Some(c"/nowhere"), none), (Stage::Directory, libc::ENOENT)),
        ];
        for (found, wanted) in failed {
            assert_eq!(found.unwrap_err(), wanted);
        }
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("y\n/tmp\n"), "{said}");
        waitpid(Pid::from_raw(i32::try_from(pid).unwrap()), None::<WaitPidFlag>).unwrap();
        drop(File::open("/dev/null").unwrap());
    }
}
