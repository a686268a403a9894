//! All panic policy: a panic in a task is an outcome, with its message, its place and its stack; it is printed nowhere.

use crate::ipc::Page;
use crate::wire::codec;
use crate::wire::message::PanicRecord;
use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Once, OnceLock};

thread_local! {
    /// `Some` on threads that run tasks: there the hook notes instead of printing.
    static NOTE: RefCell<Option<PanicRecord>> = const { RefCell::new(None) };
    static RUNS_TASKS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Where a record goes that must outlive the process.
static LAST_WORDS: OnceLock<Arc<Page>> = OnceLock::new();

/// Marks the calling thread as one that runs tasks. Other threads' panics go to the hook that was there before.
pub fn watch_this_thread() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| if RUNS_TASKS.get() { note(info) } else { before(info) }));
    });
    RUNS_TASKS.set(true);
}

/// Lets records of this process outlive it, should a panic abort it (`panic = "abort"`, or a panic while unwinding).
pub(crate) fn leave_words_in(page: &Arc<Page>) {
    let _ = LAST_WORDS.set(Arc::clone(page));
}

fn note(info: &PanicHookInfo<'_>) {
    let record = PanicRecord {
        message: message(info.payload()),
        location: info.location().map(ToString::to_string),
        backtrace: backtrace(),
    };
    if let Some(page) = LAST_WORDS.get() {
        page.leave_words(&last_words(&record));
    }
    NOTE.with(|note| {
        if let Ok(mut note) = note.try_borrow_mut() {
            *note = Some(record);
        }
    });
}

/// The record in as many bytes as there are: the backtrace goes first, then the end of the message.
fn last_words(record: &PanicRecord) -> Vec<u8> {
    let room = crate::ipc::page::MAX_WORDS;
    let clip = |text: &str, max: usize| text[..text.floor_char_boundary(max)].to_owned();
    let location = record.location.as_deref().map(|text| clip(text, room / 4));
    let fixed = 64 + location.as_ref().map_or(0, String::len);
    let message = clip(&record.message, room - fixed);
    let backtrace = clip(&record.backtrace, room - fixed - message.len());
    codec::encode(&PanicRecord { message, location, backtrace }).unwrap_or_default()
}

/// Stacks are worth their price unless the user said no in the way that Rust programs know.
fn backtrace() -> String {
    let refused = ["RUST_LIB_BACKTRACE", "RUST_BACKTRACE"].into_iter().find_map(std::env::var_os);
    if refused.is_some_and(|value| value == "0") {
        return String::new();
    }
    Backtrace::force_capture().to_string()
}

fn message(payload: &dyn Any) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic with a value that is no text".to_owned()
    }
}

/// Runs `body`, which may panic; on a panic, what is known of it.
///
/// # Errors
/// `body` panicked.
#[inline]
pub fn catch<R>(body: impl FnOnce() -> R) -> Result<R, PanicRecord> {
    panic::catch_unwind(AssertUnwindSafe(body)).map_err(record)
}

#[cold]
fn record(payload: Box<dyn Any + Send>) -> PanicRecord {
    let message = message(&*payload);
    // The hook may not have been ours (a task may install its own), and `resume_unwind` passes it by: the note may be
    // of another panic, which the task survived.
    let record = take_note()
        .filter(|note| note.message == message)
        .unwrap_or_else(|| PanicRecord { message, ..PanicRecord::default() });
    if let Some(page) = LAST_WORDS.get() {
        page.forget_words();
    }
    // A payload may panic when dropped; that says nothing new about the task.
    if panic::catch_unwind(AssertUnwindSafe(|| drop(payload))).is_err() {
        take_note();
    }
    record
}

fn take_note() -> Option<PanicRecord> {
    NOTE.with(|note| note.try_borrow_mut().ok().and_then(|mut note| note.take()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_noted_with_message_place_and_stack() {
        watch_this_thread();
        let record = catch(|| assert_eq!(1 + 1, 3, "arithmetic")).unwrap_err();
        assert!(record.message.contains("arithmetic"), "{record:?}");
        assert!(record.location.unwrap().contains("panic.rs:"));
        assert!(std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v == "0") || !record.backtrace.is_empty());
    }

    #[test]
    fn payloads_that_are_no_text_or_panic_when_dropped_cost_nothing() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        watch_this_thread();
        assert!(catch(|| panic::panic_any(Bomb)).is_err());
        assert_eq!(catch(|| panic::resume_unwind(Box::new("quiet"))).unwrap_err().message, "quiet");
    }

    #[test]
    fn last_words_fit_whatever_was_said() {
        let long = "ä".repeat(5000);
        let record = PanicRecord { message: long.clone(), location: Some(long.clone()), backtrace: long };
        let words = last_words(&record);
        assert!(words.len() <= crate::ipc::page::MAX_WORDS);
        assert!(codec::decode::<PanicRecord>(&words).unwrap().message.starts_with('ä'));
    }
}
