//! Shared memory with a name, for those who must meet by one.

use super::segment::{Identity, reserve};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::OwnedFd;

/// Makes memory of that name, for this user only; `len` bytes, all of which are there.
///
/// # Errors
/// EEXIST, EINVAL, ENAMETOOLONG; as [`reserve`]: then there is no such name afterwards.
pub fn create(name: &str, len: usize) -> io::Result<OwnedFd> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
    let path = path(name)?;
    let file = shm_open(path.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    match reserve(&file, len) {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = shm_unlink(path.as_str());
            Err(error)
        }
    }
}

/// Opens the memory of that name.
///
/// # Errors
/// ENOENT, EACCES, EINVAL.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    Ok(shm_open(path(name)?.as_str(), OFlag::O_RDWR, Mode::empty())?)
}

/// Takes the name away if it still means that file; who has it open goes on using it.
///
/// # Errors
/// ENOENT if it means another one, or none.
pub fn unlink(name: &str, file: &OwnedFd) -> io::Result<()> {
    if Identity::of(open(name)?)?.number != Identity::of(file)?.number {
        return Err(Errno::ENOENT.into());
    }
    Ok(shm_unlink(path(name)?.as_str())?)
}

fn path(name: &str) -> io::Result<String> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Errno::EINVAL.into());
    }
    Ok(format!("/{name}"))
}
