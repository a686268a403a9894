//! Every signal's row.

use crate::MINUTE;
use crate::support::{is_gone, poll, robust, state_of};
use crate::tool::Place;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const OBEDIENT: &str = "exec sleep 1000";
const DEAF: &str = "trap '' TERM; echo deaf; while :; do sleep 1000; done";

#[test]
fn int_term_and_hup_stop_and_that_is_a_success() {
    robust(MINUTE, || {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let place = Place::new();
            let tool = place.start("-n 3", OBEDIENT);
            place.until(&["running"; 3]);
            let (pids, start) = (place.pids(), Instant::now());
            tool.signal(signal);
            let said = tool.end();
            assert_eq!(said.code, 0, "{signal} {said:?}");
            assert!(start.elapsed() < Duration::from_secs(5) && pids.into_iter().all(is_gone));
        }
    });
}

#[test]
fn one_program_that_runs_once_is_ended_as_it_was() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start("--restart no", OBEDIENT);
        place.until(&["running"]);
        tool.signal(Signal::SIGTERM);
        assert_eq!(tool.end().code, 143);
    });
}

#[test]
fn the_second_int_kills() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start("-n 2 --stop-timeout 1h", DEAF);
        place.until(&["running"; 2]);
        place.until_said(2);
        let pids = place.pids();
        tool.signal(Signal::SIGINT);
        place.until(&["stopping"; 2]);
        assert!(!pids.iter().copied().any(is_gone));
        let start = Instant::now();
        tool.signal(Signal::SIGINT);
        let said = tool.end();
        assert_eq!(said.code, 123, "somebody had to be killed: {said:?}");
        assert!(start.elapsed() < Duration::from_secs(5) && pids.into_iter().all(is_gone));
    });
}

#[test]
fn who_does_not_stop_in_time_is_killed_with_its_tree() {
    robust(MINUTE, || {
        let place = Place::new();
        let script = "(setsid sh -c 'trap \"\" TERM; echo $$ > pid; sleep 1000; :' &) ; exec sleep 1000";
        let tool = place.start(&format!("--stop-timeout 200ms -C {}", place.path().display()), script);
        let file = place.path().join("pid");
        poll("it has a grandchild", MINUTE / 2, || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
        });
        let pid = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let start = Instant::now();
        tool.signal(Signal::SIGTERM);
        let said = tool.end();
        // The leader obeyed; it is the grandchild that had to be waited for, and killed.
        assert!(start.elapsed() >= Duration::from_millis(200) && is_gone(pid), "{said:?}");
        assert_eq!(said.code, 123, "{said:?}");
        assert!(said.err.contains("has not ended in time"), "{said:?}");
    });
}

#[test]
fn the_stop_signal_is_the_one_asked_for() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start(
            "--stop-signal USR2",
            "trap 'echo heard; exit 0' USR2; echo up; while :; do sleep 0.05; done",
        );
        place.until(&["running"]);
        place.until_said(1);
        tool.signal(Signal::SIGTERM);
        let said = tool.end();
        assert_eq!((said.code, said.out.as_str()), (0, "up\nheard\n"), "{said:?}");
    });
}

#[test]
fn quit_lets_those_who_run_end_by_themselves() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start(
            &format!("-n 2 --restart always --restart-delay 1ms -C {}", place.path().display()),
            "while ! test -e go; do sleep 0.01; done; echo done",
        );
        place.until(&["running"; 2]);
        tool.signal(Signal::SIGQUIT);
        // Nothing tells when it has been heard.
        std::thread::sleep(Duration::from_millis(200));
        std::fs::write(place.path().join("go"), "").unwrap();
        let said = tool.end();
        assert_eq!((said.code, said.out.as_str()), (0, "done\ndone\n"), "{said:?}");
    });
}

#[test]
fn usr1_tells_ttin_and_ttou_change_the_number() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start("", OBEDIENT);
        place.until(&["running"]);
        tool.signal(Signal::SIGTTIN);
        place.until(&["running"; 2]);
        tool.signal(Signal::SIGTTOU);
        place.until(&["running"]);
        tool.signal(Signal::SIGUSR1);
        // Told by a thread of its own: a round of words after it, the text is there.
        std::thread::sleep(Duration::from_millis(100));
        let said = tool.stop();
        assert!(said.err.contains("NAME  ID  PID") && said.out.is_empty(), "{said:?}");
    });
}

#[test]
fn tstp_stops_everything_and_every_timer() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start("--stop-timeout 300ms", DEAF);
        place.until(&["running"]);
        place.until_said(1);
        let pid = place.pids()[0];
        tool.signal(Signal::SIGTERM);
        place.until(&["stopping"]);
        tool.signal(Signal::SIGTSTP);
        poll("both are stopped", MINUTE / 4, || {
            state_of(tool.child.id()) == Some('T') && state_of(pid) == Some('T')
        });
        std::thread::sleep(Duration::from_millis(500));
        assert!(!is_gone(pid), "time stood still");
        let start = Instant::now();
        tool.signal(Signal::SIGCONT);
        tool.end();
        assert!(start.elapsed() >= Duration::from_millis(20) && is_gone(pid));
    });
}

#[test]
fn hup_opens_logs_anew_or_stops_where_there_is_a_terminal() {
    robust(MINUTE, || {
        if std::fs::File::open("/dev/tty").is_ok() {
            return;
        }
        let place = Place::new();
        let logs = place.path().join("logs");
        let tool =
            place.start(&format!("--log-dir {}", logs.display()), "while :; do echo line; sleep 0.01; done");
        let log = logs.join("web.0.log");
        poll("there is a log", MINUTE / 4, || log.exists());
        std::fs::rename(&log, logs.join("moved")).unwrap();
        for signal in [Signal::SIGHUP, Signal::SIGUSR2] {
            tool.signal(signal);
            poll("there is a log again", MINUTE / 4, || log.exists());
            std::fs::remove_file(&log).unwrap();
        }
        let said = tool.stop();
        assert_eq!((said.code, said.out.as_str()), (0, ""));
    });
}
