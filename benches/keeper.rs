//! What it costs to run a program through the keeper, and how fast everything is gone when its owner is.
//!
//! `cargo bench --bench keeper -- two` runs the rows whose names contain `two`; `--quick` takes fewer rounds.

mod support;

#[path = "support/peer.rs"]
mod peer;
#[path = "support/vitals.rs"]
mod vitals;

use peer::{again, part};
use procession::{Keeper, Program, Stdio};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio as StdStdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use support::{Bench, Outcome, Row, expect, per_call, row, seconds, skip, timed};
use vitals::{Identity, switches};

/// The part that owns so many families, and is to be killed.
const OWNER: &str = "owner";
const FAMILIES: usize = 100;

/// So many programs make a round.
const STARTS: u32 = 50;
const TASKS: u32 = 1000;

const ROWS: [Row; 6] = [
    ("program_std", program_std),
    ("program_posix_spawn", program_posix_spawn),
    ("program_two_at_a_time", program_two_at_a_time),
    ("program_two_by_callback", program_two_by_callback),
    ("owner_killed", owner_killed),
    ("idle_100_programs", idle),
];

fn main() -> Outcome {
    if part().as_deref() == Some(OWNER) {
        return own();
    }
    Bench::from_args().map_or(Ok(()), |bench| bench.run(&ROWS))
}

fn one(keeper: &Keeper) -> Outcome {
    expect(keeper.start(Program::new("/bin/true"))?.wait()?.cause().is_ok(), true)
}

/// Start and wait, against std's, which has the posix_spawn of the C library do it here.
fn program_std(bench: &Bench) -> Outcome {
    let keeper = Keeper::new()?;
    let ours = || per_call(STARTS, |_| one(&keeper));
    let mut theirs = Command::new("/bin/true");
    theirs.stdin(StdStdio::null());
    bench.compare("program_std", 61, ours, || {
        per_call(STARTS, |_| expect(theirs.spawn()?.wait()?.success(), true))
    })
}

/// The same with nothing around it: no pipe, no lookup, no change of anything.
fn program_posix_spawn(bench: &Bench) -> Outcome {
    use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
    use nix::sys::wait::{WaitStatus, waitpid};
    let keeper = Keeper::new()?;
    let ours = || per_call(STARTS, |_| one(&keeper));
    let (actions, attributes) = (PosixSpawnFileActions::init()?, PosixSpawnAttr::init()?);
    bench.compare("program_posix_spawn", 61, ours, || {
        per_call(STARTS, |_| {
            let pid = posix_spawn::<_, &std::ffi::CStr, &std::ffi::CStr>(
                c"/bin/true",
                &actions,
                &attributes,
                &[c"true"],
                &[],
            )?;
            expect(waitpid(pid, None)?, WaitStatus::Exited(pid, 0))
        })
    })
}

/// A thousand, two at a time, against xargs: by two threads that wait.
fn program_two_at_a_time(bench: &Bench) -> Outcome {
    let keeper = Keeper::new()?;
    against_xargs(bench, "program_two_at_a_time", || {
        let left = AtomicU32::new(TASKS);
        let work = || -> Outcome {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                one(&keeper)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let second = scope.spawn(work);
            work()?;
            second.join().map_err(|_| "it panicked")?
        })
    })
}

/// The same by one thread that is told.
fn program_two_by_callback(bench: &Bench) -> Outcome {
    let keeper = Keeper::new()?;
    against_xargs(bench, "program_two_by_callback", || {
        let (send, ends) = mpsc::channel();
        let (mut started, mut ended) = (0, 0);
        while ended < TASKS {
            if started < TASKS && started - ended < 2 {
                let running = keeper.start(Program::new("/bin/true"))?;
                let send = send.clone();
                running.on_end(move |ended| {
                    let _ = send.send(ended.cause());
                });
                running.detach();
                started += 1;
            } else {
                expect(ends.recv()?.is_ok(), true)?;
                ended += 1;
            }
        }
        Ok(())
    })
}

fn against_xargs(bench: &Bench, name: &str, ours: impl Fn() -> Outcome) -> Outcome {
    if Command::new("xargs").arg("--version").stdout(StdStdio::null()).status().is_err() {
        skip(name, "there is no xargs");
        return Ok(());
    }
    let lines: String = (0..TASKS).map(|n| format!("{n}\n")).collect();
    let theirs = || {
        let mut xargs =
            Command::new("xargs").args(["-P2", "-n1", "/bin/true"]).stdin(StdStdio::piped()).spawn()?;
        xargs.stdin.take().ok_or("it was piped")?.write_all(lines.as_bytes())?;
        expect(xargs.wait()?.success(), true)
    };
    let each = |work: &dyn Fn() -> Outcome| Ok(timed(work)? / f64::from(TASKS));
    bench.compare(name, 15, || each(&ours), || each(&theirs))
}

fn own() -> Outcome {
    let keeper = Keeper::new()?;
    let script =
        "(setsid sh -c 'trap \"\" TERM INT HUP; echo $$; exec sleep 1000' &)\ntrap '' TERM; sleep 1000; :";
    let mut families = Vec::new();
    let mut pids = vec![keeper.pid()];
    for _ in 0..FAMILIES {
        let mut running = keeper.start(Program::new("sh").args(["-c", script]).stdout(Stdio::Piped))?;
        let mut line = String::new();
        BufReader::new(running.take_stdout().ok_or("it was piped")?).read_line(&mut line)?;
        pids.extend([running.pid(), line.trim().parse()?]);
        families.push(running);
    }
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    println!("{}", pids.join(" "));
    loop {
        thread::park();
    }
}

/// From SIGKILL for an owner of a hundred programs, each with a daemon that ignores all it can, until nobody is alive.
fn owner_killed(bench: &Bench) -> Outcome {
    let mut times = Vec::new();
    for _ in 0..bench.rounds(9) {
        let mut owner = again(OWNER)?.stdout(StdStdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(owner.stdout.take().ok_or("it was piped")?).read_line(&mut line)?;
        let all =
            line.split_whitespace().map(|pid| Identity::of(pid.parse()?)).collect::<Outcome<Vec<_>>>()?;
        expect(all.len(), 2 * FAMILIES + 1)?;
        let start = Instant::now();
        owner.kill()?;
        while all.iter().any(Identity::is_alive) {
            if start.elapsed() > Duration::from_secs(10) {
                return Err("somebody lives on".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        times.push(start.elapsed().as_secs_f64());
        owner.wait()?;
    }
    row("owner_killed", seconds(support::median(times)), "-", "-");
    Ok(())
}

/// How often a keeper of a hundred programs that do nothing wakes up in five seconds.
fn idle(_bench: &Bench) -> Outcome {
    let keeper = Keeper::new()?;
    let programs: Result<Vec<_>, _> =
        (0..100).map(|_| keeper.start(Program::new("sleep").arg("1000"))).collect();
    let keeper_itself = Identity::of(keeper.pid())?;
    thread::sleep(Duration::from_secs(1));
    let before = switches(&keeper_itself)?;
    thread::sleep(Duration::from_secs(5));
    row("idle_100_programs", switches(&keeper_itself)? - before, "-", "-");
    drop(programs?);
    Ok(())
}
