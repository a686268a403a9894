//! Limits: what the kernel does to a program that exceeds one, and what its cause is.

use crate::support::robust;
use crate::{MINUTE, said, shell};
use procession::{Cause, Ended, Keeper, Limit, Program, Stdio};
use std::time::Duration;

fn end(keeper: &Keeper, program: Program) -> Ended {
    keeper.start(program.stderr(Stdio::Null)).unwrap().wait().unwrap()
}

#[test]
fn a_program_over_its_processor_time_dies_of_it() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let second = Limit::CpuTime(Duration::from_millis(700));
        let ended = end(&keeper, shell("while :; do :; done").limit(second));
        assert_eq!(ended.cause(), Cause::CpuTime);
        assert!(ended.usage().user + ended.usage().sys >= Duration::from_millis(500), "{ended:?}");
        // One that will not hear of it lives a second longer.
        let ended = end(&keeper, shell("trap '' XCPU; while :; do :; done").limit(second));
        assert_eq!((ended.cause(), ended.exit().unwrap().signal()), (Cause::CpuTime, Some(libc::SIGKILL)));
        // And without the limit the same signal is just a signal.
        let ended = end(&keeper, shell("kill -XCPU $$"));
        assert!(matches!(ended.cause(), Cause::Signal { signal: libc::SIGXCPU, .. }));
    });
}

#[test]
fn a_program_over_its_memory_gets_no_more() {
    robust(MINUTE, || {
        let keeper = Keeper::new().unwrap();
        let hungry =
            || shell("x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo ${#x}").stdout(Stdio::Null);
        assert!(end(&keeper, hungry()).cause().is_ok());
        let ended = end(&keeper, hungry().limit(Limit::Memory(128 << 20)));
        assert!(matches!(ended.cause(), Cause::Exit(_) | Cause::Signal { .. }), "{ended:?}");
        assert!(ended.usage().max_rss < 256 << 20, "{ended:?}");
    });
}

#[test]
fn a_program_over_the_other_limits_is_stopped_by_them() {
    robust(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new().unwrap();
        let write = |bytes| {
            let ended = end(
                &keeper,
                Program::new("dd")
                    .args(["if=/dev/zero", "of=big", "bs=1000", "count=9"])
                    .current_dir(dir.path())
                    .limit(Limit::FileSize(bytes)),
            );
            (ended.cause(), std::fs::metadata(dir.path().join("big")).unwrap().len())
        };
        assert_eq!(write(5000), (Cause::FileSize, 5000));
        assert_eq!(write(9000), (Cause::Ok, 9000));
        let tee = |count| {
            let files = ["a", "b", "c", "d", "e"];
            end(
                &keeper,
                Program::new("tee").args(files).current_dir(dir.path()).limit(Limit::OpenFiles(count)),
            )
        };
        assert_eq!((tee(8).cause(), tee(6).cause()), (Cause::Ok, Cause::Exit(1)));
        let ended = end(&keeper, shell("kill -ABRT $$").current_dir(dir.path()).limit(Limit::CoreSize(0)));
        assert_eq!(ended.cause(), Cause::Signal { signal: libc::SIGABRT, core: false });
        assert_eq!(said(&keeper, shell("ulimit -c; ulimit -f").limit(Limit::CoreSize(0))), "0\nunlimited\n");
    });
}
