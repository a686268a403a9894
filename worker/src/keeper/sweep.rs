//! Reaching all of a tree whose members may fork, exit and move meanwhile.

use crate::sys::{SIGKILL, SIGSTOP, tree};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

/// How deep a walk goes. What lies deeper comes up when what is above it has died.
const DEEPEST: u32 = 64;
/// A tree that still grows after so many rounds of freezing is killed as it is, and again.
const ROUNDS: u32 = 32;

/// A signal to everybody below, and to `roots`: children of this process.
pub(super) fn signal(roots: &[u32], number: i32) {
    walk(roots, &mut |_, process| {
        let _ = tree::signal(process, number);
    });
}

/// Kills those whom `roots` names, children of this process, and everybody below them: first frozen, so that nobody can fork
/// out of reach. Who moves meanwhile is among the roots of the next round; who nevertheless escapes will come up as an orphan.
pub(super) fn fell(mut roots: impl FnMut() -> Vec<u32>) {
    let mut frozen = BTreeSet::new();
    let mut named = Vec::new();
    for _ in 0..ROUNDS {
        let before = frozen.len();
        named = roots();
        walk(&named, &mut |pid, process| {
            if frozen.insert(pid) {
                let _ = tree::signal(process, SIGSTOP);
            }
        });
        if frozen.len() == before {
            break;
        }
    }
    signal(&named, SIGKILL);
    // Where there was no descriptor to be had to walk with.
    for root in named {
        tree::signal_child(root, SIGKILL);
    }
}

fn walk(roots: &[u32], visit: &mut impl FnMut(u32, &OwnedFd)) {
    for &root in roots {
        if let Ok(process) = tree::open(root) {
            climb(root, &process, 0, visit);
        }
    }
}

/// Children first, so that none loses its parent before it is reached.
fn climb(pid: u32, process: &OwnedFd, depth: u32, visit: &mut impl FnMut(u32, &OwnedFd)) {
    let mut below = Vec::new();
    if depth < DEEPEST {
        tree::children(pid, &mut below);
    }
    for child in below {
        let Ok(opened) = tree::open(child) else { continue };
        // Its number may have become another's between the two lines above. It is the one if it is a child of a process
        // that has kept its own number.
        if tree::parent(child) == Some(pid) && tree::is_there(process) {
            climb(child, &opened, depth + 1, visit);
        }
    }
    visit(pid, process);
}
