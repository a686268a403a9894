//! Names that a listener is known by: a path, or a name in the abstract namespace.

use interprocess::local_socket::{
    GenericFilePath, GenericNamespaced, ListenerNonblockingMode, ListenerOptions, ToFsName, ToNsName,
};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use interprocess::os::unix::uds_local_socket::Listener;
use procession_worker::sys::door;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// As it is written by people: with `@` for the abstract namespace.
pub(super) fn shown(name: &Path) -> String {
    match door::abstract_name(name) {
        Some(name) => format!("@{}", name.display()),
        None => name.display().to_string(),
    }
}

/// A name that is taken, and the file that stands for it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(super) name: PathBuf,
    /// Device and number; none in the abstract namespace.
    file: Option<(u64, u64)>,
}

/// Takes the name and listens.
///
/// # Errors
/// EADDRINUSE: somebody else listens there, or a file is in the way.
pub(crate) fn claim(name: &Path, mode: u32) -> io::Result<(Listener, Claim)> {
    let found = match door::abstract_name(name) {
        Some(_) => bind(name, mode),
        None => alone_at(name).and_then(|_alone| match bind(name, mode) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => take_over(name, mode),
            bound => bound,
        }),
    };
    let found = found.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            let text =
                format!("{} is taken: somebody listens there, or it is a file of another kind", shown(name));
            io::Error::new(io::ErrorKind::AddrInUse, text)
        }
        _ => error,
    })?;
    let file = match door::abstract_name(name) {
        Some(_) => None,
        None => Some(identity(&fs::symlink_metadata(name)?)),
    };
    // It may be dropped elsewhere than where it was made.
    let name = if file.is_some() { std::path::absolute(name)? } else { name.into() };
    Ok((found, Claim { name, file }))
}

fn bind(name: &Path, mode: u32) -> io::Result<Listener> {
    let options = ListenerOptions::new().nonblocking(ListenerNonblockingMode::Accept).reclaim_name(false);
    match door::abstract_name(name) {
        Some(name) => options.name(name.to_ns_name::<GenericNamespaced>()?).create_sync_as::<Listener>(),
        None => options.name(name.to_fs_name::<GenericFilePath>()?).mode(mode).create_sync_as::<Listener>(),
    }
}

/// Keeps others from the same path: one that is bound and does not listen yet must not be taken for dead, and two who find
/// a dead one must not remove each other's. Nothing of it is in any file system, and it ends with its holder.
///
/// # Errors
/// EADDRINUSE: somebody else is at it.
fn alone_at(path: &Path) -> io::Result<UnixDatagram> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (device, inode) = identity(&fs::metadata(parent)?);
    let mut name = format!("procession-bind-{device:x}-{inode:x}-").into_bytes();
    name.extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
    name.truncate(LONGEST);
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Of a name in the abstract namespace, in bytes.
const LONGEST: usize = 107;

/// Puts a new socket in the place of one whose listener was killed.
fn take_over(name: &Path, mode: u32) -> io::Result<Listener> {
    let in_use = || io::Error::from(io::ErrorKind::AddrInUse);
    if !fs::symlink_metadata(name)?.file_type().is_socket() {
        return Err(in_use());
    }
    match door::connect(name, Some(std::time::Instant::now())) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(name)?;
            bind(name, mode)
        }
        _ => Err(in_use()),
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// To be dropped while the listener lives: nobody replaces the file then, and no other file has its number.
impl Drop for Claim {
    fn drop(&mut self) {
        let Some(file) = self.file else { return };
        if fs::symlink_metadata(&self.name).is_ok_and(|found| identity(&found) == file) {
            let _ = fs::remove_file(&self.name);
        }
    }
}
