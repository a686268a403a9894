//! The parent's end, by whatever cause, takes every worker with it: busy, idle or stopped.

use crate::support::{fresh, is_gone, poll, reap_orphan, robust, state_of};
use crate::table::MINUTE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::drill::{self, Fault, echo};
use procession::{Pool, Process};
use std::io::{BufRead, BufReader};
use std::mem::ManuallyDrop;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Makes a run of this test program a parent that is to end: how.
const PARENT: &str = "PROCESSION_DRILL_PARENT";

/// The time in which a worker has to follow its parent. The aim is 100 ms, and a benchmark measures it; here the machine
/// may be busy with other tests.
const SOON: Duration = Duration::from_secs(2);

/// No test by itself: the program that the others start.
#[test]
fn a_parent() {
    let Some(end) = std::env::var_os(PARENT) else { return };
    let pool = ManuallyDrop::new(Pool::builder().workers(7).build().unwrap());
    // Ready, all of them; or as good as.
    pool.map(echo::<u64>, 0..1000).unwrap();
    let mut busy: Vec<_> = (0..3).map(|_| ManuallyDrop::new(pool.apply_async(drill::spin, ()))).collect();
    let deaf = ManuallyDrop::new(pool.apply_async(drill::call, (Some(Fault::Stop), 1)));
    busy.push(ManuallyDrop::new(pool.apply_async(drill::spin, ())));
    let alone = ManuallyDrop::new(Process::new(drill::spin, ()).start().unwrap());
    let pids: Vec<_> =
        pool.worker_pids().into_iter().chain([alone.pid()]).map(|pid| pid.to_string()).collect();
    assert!(!deaf.ready());
    println!("\npids {}", pids.join(" "));
    if end != "return" {
        loop {
            thread::park();
        }
    }
}

struct Family {
    parent: Child,
    workers: Vec<u32>,
}

impl Family {
    fn found(end: &str) -> Self {
        let mut parent = Command::new(std::env::current_exe().unwrap());
        parent
            .args(["--exact", "orphans::a_parent", "--nocapture"])
            .env(PARENT, end)
            .env_remove("NEXTEST")
            .stdout(Stdio::piped());
        let mut parent = fresh(&mut parent).spawn().unwrap();
        let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
        let line = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("pids ").map(str::to_owned));
        let workers: Vec<_> = line.unwrap().split(' ').map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(workers.len(), 8);
        Self { parent, workers }
    }

    /// Waits until four spin and one is stopped.
    fn wait_busy(&self) {
        let count = |letter| self.workers.iter().filter(|&&pid| state_of(pid) == Some(letter)).count();
        poll("busy", MINUTE / 6, || count('R') >= 5 && count('T') == 1);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.parent.id()).unwrap()), signal).unwrap();
    }

    fn assert_ends(mut self) {
        self.parent.wait().unwrap();
        let start = Instant::now();
        poll("all workers gone", SOON, || self.workers.iter().all(|&pid| is_gone(pid)));
        println!("all workers gone after {:?}", start.elapsed());
        // They were left to us, their nearest living ancestor that asked for it.
        self.workers.into_iter().for_each(reap_orphan);
    }
}

#[test]
fn workers_die_with_a_parent_that_is_killed() {
    robust(MINUTE, || {
        let family = Family::found("park");
        family.wait_busy();
        family.signal(Signal::SIGKILL);
        family.assert_ends();
    });
}

#[test]
fn workers_die_with_a_parent_that_is_terminated_or_interrupted() {
    robust(MINUTE, || {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
            let family = Family::found("park");
            // A shell's background job ignores some, and hands that down.
            if !is_ignored(family.parent.id(), signal) {
                family.wait_busy();
                family.signal(signal);
            } else {
                family.signal(Signal::SIGKILL);
            }
            family.assert_ends();
        }
    });
}

fn is_ignored(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    u64::from_str_radix(mask, 16).unwrap() >> (signal as u32 - 1) & 1 == 1
}

#[test]
fn workers_die_with_a_parent_that_returns_and_has_forgotten_its_pool() {
    robust(MINUTE, || Family::found("return").assert_ends());
}

#[test]
fn workers_outlive_the_thread_that_made_their_pool() {
    robust(MINUTE, || {
        let pool = thread::spawn(|| Pool::new(3).unwrap()).join().unwrap();
        pool.map(echo::<u64>, 0..100).unwrap();
        let before = pool.worker_pids();
        let maker = thread::spawn(move || {
            let child = Process::new(drill::at_exit, (Fault::GarbageAndOn, 1)).start();
            (pool, child.map(|child| child.wait().map(|_| ())))
        });
        let (pool, child) = maker.join().unwrap();
        child.unwrap().unwrap();
        assert_eq!(pool.map(echo::<u64>, 0..100).unwrap(), (0..100).collect::<Vec<_>>());
        assert_eq!(pool.worker_pids(), before, "a worker was replaced");
    });
}
