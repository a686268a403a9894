//! A state in a process of its own, called from anywhere: what it promises, and what a dead process costs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use procession::{Actor, Dict, Exit, List, Namespace, Pool, Process, TaskError, active_children, drill};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use support::{poll, repeats, robust};

const LIMIT: Duration = Duration::from_secs(60);

fn add(sum: &mut u64, n: u64) -> u64 {
    *sum += n;
    *sum
}

fn get(sum: &mut u64) -> u64 {
    *sum
}

/// The last handle has gone: so does the process.
fn ends() {
    poll("an actor is left", Duration::from_secs(5), || active_children().is_empty());
}

fn killed(error: &TaskError) -> bool {
    matches!(error, TaskError::Lost(lost) if lost.exit() == Exit::Signal(9))
}

#[test]
fn calls_change_the_state_and_bring_results() {
    robust(LIMIT, || {
        let sum = Actor::builder()
            .name("sum")
            .env("START", "40")
            .start(|n: u64| n + std::env::var("START").unwrap().parse::<u64>().unwrap(), (1,));
        let sum = sum.unwrap();
        assert_eq!(sum.name(), "sum");
        assert_ne!(sum.pid(), std::process::id());
        assert_eq!(sum.call(add, (1,)).unwrap(), 42);
        assert_eq!(sum.call(|sum: &mut u64| std::mem::take(sum), ()).unwrap(), 42);
        assert_eq!(sum.call(get, ()).unwrap(), 0);
        let pid = sum.call(|_: &mut u64| std::process::id(), ()).unwrap();
        assert_eq!(pid, sum.pid());
        assert!(format!("{sum:?}").contains("sum"));
        drop(sum);
        ends();
    });
}

#[test]
fn large_arguments_and_results_travel() {
    robust(LIMIT, || {
        let text = Actor::start(String::new).unwrap();
        let long = "procession ".repeat(1 << 20);
        assert_eq!(
            text.call(|text: &mut String, more: String| text.push_str(&more), (long.clone(),)).unwrap(),
            ()
        );
        assert!(text.call(|text: &mut String| text.clone(), ()).unwrap() == long);
        assert_eq!(text.call(|text: &mut String| text.len(), ()).unwrap(), long.len());
        drop(text);
        ends();
    });
}

#[test]
fn a_panic_costs_its_call_alone() {
    robust(LIMIT, || {
        let sum = Actor::start(|| 1_u64).unwrap();
        match sum.call(
            |sum: &mut u64| -> () {
                *sum = 7;
                panic!("on purpose")
            },
            (),
        ) {
            Err(TaskError::Panicked(panic)) => {
                assert_eq!(panic.message(), "on purpose");
                assert!(panic.location().unwrap().contains("tests/actor.rs"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(sum.call(get, ()).unwrap(), 7, "as the panic left it");
        drop(sum);
        ends();
    });
}

#[test]
fn a_start_that_panics_is_told_by_the_first_call() {
    robust(LIMIT, || {
        let sum = Actor::start(|| -> u64 { panic!("no state today") }).unwrap();
        let error = sum.call(get, ()).unwrap_err();
        assert!(error.to_string().contains("no state today"), "{error}");
        let again = sum.call(get, ()).unwrap_err();
        assert!(again.to_string().contains("no state today"), "{again}");
        drop(sum);
        ends();
    });
}

#[test]
fn handles_travel_and_the_last_one_ends_it() {
    fn hand_on(sum: Actor<u64>, depth: u64) -> Actor<u64> {
        sum.call(add, (depth,)).unwrap();
        if depth == 0 {
            sum
        } else {
            Process::new(hand_on, (sum, depth - 1)).start().unwrap().join().unwrap()
        }
    }
    robust(LIMIT, || {
        let sum = Actor::start(|| 0_u64).unwrap();
        let back = Process::new(hand_on, (sum.clone(), 3)).start().unwrap().join().unwrap();
        let pid = sum.pid();
        drop(sum);
        assert_eq!((back.call(get, ()).unwrap(), back.pid()), (6, pid));
        assert_eq!(back.kill().unwrap_err().kind(), std::io::ErrorKind::Unsupported);
        drop(back);
        ends();
        // One that is on its way holds it, too, and one within another actor's state.
        let keeper = Actor::start(Vec::<Actor<u64>>::new).unwrap();
        let sum = Actor::start(|| 5_u64).unwrap();
        keeper.call(|all: &mut Vec<Actor<u64>>, one: Actor<u64>| all.push(one), (sum,)).unwrap();
        let sums = |all: &mut Vec<Actor<u64>>| all.iter().map(|one| one.call(get, ()).unwrap()).sum::<u64>();
        assert_eq!(keeper.call(sums, ()).unwrap(), 5);
        drop(keeper);
        ends();
    });
}

#[test]
fn many_callers_are_served_one_at_a_time() {
    fn work(sum: Actor<(u64, bool)>, n: u64) {
        let step = |state: &mut (u64, bool), n: u64| {
            assert!(!std::mem::replace(&mut state.1, true), "two at a time");
            state.0 += n;
            state.1 = false;
        };
        (0..20).for_each(|_| sum.call(step, (n,)).unwrap());
    }
    robust(LIMIT, || {
        let sum = Actor::start(|| (0_u64, false)).unwrap();
        let pool = Pool::new(3).unwrap();
        let result = pool
            .map_async(|(sum, n): (Actor<(u64, bool)>, u64)| work(sum, n), (0..30).map(|n| (sum.clone(), n)));
        std::thread::scope(|scope| {
            for n in 0..10 {
                let sum = sum.clone();
                scope.spawn(move || work(sum, n));
            }
        });
        result.get().unwrap();
        assert_eq!(sum.call(|sum: &mut (u64, bool)| sum.0, ()).unwrap(), 20 * (435 + 45));
        drop((sum, pool));
        ends();
    });
}

#[test]
fn a_dead_actor_is_an_error_to_all_callers_everywhere() {
    fn wait_for(sum: Actor<u64>) -> String {
        sum.call(|_: &mut u64| -> () { drill::hang() }, ()).unwrap_err().to_string()
    }
    robust(LIMIT, || {
        let sum = Actor::builder().name("victim").start(|| 0_u64, ()).unwrap();
        assert_eq!(sum.call(get, ()).unwrap(), 0);
        let elsewhere: Vec<_> =
            (0..3).map(|_| Process::new(wait_for, (sum.clone(),)).start().unwrap()).collect();
        std::thread::scope(|scope| {
            let here: Vec<_> = (0..3).map(|_| scope.spawn(|| wait_for(sum.clone()))).collect();
            std::thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            sum.kill().unwrap();
            for text in here.into_iter().map(|thread| thread.join().unwrap()) {
                assert!(text.contains("victim") && text.contains("SIGKILL"), "{text}");
            }
            for child in elsewhere {
                let text = child.join().unwrap();
                assert!(text.contains("victim") && text.contains("SIGKILL"), "{text}");
            }
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        });
        assert!(killed(&sum.call(get, ()).unwrap_err()), "and later");
        let late = Process::new(|sum: Actor<u64>| sum.call(get, ()).unwrap_err().to_string(), (sum.clone(),));
        assert!(late.start().unwrap().join().unwrap().contains("SIGKILL"));
        drop(sum);
        ends();
    });
}

#[test]
fn every_way_to_die_in_a_call_is_told_with_its_cause() {
    use drill::Fault;
    robust(Duration::from_secs(120), || {
        for (fault, exit) in [
            (Fault::ExitZero, Exit::Code(0)),
            (Fault::ExitThree, Exit::Code(3)),
            (Fault::Abort, Exit::Signal(6)),
            (Fault::Kill, Exit::Signal(9)),
            (Fault::Segfault, Exit::Signal(11)),
        ] {
            let actor = Actor::start(|| 0_u64).unwrap();
            match actor.call(|_: &mut u64, fault: Fault| fault.strike(), (fault,)) {
                Err(TaskError::Lost(lost)) => assert_eq!(lost.exit(), exit, "{fault:?}"),
                other => panic!("{fault:?}: {other:?}"),
            }
            drop(actor);
            ends();
        }
    });
}

#[test]
fn who_has_not_waited_is_passed_over() {
    robust(LIMIT, || {
        let log = Actor::start(Vec::<u32>::new).unwrap();
        let slow = |log: &mut Vec<u32>| {
            std::thread::sleep(Duration::from_millis(400));
            log.push(1);
        };
        let push = |log: &mut Vec<u32>, n: u32| log.push(n);
        std::thread::scope(|scope| {
            scope.spawn(|| log.call(slow, ()).unwrap());
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(log.call_timeout(push, (2,), Duration::from_millis(50)).unwrap(), None);
        });
        assert_eq!(log.call_timeout(push, (3,), LIMIT).unwrap(), Some(()));
        assert_eq!(log.call(|log: &mut Vec<u32>| log.clone(), ()).unwrap(), [1, 3]);
        // What runs already runs to its end.
        assert_eq!(log.call_timeout(slow, (), Duration::from_millis(50)).unwrap(), None);
        assert_eq!(log.call(|log: &mut Vec<u32>| log.len(), ()).unwrap(), 3);
        drop(log);
        ends();
    });
}

/// Callers that call all the time, with small and large arguments, are killed at any moment; the others go on.
#[test]
fn killed_callers_harm_nobody() {
    fn call_for_ever(list: Actor<Vec<u8>>, size: usize) {
        loop {
            let fill = |list: &mut Vec<u8>, more: Vec<u8>| {
                list.clone_from(&more);
                list.clone()
            };
            list.call(fill, (vec![1; size],)).unwrap();
        }
    }
    robust(Duration::from_secs(60 + 30 * u64::from(repeats())), || {
        let list = Actor::start(Vec::<u8>::new).unwrap();
        for round in 0..12_u64 {
            let callers: Vec<_> = [10, 100_000, 1 << 20]
                .map(|size| Process::new(call_for_ever, (list.clone(), size)).start().unwrap())
                .into();
            std::thread::sleep(Duration::from_millis(20 + 7 * round));
            for (n, caller) in callers.into_iter().enumerate() {
                if n as u64 % 2 == round % 2 {
                    // A stopped one keeps nobody waiting, either.
                    nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(caller.pid().cast_signed()),
                        nix::sys::signal::Signal::SIGSTOP,
                    )
                    .unwrap();
                    list.call_timeout(|list: &mut Vec<u8>| list.len(), (), Duration::from_secs(10))
                        .unwrap()
                        .unwrap();
                }
                drop(caller);
                let ones = list.call(|list: &mut Vec<u8>| list.iter().all(|n| *n == 1), ()).unwrap();
                assert!(ones, "half an argument was taken for a whole one");
            }
        }
        drop(list);
        ends();
    });
}

#[test]
fn an_actor_dies_with_its_starter() {
    fn starter() -> (Actor<u64>, u32) {
        let actor = Actor::start(|| 3_u64).unwrap();
        let pid = actor.pid();
        assert_eq!(actor.call(get, ()).unwrap(), 3);
        (actor, pid)
    }
    robust(LIMIT, || {
        let (actor, pid) = Process::new(starter, ()).start().unwrap().join().unwrap();
        poll("the actor lives", Duration::from_secs(5), || support::is_gone(pid));
        let error = actor.call(get, ()).unwrap_err();
        assert!(matches!(error, TaskError::Lost(_)));
        assert!(error.to_string().starts_with("actor ") && !error.to_string().contains("task"), "{error}");
        support::reap_orphan(pid);
    });
}

#[test]
fn what_cannot_travel_costs_its_call_alone() {
    #[derive(Clone)]
    struct Refuses;
    impl serde::Serialize for Refuses {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("not today"))
        }
    }
    impl<'de> serde::Deserialize<'de> for Refuses {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Ok(Self)
        }
    }
    robust(LIMIT, || {
        let sum = Actor::start(|| 1_u64).unwrap();
        assert!(matches!(sum.call(|_: &mut u64, _: Refuses| (), (Refuses,)), Err(TaskError::Encode(_))));
        assert!(matches!(sum.call(|_: &mut u64| Refuses, ()), Err(TaskError::Encode(_))));
        assert_eq!(sum.call(get, ()).unwrap(), 1);
        drop(sum);
        ends();
    });
}

#[test]
fn a_dict_a_list_and_a_namespace_are_as_pythons() {
    robust(LIMIT, || {
        let dict = Dict::<String, Vec<u32>>::new().unwrap();
        assert!(dict.is_empty().unwrap());
        assert_eq!(dict.insert("a".into(), vec![1]).unwrap(), None);
        assert_eq!(dict.insert("a".into(), vec![2]).unwrap(), Some(vec![1]));
        assert_eq!(dict.get_or_insert("b".into(), vec![5]).unwrap(), [5]);
        assert_eq!(
            dict.update("a".into(), |all: &mut Vec<u32>, n: u32| all.push(n), (3,)).unwrap(),
            Some(())
        );
        assert_eq!(dict.update("z".into(), |all: &mut Vec<u32>| all.len(), ()).unwrap(), None);
        dict.extend([("c".into(), vec![])]).unwrap();
        assert_eq!((dict.len().unwrap(), dict.contains_key("b".into()).unwrap()), (3, true));
        let mut keys = dict.keys().unwrap();
        keys.sort();
        assert_eq!((keys.join(""), dict.values().unwrap().len()), ("abc".into(), 3));
        assert_eq!(dict.remove("b".into()).unwrap(), Some(vec![5]));
        assert_eq!(dict.to_map().unwrap(), HashMap::from([("a".into(), vec![2, 3]), ("c".into(), vec![])]));
        dict.clear().unwrap();
        assert_eq!(dict.get("a".into()).unwrap(), None);

        let list = List::<i32>::new().unwrap();
        list.extend([1, 2, 3]).unwrap();
        list.push(4).unwrap();
        list.insert(0, 0).unwrap();
        assert_eq!((list.set(1, 9).unwrap(), list.set(5, 9).unwrap()), (Some(1), None));
        assert_eq!((list.remove(2).unwrap(), list.remove(9).unwrap()), (Some(2), None));
        assert_eq!(list.update(0, |n: &mut i32, by: i32| *n -= by, (7,)).unwrap(), Some(()));
        assert_eq!((list.get(0).unwrap(), list.pop().unwrap(), list.len().unwrap()), (Some(-7), Some(4), 3));
        assert_eq!(list.to_vec().unwrap(), [-7, 9, 3]);

        let names = Namespace::new().unwrap();
        names.set("x", &1.5).unwrap();
        names.set("text", "hello").unwrap();
        let child = Process::new(
            |names: Namespace| {
                names.set("text", &names.get::<String>("text").unwrap().unwrap().to_uppercase()).is_ok()
            },
            (names.clone(),),
        );
        assert!(child.start().unwrap().join().unwrap());
        assert_eq!(names.get::<String>("text").unwrap().unwrap(), "HELLO");
        assert_eq!((names.names().unwrap().join(" "), names.remove("x").unwrap()), ("text x".into(), true));
        assert!(names.get::<(String, String)>("text").is_err());
        drop((dict, list, names));
        ends();
    });
}

#[test]
fn many_actors_leave_nothing() {
    robust(Duration::from_secs(120), || {
        for n in 0..20 {
            let actors: Vec<Actor<u64>> = (0..5).map(|_| Actor::start(|| 1_u64).unwrap()).collect();
            if n % 2 == 0 {
                assert!(actors.iter().all(|actor| actor.call(get, ()).unwrap() == 1));
            }
        }
        ends();
    });
}
