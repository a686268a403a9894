//! What only a broken task does: reads where nothing lies, closes what is not its own, speaks at the exit.
#![allow(unsafe_code, reason = "the cellar")]

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use std::num::NonZeroUsize;
use std::os::fd::RawFd;

/// Reads memory that cannot be read: a segmentation fault as the hardware makes it.
pub fn touch_nothing() {
    let page = NonZeroUsize::MIN;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory that exists.
    let wall = unsafe { mmap_anonymous(None, page, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) };
    if let Ok(wall) = wall {
        // SAFETY: the address is mapped and ours. It may not be read, so the process ends here: that is the drill.
        unsafe { wall.cast::<u8>().as_ptr().read_volatile() };
    }
}

/// Closes a descriptor that belongs to somebody else in this process.
pub fn close(number: RawFd) {
    // SAFETY: the owner, this worker's outlet, is never read or dropped again in a process that is drilled so: it only
    // writes, and gets an error; nothing else is opened meanwhile that could take the number.
    unsafe { libc::close(number) };
}

/// Has `then` called when the process exits.
pub fn at_exit(then: extern "C" fn()) {
    // SAFETY: keeps a pointer to a function that lives as long as the program.
    unsafe { libc::atexit(then) };
}
