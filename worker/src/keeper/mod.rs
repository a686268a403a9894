//! The keeper: a process between an owner and the programs it runs, parent of them all. When the owner dies, by whatever
//! cause, the keeper kills everything that was started, whatever has become of it. The picture is in `README.md` beside
//! this file.

pub mod ledger;
pub mod protocol;
mod run;
mod sweep;

use crate::sys::exec::Launcher;
use crate::sys::tree::OwnChildren;
use crate::sys::{fd, life, socket, start, tree, vigil};
use ledger::Ledger;
use protocol::Reply;
use run::Keeper;
use std::fmt;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

/// The first argument of a keeper.
pub const FLAG: &str = "--procession-keeper=";

start::before_main!(FLAG, arrive);

/// What a keeper is given at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Its end of the socket.
    pub socket: RawFd,
    /// Its owner, which is its parent.
    pub owner: u32,
    /// The first of the marks for its programs; `None`: there are no marks here.
    pub marks: Option<u64>,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{:x}", self.socket, self.owner, self.marks.unwrap_or(0))
    }
}

impl Spec {
    /// The inverse of `Display`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let socket = parts.next()?.parse().ok()?;
        let owner = parts.next()?.parse().ok()?;
        let marks = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().is_none().then_some(Self { socket, owner, marks: (marks != 0).then_some(marks) })
    }
}

/// What a keeper does to become one.
pub const STEPS: [&str; 6] = [
    "hearing of its children",
    "leading a session of its own",
    "closing what it does not need",
    "watching its owner",
    "listing its children (does the kernel have CONFIG_PROC_CHILDREN?)",
    "getting memory",
];

/// Called before `main`, in a process that was given the flag. Nothing else of the program ever runs here.
fn arrive(spec: &'static str) {
    if life::is_privileged() {
        return;
    }
    let claimed = Spec::parse(spec).and_then(|spec| {
        let socket = fd::claim(spec.socket).ok()?;
        vigil::is_socket_of(&socket, spec.owner).then_some((spec, socket))
    });
    let Some((spec, socket)) = claimed else {
        let text = b"procession: --procession-keeper is how this program starts its own keeper; it cannot be typed\n";
        life::complain(text);
        life::exit_now(125);
    };
    match settle(spec, &socket) {
        Ok(settled) => {
            let (owner, children, launcher) = settled;
            // It died before it could be watched.
            if vigil::is_child_of(spec.owner) {
                let (ledger, list) = (Ledger::default(), Vec::new());
                let (marks, doomed) = (spec.marks, Vec::new());
                Keeper { socket, owner, launcher, children, marks, ledger, newest: 0, list, doomed }.run();
            }
        }
        Err((step, error)) => {
            let mut refusal = Vec::new();
            Reply::Refused(step, error.raw_os_error().unwrap_or(0)).write(&mut refusal);
            let _ = socket::send(&socket, &refusal, &[], false);
        }
    }
    life::exit_now(0);
}

fn settle(spec: Spec, socket: &OwnedFd) -> Result<(OwnedFd, OwnChildren, Launcher), (u8, io::Error)> {
    let at = |step: u8| move |error| (step, error);
    vigil::deafen().map_err(at(0))?;
    vigil::settle().map_err(at(1))?;
    vigil::close_all_but(socket).map_err(at(2))?;
    let owner = tree::open(spec.owner).map_err(at(3))?;
    let children = OwnChildren::open().map_err(at(4))?;
    let launcher = Launcher::new().map_err(at(5))?;
    Ok((owner, children, launcher))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_spec_comes_back(socket: RawFd, owner: u32, marks in prop::option::of(1..u64::MAX)) {
            let spec = Spec { socket, owner, marks };
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
