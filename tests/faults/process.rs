//! The table for a process of its own, which is never idle: it has one task, and ends.

use crate::support::{cells, is_gone, poll, robust, state_of};
use crate::table::{
    DEADLINE, MINUTE, assert_blamed, assert_stillborn, is_of_the_process, is_silent, spares_the_result,
    spoils_the_page,
};
use procession::drill::{self, Fault, echo};
use procession::{Child, Exit, Process, TaskError};

/// Whoever is silent for ever is killed by the one who waits.
fn join<R: serde::de::DeserializeOwned>(fault: Fault, child: Child<R>) -> Result<R, TaskError> {
    if is_silent(fault) {
        assert_eq!(child.wait_timeout(DEADLINE).unwrap(), None, "silent, and ended");
        child.kill().unwrap();
    }
    assert!(child.wait_timeout(MINUTE / 6).unwrap().is_some(), "it did not end");
    child.join()
}

/// The same for a process that has a life of its own.
fn assert_told(fault: Fault, error: &TaskError) {
    match (fault, error) {
        (fault, TaskError::Lost(lost)) if is_silent(fault) => assert_eq!(lost.exit(), Exit::Signal(9)),
        // What it had said lay in the page.
        (Fault::GarbageAndOn, TaskError::Lost(lost)) => assert!(lost.reason().is_some(), "{error}"),
        _ => assert_blamed(fault, error),
    }
}

#[test]
fn a_process_that_dies_before_hello_tells_so_from_join() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let process = Process::new(echo::<u64>, (1,)).env(drill::AT_BIRTH, format!("{fault:?}"));
            let limit = if is_silent(fault) { DEADLINE } else { MINUTE };
            let child = process.birth_timeout(limit).start().unwrap();
            assert!(child.wait_timeout(MINUTE / 6).unwrap().is_some(), "it did not end");
            match child.join() {
                // It lives on, and what it has to say lies in the page, which needs no pipe.
                Ok(value) => {
                    assert!(matches!(fault, Fault::HalfFrameAndOn | Fault::FalseLength | Fault::VastLength));
                    assert_eq!(value, 1);
                }
                // The page said that it was born.
                Err(TaskError::Lost(lost)) if spoils_the_page(fault) => {
                    assert!(matches!(lost.exit(), Exit::Signal(9) | Exit::Code(125)), "{lost}");
                }
                // What it had said was read after it had been born all the same.
                Err(error @ TaskError::Lost(_))
                    if matches!(fault, Fault::HalfFrameAndOn | Fault::FalseLength | Fault::VastLength) =>
                {
                    assert_blamed(fault, &error);
                }
                Err(error) => assert_stillborn(fault, &error),
            }
        });
    });
}

#[test]
fn a_fault_in_a_process_is_told_from_join() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let child = Process::new(drill::call, (Some(fault), 7)).start().unwrap();
            match join(fault, child) {
                Ok(value) => assert_eq!((fault, value), (Fault::GarbageAndOn, 7)),
                Err(error) => assert_told(fault, &error),
            }
        });
    });
}

#[test]
fn a_fault_while_a_process_encodes_its_result_is_told_from_join() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let child = Process::new(drill::encode, (Some(fault), 7)).start().unwrap();
            match join(fault, child) {
                Ok(value) => assert_eq!((fault, value.value()), (Fault::GarbageAndOn, 7)),
                Err(error) => assert_told(fault, &error),
            }
        });
    });
}

#[test]
fn a_fault_while_a_process_writes_a_large_result_is_told_from_join() {
    let whole = drill::eight_mib();
    robust(2 * MINUTE, || {
        cells(Fault::ALL.into_iter().filter(is_of_the_process), |&fault| {
            let struck = (0..20).any(|_| {
                let child = Process::new(drill::large, (Some(fault),)).start().unwrap();
                if fault == Fault::Stop {
                    let pid = child.pid();
                    poll("stopped or done", MINUTE / 6, || state_of(pid) == Some('T') || is_gone(pid));
                    child.kill().unwrap();
                }
                assert!(child.wait_timeout(MINUTE / 6).unwrap().is_some(), "it did not end");
                match child.join() {
                    Ok(text) => {
                        assert!(text == whole, "a wrong result");
                        spares_the_result(fault)
                    }
                    Err(TaskError::Lost(lost)) if fault == Fault::ClosePipe => {
                        assert_eq!((lost.exit(), lost.reason()), (Exit::Code(0), None));
                        true
                    }
                    Err(error) => {
                        assert_told(fault, &error);
                        true
                    }
                }
            });
            assert!(struck, "it never struck in time");
        });
    });
}

#[test]
fn a_process_that_has_its_result_may_die_in_its_exit_handlers() {
    robust(2 * MINUTE, || {
        cells(Fault::ALL, |&fault| {
            let child = Process::new(drill::at_exit, (fault, 7)).start().unwrap();
            if fault == Fault::Stop {
                poll("stopped", MINUTE / 6, || state_of(child.pid()) == Some('T'));
                child.kill().unwrap();
            }
            assert!(child.wait_timeout(MINUTE / 6).unwrap().is_some(), "it did not end");
            match child.join() {
                Ok(value) => assert_eq!(value, 7),
                Err(error) => {
                    let spoilt = spoils_the_page(fault) || fault == Fault::FalseLength;
                    assert!(spoilt, "the result was finished, and its caller was told: {error}");
                }
            }
        });
    });
}
