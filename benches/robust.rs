//! What goes wrong, and what costs nothing: a million tasks in the queue, killed workers, a killed parent, an idle pool.
//!
//! `cargo bench --bench robust -- idle` runs the rows whose names contain `idle`; `--quick` takes fewer rounds.

mod support;

#[path = "support/door.rs"]
mod door;
#[path = "support/echo.rs"]
mod echo;
#[path = "support/peer.rs"]
mod peer;
#[path = "support/python.rs"]
mod python;
#[path = "support/vitals.rs"]
mod vitals;

use door::Door;
use echo::{ECHO, Echo, echo};
use peer::{Peer, again, answer, part};
use procession::{Exit, Pool, TaskError};
use python::python;
use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};
use support::{Bench, Outcome, Row, expect, line, row, seconds, skip, timed};
use vitals::{Identity, resident, switches};

/// The part that queues a million tasks for two workers, and the one that does so for two threads.
const QUEUE: &str = "queue";
const QUEUE_THREADS: &str = "queue-threads";
/// The part that dies with a hundred workers.
const PARENT: &str = "parent";
/// The part that does nothing with many workers.
const IDLE: &str = "idle";

const ROWS: [Row; 5] = [
    ("queued_million", queued_million),
    ("worker_killed", worker_killed),
    ("orphans", orphans),
    ("idle_64_switches", idle_64_switches),
    ("idle_64_syscalls", idle_64_syscalls),
];

fn main() -> Outcome {
    match part().as_deref() {
        Some(ECHO) => return echo(),
        Some(QUEUE) => return queue_for_processes(),
        Some(QUEUE_THREADS) => return queue_for_threads(),
        Some(PARENT) => return parent(),
        Some(IDLE) => return idle(),
        _ => {}
    }
    Bench::from_args().map_or(Ok(()), |bench| bench.run(&ROWS))
}

fn add_one(x: u64) -> u64 {
    x + 1
}

// ---- a million tasks ----------------------------------------------------------------------------------------------

const MILLION: u32 = 1_000_000;
const FILES: &str = "64";

/// Against std's channel of boxed closures, each with a place for its result, and two threads.
fn queued_million(bench: &Bench) -> Outcome {
    let (mut submit, mut run, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds(3) {
        let ([a, b, c], [d, e, f]) = (queued(QUEUE)?, queued(QUEUE_THREADS)?);
        submit.push((a, d));
        run.push((b, e));
        bytes.push((c, f));
    }
    line("queued_million_submit", seconds, &submit);
    line("queued_million_run", seconds, &run);
    line("queued_million_bytes", |bytes| format!("{bytes:.0}B"), &bytes);
    Ok(())
}

/// One task's time to be queued, time to be run, and bytes while it waits, in a process with few descriptors.
fn queued(part: &str) -> Outcome<[f64; 3]> {
    let this = again(part)?;
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {FILES}; exec \"$0\" \"$@\"")]);
    let output = shell.arg(this.get_program()).args(this.get_args()).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let numbers = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    Ok(numbers.try_into().map_err(|_| format!("the part {part} ended with {}", output.status))?)
}

fn queue_for_processes() -> Outcome {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).ok_or("no limits")?;
    expect(files.split_whitespace().nth(3), Some(FILES))?;

    let door = Door::open("queue")?;
    let pool = Pool::new(2)?;
    let held = [(); 2].map(|()| pool.apply_async(door::hold, (door.name(),)));
    let guests = [door.admit()?, door.admit()?];

    let mut results = Vec::with_capacity(MILLION as usize);
    let before = resident()?;
    let submit = timed(|| {
        results.extend((0..u64::from(MILLION)).map(|x| pool.apply_async(add_one, (x,))));
        Ok(())
    })?;
    let bytes = resident()? - before;
    let run = timed(|| {
        drop(guests);
        (0..).zip(results).try_for_each(|(x, result)| expect(result.get()?, x + 1))
    })?;
    for result in held {
        result.get()?;
    }
    report(submit, run, bytes);
    Ok(())
}

type Boxed = Box<dyn FnOnce() + Send>;

/// A place for a result.
#[derive(Default)]
struct Place {
    value: Mutex<Option<u64>>,
    filled: Condvar,
}

impl Place {
    fn fill(&self, value: u64) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.filled.notify_one();
    }

    fn take(&self) -> Option<u64> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        self.filled.wait_while(value, |value| value.is_none()).unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn queue_for_threads() -> Outcome {
    let (queue, tasks) = mpsc::channel::<Boxed>();
    let mut results = Vec::with_capacity(MILLION as usize);
    let before = resident()?;
    let submit = timed(|| {
        for x in 0..u64::from(MILLION) {
            let place = Arc::<Place>::default();
            results.push(Arc::clone(&place));
            queue.send(Box::new(move || place.fill(add_one(x)))).map_err(|_| "no receiver")?;
        }
        Ok(())
    })?;
    let bytes = resident()? - before;
    drop(queue);
    let tasks = Mutex::new(tasks);
    let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
    let serve = || {
        while let Ok(task) = next() {
            task();
        }
    };
    let run = timed(|| {
        std::thread::scope(|scope| {
            scope.spawn(serve);
            scope.spawn(serve);
            (0..).zip(results).try_for_each(|(x, result)| expect(result.take(), Some(x + 1)))
        })
    })?;
    report(submit, run, bytes);
    Ok(())
}

fn report(submit: f64, run: f64, bytes: f64) {
    let each = f64::from(MILLION);
    println!("{} {} {}", submit / each, run / each, bytes / each);
}

// ---- a killed worker ----------------------------------------------------------------------------------------------

/// A shell that kills without starting a process for it.
struct Killer {
    shell: std::process::Child,
    input: ChildStdin,
}

impl Killer {
    fn hire() -> Outcome<Self> {
        let mut shell = Command::new("sh").stdin(Stdio::piped()).spawn()?;
        let input = shell.stdin.take().ok_or("no input")?;
        Ok(Self { shell, input })
    }

    fn kill(&mut self, pid: u32) -> Outcome {
        Ok(self.input.write_all(format!("kill -9 {pid}\n").as_bytes())?)
    }

    fn dismiss(self) -> Outcome {
        let Self { mut shell, input } = self;
        drop(input);
        expect(shell.wait()?.success(), true)
    }
}

/// Since the kill: when its caller knows, and when another one serves.
struct Delays {
    known: f64,
    served: f64,
}

/// Against a bare child that is killed, waited for, started again and asked.
fn worker_killed(bench: &Bench) -> Outcome {
    let (door, pool) = (Door::open("killed")?, Pool::new(1)?);
    let (mut killer, mut bare) = (Killer::hire()?, Echo::start()?);
    let (mut known, mut served) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(100) {
        let (ours, baseline) = (kill_worker(&pool, &door, &mut killer)?, kill_bare(&mut bare, &mut killer)?);
        known.push((ours.known, baseline.known));
        served.push((ours.served, baseline.served));
    }
    killer.dismiss()?;
    two_lines("worker_killed_error", &known);
    two_lines("worker_killed_serves", &served);
    Ok(())
}

fn two_lines(name: &str, pairs: &[(f64, f64)]) {
    line(name, seconds, pairs);
    let max = |pick: fn(&(f64, f64)) -> f64| pairs.iter().map(pick).fold(0.0, f64::max);
    let (ours, baseline) = (max(|pair| pair.0), max(|pair| pair.1));
    row(&format!("{name}_max"), seconds(ours), seconds(baseline), format!("{:.2}", ours / baseline));
}

fn kill_worker(pool: &Pool, door: &Door, killer: &mut Killer) -> Outcome<Delays> {
    let victim = pool.apply_async(door::hold, (door.name(),));
    let guest = door.admit()?;
    let pid = *pool.worker_pids().first().ok_or("no worker")?;
    let start = Instant::now();
    killer.kill(pid)?;
    let error = victim.get();
    let known = start.elapsed().as_secs_f64();
    let answer = pool.apply(add_one, (1,))?;
    let served = start.elapsed().as_secs_f64();
    drop(guest);
    expect(answer, 2)?;
    match error {
        Err(TaskError::Lost(lost)) if lost.exit() == Exit::Signal(9) && lost.pid() == pid => {
            Ok(Delays { known, served })
        }
        other => Err(format!("the caller was told {other:?}").into()),
    }
}

fn kill_bare(bare: &mut Echo, killer: &mut Killer) -> Outcome<Delays> {
    expect(bare.add_one(1)?, 2)?;
    let start = Instant::now();
    killer.kill(bare.child.id())?;
    bare.child.wait()?;
    let known = start.elapsed().as_secs_f64();
    *bare = Echo::start()?;
    expect(bare.add_one(1)?, 2)?;
    Ok(Delays { known, served: start.elapsed().as_secs_f64() })
}

// ---- a killed parent ----------------------------------------------------------------------------------------------

const WORKERS: usize = 100;
const BUSY: usize = 50;
/// So long may they live on.
const GRACE: Duration = Duration::from_millis(100);
/// So long is looked.
const LOOK: Duration = Duration::from_secs(10);

fn parent() -> Outcome {
    let (door, pool) = (Door::open("parent")?, Pool::new(WORKERS)?);
    let results: Vec<_> = (0..BUSY).map(|_| pool.apply_async(door::spin, (door.name(),))).collect();
    let guests = (0..BUSY).map(|_| door.admit()).collect::<Outcome<Vec<_>>>()?;
    let pids: Vec<String> = pool.worker_pids().iter().map(ToString::to_string).collect();
    answer(&pids.join(" "), |_| Ok(0.0))?;
    drop((guests, results));
    Ok(())
}

/// How many live [`GRACE`] after their parent's death, the most of all rounds; and since the parent was sent SIGKILL, when
/// the last of them was dead, against when the parent itself was, which must get a processor for that among its busy
/// workers.
fn orphans(bench: &Bench) -> Outcome {
    let (mut left, mut ends) = (0, Vec::new());
    for _ in 0..bench.rounds(10) {
        let (alive, end) = orphaned()?;
        left = left.max(alive);
        ends.push(end);
    }
    row("orphans_after_100ms", left, "-", "-");
    two_lines("orphans_last_end", &ends);
    Ok(())
}

fn orphaned() -> Outcome<(usize, (f64, f64))> {
    let mut parent = Peer::start(&mut again(PARENT)?)?;
    let workers = identities(&parent.greeting)?;
    expect(workers.len(), WORKERS)?;
    expect(workers.iter().all(Identity::is_alive), true)?;
    let start = Instant::now();
    parent.kill()?;
    let parent_end = start.elapsed();
    let count = || workers.iter().filter(|worker| worker.is_alive()).count();
    let mut after_grace = None;
    loop {
        let late = start.elapsed() >= parent_end + GRACE;
        let alive = count();
        if late {
            after_grace.get_or_insert(alive);
        }
        if alive == 0 || start.elapsed() > LOOK {
            break;
        }
        sleep(Duration::from_millis(1));
    }
    let gone = start.elapsed().as_secs_f64();
    let mut killer = Killer::hire()?;
    for worker in workers.iter().filter(|worker| worker.is_alive()) {
        killer.kill(worker.pid())?;
    }
    killer.dismiss()?;
    Ok((after_grace.unwrap_or(0), (gone, parent_end.as_secs_f64())))
}

fn identities(pids: &str) -> Outcome<Vec<Identity>> {
    pids.split_whitespace().map(|pid| Identity::of(pid.parse()?)).collect()
}

// ---- nothing ------------------------------------------------------------------------------------------------------

const SLEEPERS: usize = 64;
const SETTLE: Duration = Duration::from_secs(1);
const NIGHT: Duration = Duration::from_secs(5);

fn idle() -> Outcome {
    let pool = Pool::new(SLEEPERS)?;
    expect(pool.map(add_one, 0..100_000)?.len(), 100_000)?;
    let mut pids: Vec<String> = pool.worker_pids().iter().map(ToString::to_string).collect();
    pids.push(std::process::id().to_string());
    answer(&pids.join(" "), |_| Ok(pool.apply(add_one, (1,))? as f64))
}

/// How often anything of the pool was on a processor in five seconds without a task, against Python's pool.
fn idle_64_switches(_: &Bench) -> Outcome {
    let ours = Peer::start(&mut again(IDLE)?)?;
    let python = python(SLEEPERS);
    let ours = identities(&ours.greeting).map(|pids| (ours, pids))?;
    expect(ours.1.len(), SLEEPERS + 1)?;
    let theirs = python.and_then(|peer| Ok((identities(&peer.greeting)?, peer))).ok();
    sleep(SETTLE);
    let total = |of: &[Identity]| of.iter().map(switches).sum::<Outcome<u64>>();
    let before = (total(&ours.1)?, theirs.as_ref().map(|(pids, _)| total(pids)).transpose()?);
    sleep(NIGHT);
    let count = total(&ours.1)? - before.0;
    match (before.1, theirs.as_ref()) {
        (Some(before), Some((pids, _))) => {
            let baseline = total(pids)? - before;
            let ratio = count as f64 / baseline as f64;
            let ratio = if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() };
            row("idle_64_switches", count, baseline, ratio);
        }
        _ => row("idle_64_switches", count, "-", "-"),
    }
    Ok(())
}

/// How many system calls are made meanwhile, as strace sees it.
fn idle_64_syscalls(_: &Bench) -> Outcome {
    const NAME: &str = "idle_64_syscalls";
    let trace = tempfile::NamedTempFile::new()?;
    let this = again(IDLE)?;
    let mut strace = Command::new("strace");
    strace.args(["-f", "-q", "-ttt", "-o"]).arg(trace.path());
    let peer = match Peer::start(strace.arg(this.get_program()).args(this.get_args())) {
        Ok(peer) => peer,
        Err(reason) => {
            skip(NAME, reason);
            return Ok(());
        }
    };
    let since_epoch = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    sleep(SETTLE);
    let from = since_epoch()?;
    sleep(NIGHT);
    let until = since_epoch()?;
    drop(peer);
    let night = from.as_secs_f64()..until.as_secs_f64();
    let text = std::fs::read_to_string(trace.path())?;
    let times = text.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse().ok());
    row(NAME, times.filter(|time| night.contains(time)).count(), "-", "-");
    Ok(())
}
