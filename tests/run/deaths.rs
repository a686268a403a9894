//! The tool's own death: nothing survives it.

use crate::MINUTE;
use crate::support::{is_gone, poll_or, reap_orphan, robust};
use crate::tool::Place;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const DAEMON: &str = "(setsid sh -c 'trap \"\" TERM INT HUP QUIT; echo $$ >> pids; exec sleep 1000' &)";

fn pids_in(place: &Place, count: usize) -> Vec<u32> {
    let file = place.path().join("pids");
    poll_or("all have told", MINUTE / 2, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if text.lines().count() == count && text.ends_with('\n') { Ok(()) } else { Err(text) }
    });
    std::fs::read_to_string(file).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn nothing_survives_the_tool() {
    robust(MINUTE, || {
        for signal in [Signal::SIGKILL, Signal::SIGABRT] {
            let place = Place::new();
            let script = format!("{DAEMON}\ntrap '' TERM; echo $$ >> pids; while :; do sleep 1000; done");
            let mut tool = place.start(&format!("-n 10 -C {}", place.path().display()), &script);
            let pids = pids_in(&place, 20);
            let keepers: Vec<u32> = std::fs::read_dir(format!("/proc/{}/task", tool.child.id()))
                .unwrap()
                .flatten()
                .flat_map(|task| {
                    std::fs::read_to_string(task.path().join("children"))
                        .unwrap_or_default()
                        .split_whitespace()
                        .map(|pid| pid.parse().unwrap())
                        .collect::<Vec<u32>>()
                })
                .collect();
            let start = Instant::now();
            tool.signal(signal);
            tool.child.wait().unwrap();
            poll_or("all are gone", Duration::from_secs(5), || {
                let left: Vec<_> = pids.iter().chain(&keepers).filter(|&&pid| !is_gone(pid)).collect();
                if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
            });
            println!("all gone after {:?}", start.elapsed());
            keepers.into_iter().for_each(reap_orphan);
            // What is left of its socket is in nobody's way.
            let tool = place.start("", "exec sleep 1000");
            place.until(&["running"]);
            assert_eq!(tool.stop().code, 0);
        }
    });
}

#[test]
fn a_killed_keeper_is_replaced_with_all_its_copies() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start("-n 3 --restart-delay 1ms", "exec sleep 1000");
        place.until(&["running"; 3]);
        let before = place.pids();
        let parent = std::fs::read_to_string(format!("/proc/{}/stat", before[0])).unwrap();
        let keeper: i32 =
            parent.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
        poll_or("all run again", MINUTE / 3, || {
            let rows = place.status();
            let again = rows.iter().all(|row| row[3] == "running" && row[5] == "1");
            if again { Ok(()) } else { Err(format!("{rows:?}")) }
        });
        assert!(before.into_iter().all(is_gone));
        assert_eq!(tool.stop().code, 0);
    });
}
