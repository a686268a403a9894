//! What is expected of each fault, whichever moment it strikes at.

use procession::drill::Fault;
use procession::{Exit, SpawnError, TaskError};
use std::time::Duration;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// Longer than any task here takes, unless it never ends.
pub(crate) const DEADLINE: Duration = Duration::from_millis(400);

/// Does it leave a worker that lives, and of which nothing more is heard?
pub(crate) fn is_silent(fault: Fault) -> bool {
    matches!(fault, Fault::Stop | Fault::VastLength)
}

/// Does the page make no sense afterwards? Then nothing is known of what the chunk has run.
pub(crate) fn spoils_the_page(fault: Fault) -> bool {
    matches!(fault, Fault::Garbage | Fault::GarbageAndOn)
}

/// How a process ends by this fault, if it does so by itself.
pub(crate) fn ends(fault: Fault) -> Option<&'static [Exit]> {
    Some(match fault {
        Fault::ExitZero => &[Exit::Code(0)],
        Fault::ExitThree => &[Exit::Code(3)],
        Fault::Abort => &[Exit::Signal(6)],
        Fault::Kill | Fault::HalfFrame | Fault::Garbage | Fault::Grandchild => &[Exit::Signal(9)],
        Fault::Segfault => &[Exit::Signal(11)],
        // std tells of it, where its runtime runs, and aborts.
        Fault::Overflow => &[Exit::Signal(11), Exit::Signal(6)],
        _ => return None,
    })
}

/// Is this what the caller of the task that misbehaved has to be told?
pub(crate) fn assert_blamed(fault: Fault, error: &TaskError) {
    let fits = match (fault, error) {
        (Fault::Panic, TaskError::Panicked(panic)) => {
            panic.message() == "drill" && panic.location().is_some_and(|place| place.contains("drill.rs"))
        }
        (Fault::ClosePipe, TaskError::Lost(lost)) => {
            lost.reason().is_some_and(|why| why.contains("closed its pipe"))
        }
        // By what they say, or by lying where finished outcomes should; the killed one's may be read before it is dead.
        (
            Fault::FalseLength | Fault::VastLength | Fault::HalfFrame | Fault::HalfFrameAndOn,
            TaskError::Lost(lost),
        ) if lost.reason().is_some() => lost.reason().is_some_and(|why| why.contains("make no sense")),
        // Whether it is the page, or what the worker sends for having read it.
        (Fault::GarbageAndOn | Fault::Garbage, TaskError::Lost(lost)) if lost.reason().is_some() => {
            lost.reason().is_some_and(|why| why.contains("no sense"))
        }
        (fault, TaskError::TimedOut(_)) => is_silent(fault),
        (fault, TaskError::Lost(lost)) => {
            lost.reason().is_none() && ends(fault).is_some_and(|ends| ends.contains(&lost.exit()))
        }
        _ => false,
    };
    assert!(fits, "the caller was told: {error} ({error:?})");
}

/// Is this what has to be told of a worker that was struck before it had said hello?
pub(crate) fn assert_stillborn(fault: Fault, error: &TaskError) {
    let TaskError::Spawn(SpawnError::Birth { text, exit, .. }) = error else {
        panic!("the caller was told: {error} ({error:?})");
    };
    let fits = match fault {
        // A constructor is C: a panic must not leave it.
        Fault::Panic => *exit == Some(Exit::Signal(6)),
        Fault::FalseLength => text.contains("over the limit"),
        Fault::HalfFrameAndOn => text.contains("make no sense"),
        // Read before or after it was killed.
        Fault::HalfFrame => *exit == Some(Exit::Signal(9)),
        Fault::Stop | Fault::VastLength => text.contains("not ready within"),
        // The pipe is not there, or the page is not the one, that it was promised.
        Fault::ClosePipe | Fault::GarbageAndOn => *exit == Some(Exit::Code(125)),
        _ => ends(fault).is_some_and(|ends| exit.is_some_and(|exit| ends.contains(&exit))),
    };
    assert!(fits, "the caller was told: {error} ({error:?})");
}

/// Bytes that another thread writes into the middle of a result are that result's.
pub(crate) fn is_of_the_process(fault: &Fault) -> bool {
    !matches!(fault, Fault::HalfFrameAndOn | Fault::FalseLength | Fault::VastLength)
}

/// May a result be whole that was under way when a second thread did this?
pub(crate) fn spares_the_result(fault: Fault) -> bool {
    matches!(fault, Fault::Panic | Fault::ClosePipe | Fault::GarbageAndOn)
}
