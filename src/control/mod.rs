//! Talking to a running `procession run`: a Unix socket, for its own user alone; never TCP. The picture is in README.md.

mod client;
mod protocol;
mod server;

pub(crate) use client::{Client, TalkError};
pub(crate) use protocol::{Request, Row, event, printed};
pub(crate) use server::Server;

use procession_worker::sys::door;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

/// Where the sockets lie: of this user alone.
///
/// # Errors
/// It cannot be made, or belongs to somebody else.
pub(crate) fn dir() -> io::Result<PathBuf> {
    let dir = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("procession"),
        None => std::env::temp_dir().join(format!("procession-{}", door::own_uid())),
    };
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(&dir)?;
    if found.is_dir() && found.uid() == door::own_uid() && found.mode() & 0o022 == 0 {
        return Ok(dir);
    }
    let text = format!("{} belongs to somebody else, or others may write there", dir.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}
