//! What constructors of this program have set up by the time that anybody asks: one of its own, linked first, and one
//! of a C library, linked last.
#![allow(unsafe_code, reason = "a constructor is planted in a section, and a C library is asked")]

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static READY: AtomicU32 = AtomicU32::new(0);
static SAW_FLAG: AtomicBool = AtomicBool::new(false);

#[used]
// SAFETY: `.init_array` holds pointers to functions that take these arguments, and this is one.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn(c_int, *mut *mut c_char) = construct;

extern "C" fn construct(argc: c_int, argv: *mut *mut c_char) {
    READY.store(42, Ordering::Relaxed);
    if argc > 1 {
        // SAFETY: argc says that argv[1] exists.
        let first = unsafe { *argv.add(1) };
        // SAFETY: it is a C string that lives as long as the process.
        let first = unsafe { CStr::from_ptr(first) };
        SAW_FLAG.store(first.to_bytes().starts_with(b"--procession-worker="), Ordering::Relaxed);
    }
}

unsafe extern "C" {
    safe fn late_ready() -> c_int;
    safe fn late_saw_flag() -> c_int;
    safe fn late_saw_whole() -> c_int;
}

/// What the early and the late constructor have set up.
pub(crate) fn ready() -> (u32, u32) {
    (READY.load(Ordering::Relaxed), late_ready().unsigned_abs())
}

/// Which of them saw the worker's flag, which the library takes out of the arguments as soon as it comes to run.
pub(crate) fn saw_flag() -> (bool, bool) {
    (SAW_FLAG.load(Ordering::Relaxed), late_saw_flag() != 0)
}

/// Did the late one find as many arguments as it was told there are?
pub(crate) fn saw_whole() -> bool {
    late_saw_whole() != 0
}
