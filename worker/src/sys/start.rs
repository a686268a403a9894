//! The very start of a process: code that runs before `main`, and finds out whether `main` is meant to run at all.
#![allow(unsafe_code, reason = "the cellar")]

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

/// What a constructor is called with (glibc passes `main`'s arguments along).
pub type Constructor = extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char);

/// Plants `$entry: fn(&'static str)` as a constructor. It is called only if the program's first argument is
/// `$flag` followed by a text, and gets that text; the argument is removed first.
macro_rules! before_main {
    ($flag:expr, $entry:path) => {
        #[used]
        #[allow(unsafe_code, reason = "a constructor is found by its section")]
        // SAFETY: `.init_array` holds pointers to functions of this type, and this is one.
        #[unsafe(link_section = ".init_array")]
        static CONSTRUCTOR: $crate::sys::start::Constructor = construct;

        extern "C" fn construct(
            argc: std::ffi::c_int,
            argv: *mut *mut std::ffi::c_char,
            envp: *mut *mut std::ffi::c_char,
        ) {
            $crate::sys::start::arrive($flag, (argc, argv, envp), construct, $entry);
        }
    };
}
pub(crate) use before_main;

struct Arguments(c_int, *mut *mut c_char, *mut *mut c_char);
// SAFETY: these pointers lead to the arguments that the kernel placed on the stack for the whole life of the process.
unsafe impl Send for Arguments {}
// SAFETY: as above, and they are only read.
unsafe impl Sync for Arguments {}

static ARRIVAL: OnceLock<(Arguments, Constructor)> = OnceLock::new();

/// The body of `before_main!`: cheap and silent in every process that is no worker.
pub fn arrive(
    flag: &str,
    (argc, argv, envp): (c_int, *mut *mut c_char, *mut *mut c_char),
    own: Constructor,
    entry: fn(&'static str),
) {
    if argc < 2 || argv.is_null() {
        return;
    }
    // SAFETY: argc says that argv[1] exists.
    let first = unsafe { *argv.add(1) };
    if first.is_null() {
        return;
    }
    // SAFETY: the arguments are C strings, and live as long as the process.
    let text: &'static CStr = unsafe { CStr::from_ptr(first) };
    let Some(spec) = text.to_bytes().strip_prefix(flag.as_bytes()) else { return };
    let Ok(spec) = std::str::from_utf8(spec) else { return };
    let _ = ARRIVAL.set((Arguments(argc, argv, envp), own));
    entry(spec);
}

/// Takes the worker's flag out of the arguments, so that tasks see the program's own. std allows for arguments that
/// libraries take out this way.
pub fn hide_flag() {
    let Some((Arguments(argc, argv, _), _)) = ARRIVAL.get() else { return };
    for at in 1..usize::try_from(*argc).unwrap_or(0) {
        // SAFETY: argv has argc entries and a null behind them, so both places exist.
        unsafe { *argv.add(at) = *argv.add(at + 1) };
    }
}

unsafe extern "C" {
    // Placed by every linker around `.init_array`, per image.
    static __init_array_start: [usize; 0];
    static __init_array_end: [usize; 0];
}

/// Runs the constructors that the loader would have called after ours, so that what they set up is there for tasks.
///
/// Only for a process that never returns from its constructor: they would run again.
pub fn run_later_constructors() {
    let Some((Arguments(argc, argv, envp), own)) = ARRIVAL.get() else { return };
    let start = (&raw const __init_array_start).cast::<usize>();
    let end = (&raw const __init_array_end).addr();
    let count = end.saturating_sub(start.addr()) / size_of::<usize>();
    // SAFETY: the linker placed these two symbols around one array of function addresses, relocated by now.
    let all = unsafe { std::slice::from_raw_parts(start, count) };
    let Some(at) = all.iter().position(|&address| address == *own as usize) else { return };
    for &address in &all[at + 1..] {
        if address == 0 || address == usize::MAX {
            continue;
        }
        // SAFETY: an entry of `.init_array` is a function that takes these arguments, or ignores them.
        let constructor = unsafe { std::mem::transmute::<usize, Constructor>(address) };
        // One argument less than the loader counted: the flag was taken out.
        constructor(*argc - 1, *argv, *envp);
    }
}
