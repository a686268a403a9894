//! Killed by the hundred, at random instants; the rest go on, and no item is lost, doubled or torn beyond the rules.

use crate::support::robust;
use crate::{MINUTE, SOON, pause, random, slay};
use procession::{Child, Process, Queue};
use std::collections::HashMap;
use std::time::Duration;

const KILLS: u64 = 60;
const CREW: usize = 3;

/// An item that shows whether it is whole; now and then a large one.
type Item = (u64, u64, Vec<u8>);

fn item(who: u64, n: u64) -> Item {
    let len = match random(40) {
        0 => 40_000,
        1 => 16_300,
        _ => random(50),
    };
    (who, n, vec![(who ^ n) as u8; usize::try_from(len).unwrap()])
}

fn check(item: &Item) -> (u64, u64) {
    assert!(item.2.iter().all(|byte| *byte == (item.0 ^ item.1) as u8), "torn");
    (item.0, item.1)
}

fn produce(queue: Queue<Item>, who: u64) {
    for n in 0.. {
        queue.put(item(who, n)).unwrap();
    }
}

fn queue(bounds: u8) -> Queue<Item> {
    match bounds {
        0 => Queue::bounded(5),
        1 => Queue::builder().max_bytes(100_000).build(),
        _ => Queue::bounded(1000),
    }
}

#[test]
fn what_killed_producers_had_put_comes_in_order_and_whole() {
    robust(2 * MINUTE, || {
        for bounds in 0..3 {
            let queue = queue(bounds);
            let mut hired = 0;
            let mut hire = || {
                hired += 1;
                Process::new(produce, (queue.clone(), hired)).start().unwrap()
            };
            let mut crew: Vec<Child<()>> = (0..CREW).map(|_| hire()).collect();
            let mut next = HashMap::new();
            for _ in 0..KILLS {
                for _ in 0..random(60) {
                    let (who, n) = check(&queue.get_timeout(SOON).unwrap());
                    let due = next.entry(who).or_insert(0);
                    assert_eq!(n, *due, "each producer's items, each once, in order");
                    *due += 1;
                }
                let one = usize::try_from(random(CREW as u64)).unwrap();
                slay(&crew[one]);
                crew[one] = hire();
            }
            crew.iter().for_each(slay);
            drop(crew);
            while let Ok(item) = queue.get_timeout(Duration::from_millis(50)) {
                let (who, n) = check(&item);
                let due = next.entry(who).or_insert(0);
                assert_eq!(n, *due);
                *due += 1;
            }
            assert!(queue.is_empty());
        }
    });
}

fn pass_on(from: Queue<Item>, to: Queue<(u64, u64)>, leased: bool) {
    loop {
        if leased {
            let Ok(lease) = from.lease() else { return };
            to.put(check(&lease)).unwrap();
            lease.done().unwrap();
        } else {
            let Ok(item) = from.get() else { return };
            to.put(check(&item)).unwrap();
        }
    }
}

/// Everything goes through a crew that is killed again and again: what comes out, and how often.
fn through_a_crew(leased: bool, bounds: u8) -> (u64, HashMap<(u64, u64), u32>) {
    let (from, to) = (queue(bounds), Queue::new());
    let hire = || Process::new(pass_on, (from.clone(), to.clone(), leased)).start().unwrap();
    let mut crew: Vec<Child<()>> = (0..CREW).map(|_| hire()).collect();
    let mut seen = HashMap::new();
    let mut put = 0;
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            let mut count = 0;
            for _ in 0..KILLS {
                for _ in 0..random(100) {
                    from.put_timeout(item(1, count), SOON).unwrap();
                    count += 1;
                }
            }
            count
        });
        for _ in 0..KILLS {
            pause(Duration::from_millis(4));
            let one = usize::try_from(random(CREW as u64)).unwrap();
            slay(&crew[one]);
            crew[one] = hire();
            while let Ok(item) = to.try_get() {
                *seen.entry(item).or_insert(0) += 1;
            }
        }
        put = feeder.join().unwrap();
    });
    from.close();
    for child in crew {
        child.join().unwrap();
    }
    assert!(from.is_empty());
    while let Ok(item) = to.try_get() {
        *seen.entry(item).or_insert(0) += 1;
    }
    (put, seen)
}

#[test]
fn killed_consumers_cost_at_most_the_item_that_each_had_got() {
    robust(2 * MINUTE, || {
        for bounds in 0..3 {
            let (put, seen) = through_a_crew(false, bounds);
            assert!(seen.values().all(|&count| count == 1), "an item twice");
            assert!(seen.len() as u64 + KILLS >= put, "{} of {put}", seen.len());
        }
    });
}

#[test]
fn killed_holders_of_leases_cost_nothing() {
    robust(2 * MINUTE, || {
        for bounds in 0..3 {
            let (put, seen) = through_a_crew(true, bounds);
            assert_eq!(seen.len() as u64, put, "an item lost");
            // One that was passed on by one who was killed before it was done is passed on again.
            let again: u32 = seen.values().map(|count| count - 1).sum();
            assert!(u64::from(again) <= KILLS, "{again}");
        }
    });
}

fn get_and_report(queue: Queue<Item>) {
    while let Ok(item) = queue.get() {
        check(&item);
        assert!(queue.task_done());
    }
}

#[test]
fn join_ends_whoever_is_killed() {
    robust(2 * MINUTE, || {
        let queue = Queue::new();
        let hire = || Process::new(get_and_report, (queue.clone(),)).start().unwrap();
        let mut crew: Vec<Child<()>> = (0..CREW).map(|_| hire()).collect();
        for round in 0..KILLS {
            for n in 0..random(100) {
                queue.put(item(round, n)).unwrap();
            }
            pause(Duration::from_millis(2));
            let one = usize::try_from(random(CREW as u64)).unwrap();
            slay(&crew[one]);
            crew[one] = hire();
            assert!(queue.join_timeout(SOON), "{} items", queue.len());
            assert!(queue.is_empty());
        }
        queue.close();
        for child in crew {
            child.join().unwrap();
        }
    });
}

fn host_for_a_while(out: Queue<Queue<Item>>) {
    let queue = Queue::bounded(3);
    out.put(queue.clone()).unwrap();
    while let Ok(item) = queue.get() {
        check(&item);
        let _ = queue.try_put(item);
    }
}

fn use_till_the_end(queue: Queue<Item>) -> u64 {
    let mut count = 0;
    while queue.put(item(1, count)).is_ok() && queue.get().is_ok() {
        count += 1;
    }
    count
}

#[test]
fn a_host_may_die_at_any_moment() {
    robust(2 * MINUTE, || {
        for _ in 0..KILLS / 3 {
            let out = Queue::new();
            let host = Process::new(host_for_a_while, (out.clone(),)).start().unwrap();
            let queue = out.get().unwrap();
            let user = Process::new(use_till_the_end, (queue.clone(),)).start().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| use_till_the_end(queue.clone()));
                pause(Duration::from_millis(10));
                slay(&host);
            });
            // It may not even have come.
            let _ = user.join();
        }
    });
}
