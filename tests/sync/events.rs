//! Event.

use crate::parts::{MINUTE, SOON, random, signal, slay, start};
use crate::support::{poll, robust, state_of};
use nix::sys::signal::Signal;
use procession::Event;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn it_is_set_and_cleared_and_waited_for() {
    robust(MINUTE, || {
        let event = Event::new().unwrap();
        assert!(!event.is_set());
        let begin = Instant::now();
        assert!(!event.wait_timeout(Duration::from_millis(30)));
        assert!(begin.elapsed() >= Duration::from_millis(30));
        assert!(!event.wait_timeout(Duration::ZERO));
        event.set();
        event.set();
        assert!(event.is_set() && event.wait_timeout(Duration::ZERO));
        event.wait();
        event.clear();
        event.clear();
        assert!(!event.is_set() && !event.wait_timeout(Duration::ZERO));
    });
}

#[test]
fn all_who_wait_are_woken_even_if_it_is_cleared_at_once() {
    robust(MINUTE, || {
        let (event, ready) = (Event::new().unwrap(), procession::Semaphore::new(0).unwrap());
        let wait = |event: Event, ready: procession::Semaphore| {
            ready.release().unwrap();
            event.wait();
        };
        let children: Vec<_> = (0..3).map(|_| start(wait, (event.clone(), ready.clone()))).collect();
        let threads: Vec<_> = (0..5)
            .map(|_| {
                let (event, ready) = (event.clone(), ready.clone());
                thread::spawn(move || wait(event, ready))
            })
            .collect();
        for _ in 0..8 {
            ready.acquire().unwrap().forget().unwrap();
        }
        // What no event tells of: that they have gone from saying so to sleep.
        for child in &children {
            poll("asleep", SOON, || state_of(child.pid()) == Some('S'));
        }
        thread::sleep(Duration::from_millis(50));
        event.set();
        event.clear();
        children.into_iter().for_each(|child| child.join().unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn killed_and_stopped_waiters_and_setters_hinder_nobody() {
    robust(MINUTE, || {
        let (event, done) = (Event::new().unwrap(), Event::new().unwrap());
        let wait = |event: Event, done: Event| {
            event.wait();
            done.set();
        };
        let killed = start(wait, (event.clone(), Event::new().unwrap()));
        let stopped = start(wait, (event.clone(), Event::new().unwrap()));
        let lives = start(wait, (event.clone(), done.clone()));
        thread::sleep(Duration::from_millis(random(30)));
        slay(&killed);
        signal(stopped.pid(), Signal::SIGSTOP);
        event.set();
        assert!(done.wait_timeout(SOON));
        lives.join().unwrap();
        signal(stopped.pid(), Signal::SIGCONT);
        stopped.join().unwrap();
    });
}

/// Waits for a flag while signals come in, so many to the second, and says how long it took.
#[allow(unsafe_code, reason = "a signal's handler is installed")]
fn wait_in_a_storm(ready: Event, flag: Event, limit: Duration) -> (bool, Duration) {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    extern "C" fn nothing(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    ready.set();
    let begin = Instant::now();
    (flag.wait_timeout(limit), begin.elapsed())
}

static HANDLED: std::sync::OnceLock<Event> = std::sync::OnceLock::new();

/// Waits for an event that only its own handler sets.
#[allow(unsafe_code, reason = "a signal's handler is installed")]
fn wait_for_a_handler(ready: Event) -> bool {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    extern "C" fn set(_: i32) {
        HANDLED.get().unwrap().set();
    }
    let event = HANDLED.get_or_init(|| Event::new().unwrap());
    let action = SigAction::new(SigHandler::Handler(set), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler makes one system call.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    ready.set();
    event.wait_timeout(SOON)
}

#[test]
fn a_handler_that_interrupts_a_wait_may_set_the_event() {
    robust(MINUTE, || {
        for _ in 0..20 {
            let ready = Event::new().unwrap();
            let child = start(wait_for_a_handler, (ready.clone(),));
            ready.wait();
            thread::sleep(Duration::from_micros(random(2_000)));
            signal(child.pid(), Signal::SIGUSR1);
            assert!(child.join().unwrap());
        }
    });
}

#[test]
fn ten_thousand_signals_a_second_neither_end_a_wait_nor_stretch_it() {
    robust(MINUTE, || {
        for is_set in [true, false] {
            let (ready, flag) = (Event::new().unwrap(), Event::new().unwrap());
            let limit = Duration::from_millis(if is_set { 60_000 } else { 300 });
            let child = start(wait_in_a_storm, (ready.clone(), flag.clone(), limit));
            ready.wait();
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(250) {
                signal(child.pid(), Signal::SIGUSR1);
                thread::sleep(Duration::from_micros(40));
            }
            if is_set {
                flag.set();
            }
            let (woken, took) = child.join().unwrap();
            assert_eq!(woken, is_set);
            assert!(is_set || took >= limit && took < SOON, "{took:?}");
        }
    });
}
