//! A word on which processes sleep until it changes.
#![allow(unsafe_code, reason = "the cellar")]

use super::robust::{Until, timespec_of};
use std::io;
use std::sync::atomic::AtomicU32;

/// Sleeps while the word is `seen`; false when the time has come. It may wake for nothing, and does for a signal.
pub(crate) fn wait(word: &AtomicU32, seen: u32, until: Until) -> bool {
    let time = match until {
        Until::Now => return false,
        Until::Time(nanos) => Some(timespec_of(nanos)),
        Until::Forever => None,
    };
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let (any, none) = (libc::FUTEX_BITSET_MATCH_ANY, std::ptr::null::<u32>());
    // SAFETY: the word and the time (or null) live for the call, which only reads them.
    let done = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT_BITSET, seen, time, none, any)
    };
    done == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ETIMEDOUT)
}

/// Sets the word's lowest bit and wakes all who sleep on it: one act of the kernel, of which no death leaves a half.
pub(crate) fn raise(word: &AtomicU32) {
    // Set by OR with 1; the comparison (old value equal to 0) would wake others, of which there are to be none.
    const OR_ONE: u32 = (libc::FUTEX_OP_OR as u32) << 28 | 1 << 12;
    let (all, others) = (i32::MAX, 0_usize);
    // SAFETY: the word lives for the call; it is aligned, and always changed as a whole.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE_OP, all, others, word.as_ptr(), OR_ONE)
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    #[test]
    fn raising_sets_the_bit_and_wakes_everybody() {
        let word = AtomicU32::new(6);
        assert!(!wait(&word, 6, Until::after(Duration::from_millis(2))));
        assert!(wait(&word, 4, Until::Forever), "it is not what was seen");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| while word.load(Ordering::Acquire) == 6 && wait(&word, 6, Until::Forever) {});
            }
            raise(&word);
        });
        assert_eq!(word.load(Ordering::Relaxed), 7);
        raise(&word);
        assert_eq!(word.load(Ordering::Relaxed), 7);
    }
}
