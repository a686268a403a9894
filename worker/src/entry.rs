//! Am I a worker? Claim the descriptors, say Hello, serve, exit.

use crate::current;
use crate::ipc::Page;
use crate::ipc::page::Stage;
use crate::panic;
use crate::serve::{Farewell, Server};
use crate::sys::{fd, image, life, start};
use crate::wire::message::{Birth, PROTOCOL, Refusal};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The first argument of a worker. The kernel passes arguments to one process only; an environment variable would be
/// inherited by whatever a task starts.
pub const FLAG: &str = "--procession-worker=";

start::before_main!(FLAG, arrive);

/// What a worker is given at its start: the numbers of its descriptors, and where it is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Read end of the calls.
    pub calls: RawFd,
    /// Write end of the outcomes.
    pub outcomes: RawFd,
    /// The socket on which the descriptors of both travel.
    pub tray: RawFd,
    /// The shared page.
    pub page: RawFd,
    /// Read end of a pipe that the parent never writes to.
    pub lifeline: RawFd,
    /// Proves that the page was made for this worker.
    pub nonce: u64,
    /// Serve in [`init`], rather than before `main`.
    pub in_init: bool,
    /// The process that started it is a keeper, and not the one that it serves.
    pub kept: bool,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, outcomes, tray, page, lifeline, nonce, in_init, kept } = self;
        let bits = u8::from(*in_init) | u8::from(*kept) << 1;
        write!(f, "{calls},{outcomes},{tray},{page},{lifeline},{nonce:x},{bits}")
    }
}

impl Spec {
    /// The inverse of `Display`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let mut number = || parts.next()?.parse::<RawFd>().ok();
        let (calls, outcomes, tray) = (number()?, number()?, number()?);
        let (page, lifeline) = (number()?, number()?);
        let nonce = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (in_init, kept) = match parts.next()? {
            "0" => (false, false),
            "1" => (true, false),
            "2" => (false, true),
            "3" => (true, true),
            _ => return None,
        };
        parts.next().is_none().then_some(Self { calls, outcomes, tray, page, lifeline, nonce, in_init, kept })
    }
}

/// The descriptors, claimed.
#[derive(Debug)]
struct Belongings {
    calls: OwnedFd,
    outcomes: OwnedFd,
    tray: OwnedFd,
    lifeline: OwnedFd,
    page: Arc<Page>,
}

impl Belongings {
    fn claim(spec: &Spec) -> Option<Self> {
        // The page first: it shows that the other numbers were meant for us.
        let page = fd::claim(spec.page).ok()?;
        let page = Arc::new(Page::open(page, spec.nonce).ok()?);
        page.set_stage(Stage::Entered);
        Some(Self {
            calls: fd::claim(spec.calls).ok()?,
            outcomes: fd::claim(spec.outcomes).ok()?,
            tray: fd::claim(spec.tray).ok()?,
            lifeline: fd::claim(spec.lifeline).ok()?,
            page,
        })
    }
}

impl Belongings {
    /// Before anybody else has opened anything that could be mistaken for a stray.
    fn close_strays(&self) {
        let Self { calls, outcomes, tray, lifeline, page } = self;
        fd::close_strays(&[
            calls.as_raw_fd(),
            outcomes.as_raw_fd(),
            tray.as_raw_fd(),
            lifeline.as_raw_fd(),
            page.file().as_raw_fd(),
        ]);
    }
}

static WAITING: Mutex<Option<Belongings>> = Mutex::new(None);
static INIT_CALLED: AtomicBool = AtomicBool::new(false);

/// Called before `main`, in a process that was given the flag.
fn arrive(spec: &'static str) {
    if life::is_privileged() {
        return;
    }
    let Some((spec, belongings)) = Spec::parse(spec).and_then(|spec| Some((spec, Belongings::claim(&spec)?)))
    else {
        // No println: nothing of std's start has run, and somebody typed this by hand.
        let text = b"procession: --procession-worker is how this program starts its own workers; it cannot be typed\n";
        life::complain(text);
        life::exit_now(Farewell::Refused as i32);
    };
    tie_life(&belongings, spec.kept);
    belongings.close_strays();
    if spec.in_init {
        *WAITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(belongings);
        return;
    }
    start::hide_flag();
    belongings.page.set_stage(Stage::Constructing);
    start::run_later_constructors();
    fd::open_standard_streams();
    live(belongings);
}

/// For those who do not want code to run before `main`: call this as `main`'s first line, and the workers of this
/// program start here instead.
///
/// In a worker it never returns. Elsewhere it does next to nothing. Without any call of it workers start just before
/// `main`, and nothing has to be called at all.
///
/// What `main` does before this line is done again by each worker.
///
/// ```
/// # use procession_worker::init;
/// fn main() {
///     init();
///     // … the program
/// }
/// ```
pub fn init() {
    INIT_CALLED.store(true, Ordering::Relaxed);
    let waiting = WAITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(belongings) = waiting {
        // Not before: the loader goes on to call constructors with the count of arguments that it made.
        start::hide_flag();
        live(belongings);
    }
}

/// Has [`init`] been called here, so that workers are to start there?
#[doc(hidden)]
#[must_use]
pub fn starts_in_init() -> bool {
    INIT_CALLED.load(Ordering::Relaxed)
}

/// From here on the parent's death is ours, whatever we are doing.
fn tie_life(belongings: &Belongings, kept: bool) {
    // A keeper has tied it to its own life before this program was executed.
    let lives = kept || life::die_with_parent(belongings.page.parent());
    if !life::die_with_lifeline(belongings.lifeline.as_fd()) || !lives {
        life::exit_now(Farewell::Done as i32);
    }
}

#[expect(
    clippy::exit,
    reason = "a worker's life ends here, and exit handlers and buffered output belong to it"
)]
fn live(belongings: Belongings) -> ! {
    let Belongings { calls, outcomes, tray, lifeline, page } = belongings;
    page.set_stage(Stage::Preparing);
    life::reset_signals();
    panic::leave_words_in(&page);
    let mut server = Server::new(calls, outcomes, tray, &page);
    // The parent has gone, or is no parent of ours.
    let Some(birth) = server.birth() else { life::exit_now(Farewell::Refused as i32) };
    let once = birth.once;
    if let Err(refusal) = prepare(birth, &page, lifeline) {
        server.refuse(&refusal);
        life::exit_now(Farewell::Refused as i32);
    }
    server.hello(once);
    let farewell = server.serve(once);
    std::process::exit(farewell as i32);
}

fn prepare(birth: Birth, page: &Page, lifeline: OwnedFd) -> Result<(), Refusal> {
    let refusal = |stage: &str, errno, text: String| Refusal { stage: stage.into(), errno, text };
    if birth.protocol != PROTOCOL || birth.image != image::id() {
        let text = "the worker is not the same build as its parent".into();
        return Err(refusal("comparing builds", None, text));
    }
    if let Some(dir) = birth.current_dir {
        let dir = std::path::PathBuf::from(std::ffi::OsString::from_vec(dir));
        std::env::set_current_dir(&dir).map_err(|error| {
            refusal("changing directory", error.raw_os_error(), format!("{}: {error}", dir.display()))
        })?;
    }
    current::become_worker(birth.name, birth.path, birth.parent_name, page.parent(), lifeline);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_spec_comes_back(
            fds: [RawFd; 5], nonce: u64, in_init: bool, kept: bool
        ) {
            let [calls, outcomes, tray, page, lifeline] = fds;
            let spec = Spec { calls, outcomes, tray, page, lifeline, nonce, in_init, kept };
            prop_assert_eq!(Spec::parse(&spec.to_string()), Some(spec));
        }

        #[test]
        fn any_other_text_is_refused(text in "[0-9a-f,-]{0,40}") {
            if let Some(spec) = Spec::parse(&text) {
                prop_assert_eq!(Spec::parse(&spec.to_string()), Some(spec));
            }
        }
    }
}
