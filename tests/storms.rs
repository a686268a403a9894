//! Ten thousand signals a second, at whoever waits: each way to wait comes to its end, and with the right result.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use procession::{
    Barrier, Child, Condition, Connection, Event, Lock, Process, Queue, Semaphore, Value, duplex,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use support::robust;

const MINUTE: Duration = Duration::from_secs(60);
const ROUNDS: u64 = 2000;

static HANDLED: AtomicU64 = AtomicU64::new(0);

/// While it lives, the thread that made it is interrupted again and again, in calls that do not go on by themselves.
struct Storm {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Storm {
    #[allow(unsafe_code, reason = "a signal's handler is installed")]
    fn begin() -> Self {
        extern "C" fn count(_: i32) {
            HANDLED.fetch_add(1, Ordering::Relaxed);
        }
        let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler counts, and does nothing else.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        let (target, over) = (pthread_self(), Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                pthread_kill(target, Signal::SIGUSR1).unwrap();
                thread::sleep(Duration::from_micros(40));
            }
        });
        while HANDLED.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Three of them, and what they say.
fn three<R>(start: impl Fn(u64) -> Child<R>) -> Vec<R>
where
    R: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    let all: Vec<_> = (0..3).map(start).collect();
    all.into_iter().map(|child| child.join().unwrap()).collect()
}

// ---- queues -----------------------------------------------------------------------------------------------------------

type Items = Queue<(u64, Vec<u8>)>;

fn put(items: Items) -> u64 {
    let _storm = Storm::begin();
    for n in 1..=ROUNDS {
        items.put((n, vec![1; if n.is_multiple_of(50) { 20_000 } else { 10 }])).unwrap();
    }
    ROUNDS * (ROUNDS + 1) / 2
}

fn get(items: Items) -> u64 {
    let _storm = Storm::begin();
    let mut sum = 0;
    while let Ok(item) = items.get() {
        sum += item.0;
        assert!(items.task_done());
    }
    sum
}

fn lease(items: Items) -> u64 {
    let _storm = Storm::begin();
    let mut sum = 0;
    while let Ok(item) = items.lease() {
        sum += item.done().unwrap().0;
    }
    sum
}

fn join(items: Items) -> usize {
    let _storm = Storm::begin();
    items.join();
    items.len()
}

fn queue() {
    let items = Items::bounded(4);
    let consumers =
        [Process::new(get, (items.clone(),)).start(), Process::new(lease, (items.clone(),)).start()];
    let put: u64 = three(|_| Process::new(put, (items.clone(),)).start().unwrap()).into_iter().sum();
    assert_eq!(three(|_| Process::new(join, (items.clone(),)).start().unwrap()), [0; 3]);
    items.close();
    assert_eq!(consumers.into_iter().map(|child| child.unwrap().join().unwrap()).sum::<u64>(), put);
}

// ---- locks and their kin ----------------------------------------------------------------------------------------------

fn add_under(lock: Lock, value: Value<u64>) {
    let _storm = Storm::begin();
    for _ in 0..ROUNDS {
        let _guard = lock.acquire().unwrap();
        let before = value.get();
        thread::yield_now();
        value.set(before + 1);
    }
}

fn lock() {
    let (lock, value) = (Lock::new().unwrap(), Value::new(0).unwrap());
    three(|_| Process::new(add_under, (lock.clone(), value.clone())).start().unwrap());
    assert_eq!(value.get(), 3 * ROUNDS);
}

fn enter(semaphore: Semaphore, inside: Value<u64>) -> u64 {
    let _storm = Storm::begin();
    let most = (0..ROUNDS).map(|_| {
        let permit = semaphore.acquire().unwrap();
        let now = inside.fetch_add(1) + 1;
        thread::yield_now();
        inside.fetch_sub(1);
        drop(permit);
        now
    });
    most.max().unwrap()
}

fn semaphore() {
    let (semaphore, inside) = (Semaphore::new(2).unwrap(), Value::new(0).unwrap());
    let most = three(|_| Process::new(enter, (semaphore.clone(), inside.clone())).start().unwrap());
    assert!(most.iter().all(|most| *most <= 2), "{most:?}");
    assert_eq!((inside.get(), semaphore.value()), (0, 2));
}

fn take_tokens(condition: Condition, tokens: Value<u64>) {
    let _storm = Storm::begin();
    for _ in 0..ROUNDS {
        let mut guard = condition.acquire().unwrap();
        while tokens.get() == 0 {
            condition.wait(&mut guard).unwrap();
        }
        tokens.set(tokens.get() - 1);
    }
}

fn condition() {
    let (condition, tokens) = (Condition::new().unwrap(), Value::new(0).unwrap());
    let takers: Vec<_> = (0..3)
        .map(|_| Process::new(take_tokens, (condition.clone(), tokens.clone())).start().unwrap())
        .collect();
    for _ in 0..3 * ROUNDS {
        let _guard = condition.acquire().unwrap();
        tokens.set(tokens.get() + 1);
        condition.notify(1).unwrap();
    }
    takers.into_iter().for_each(|child| child.join().unwrap());
    assert_eq!(tokens.get(), 0);
}

fn meet(barrier: Barrier, rounds: Value<u64>) -> bool {
    let _storm = Storm::begin();
    (0..ROUNDS).all(|round| {
        rounds.fetch_add(1);
        barrier.wait().unwrap();
        let all_are_here = rounds.get() >= 3 * (round + 1);
        barrier.wait().unwrap();
        all_are_here
    })
}

fn barrier() {
    let (barrier, rounds) = (Barrier::new(3.try_into().unwrap()).unwrap(), Value::new(0).unwrap());
    assert_eq!(three(|_| Process::new(meet, (barrier.clone(), rounds.clone())).start().unwrap()), [true; 3]);
    assert!(!barrier.broken());
}

fn wait(event: Event, waits: Event) -> bool {
    let _storm = Storm::begin();
    waits.set();
    event.wait();
    event.is_set()
}

fn event() {
    let event = Event::new().unwrap();
    let waits: Vec<_> = (0..3).map(|_| Event::new().unwrap()).collect();
    let all: Vec<_> = waits
        .iter()
        .map(|waits| Process::new(wait, (event.clone(), waits.clone())).start().unwrap())
        .collect();
    waits.iter().for_each(Event::wait);
    thread::sleep(Duration::from_millis(50));
    event.set();
    assert!(all.into_iter().all(|child| child.join().unwrap()));
}

// ---- connections and processes ----------------------------------------------------------------------------------------

fn message(n: u64) -> Vec<u8> {
    vec![n as u8; if n.is_multiple_of(100) { 300_000 } else { 100 }]
}

fn echo(connection: Connection<Vec<u8>, Vec<u8>>) -> u64 {
    let _storm = Storm::begin();
    let mut count = 0;
    while let Some(bytes) = connection.recv().unwrap() {
        connection.send(bytes).unwrap();
        count += 1;
    }
    count
}

fn ask(connection: Connection<Vec<u8>, Vec<u8>>) {
    let _storm = Storm::begin();
    for n in 0..ROUNDS {
        connection.send(message(n)).unwrap();
        assert!(connection.recv().unwrap().unwrap() == message(n), "{n}");
    }
}

fn connection() {
    let (one, other) = duplex().unwrap();
    let echo = Process::new(echo, (one,)).start().unwrap();
    Process::new(ask, (other,)).start().unwrap().join().unwrap();
    assert_eq!(echo.join().unwrap(), ROUNDS);
}

fn start_and_join() -> u64 {
    let _storm = Storm::begin();
    let slow = |n: u64| {
        thread::sleep(Duration::from_millis(20));
        n
    };
    (0..10).map(|n| Process::new(slow, (n,)).start().unwrap().join().unwrap()).sum()
}

fn process() {
    assert_eq!(three(|_| Process::new(start_and_join, ()).start().unwrap()), [45; 3]);
}

#[test]
fn whoever_waits_in_a_storm_of_signals_gets_there() {
    let all: [(&str, fn()); 8] = [
        ("queue", queue),
        ("lock", lock),
        ("semaphore", semaphore),
        ("condition", condition),
        ("barrier", barrier),
        ("event", event),
        ("connection", connection),
        ("process", process),
    ];
    for (what, body) in all {
        robust(MINUTE, || {
            let begin = std::time::Instant::now();
            body();
            if std::env::var_os("PROCESSION_TIMES").is_some() {
                eprintln!("{:>8.1?}  {what}", begin.elapsed());
            }
        });
    }
}
