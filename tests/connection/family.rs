//! Ends and descriptors as arguments and results, to children and theirs.

use crate::LIMIT;
use crate::support::robust;
use procession::{
    Connection, Handle, Pool, Process, Receiver, RecvError, Sender, TaskError, duplex, pipe, wait,
};
use std::fs::File;
use std::io::{PipeWriter, Read, Seek, Write};

fn count(to: u32, sender: Sender<u32>) {
    for n in 0..to {
        sender.send(n).unwrap();
    }
}

#[test]
fn an_end_in_the_arguments_is_the_childs_and_closes_with_it() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe().unwrap();
        let child = Process::new(count, (1000, sender)).start().unwrap();
        let all: Vec<u32> = receiver.iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(all, Vec::from_iter(0..1000));
        child.join().unwrap();
        let (sender, receiver) = pipe::<u32>().unwrap();
        let child = Process::new(|_sender: Sender<u32>| std::thread::park(), (sender,)).start().unwrap();
        assert_eq!(receiver.try_recv(), Err(RecvError::Empty));
        child.kill().unwrap();
        assert_eq!(receiver.recv(), Ok(None));
    });
}

#[test]
fn a_two_way_conversation() {
    fn shout(line: Connection<String, String>) -> usize {
        line.iter().map(|word| line.send(word.unwrap().to_uppercase()).unwrap()).count()
    }
    robust(LIMIT, || {
        let (here, there) = duplex::<String, String>().unwrap();
        let child = Process::new(shout, (there,)).start().unwrap();
        for word in ["one", "two"] {
            here.send(word.into()).unwrap();
            assert_eq!(here.recv().unwrap(), Some(word.to_uppercase()));
        }
        assert!(wait(&[&here, &child], Some(crate::MOMENT)).unwrap().is_empty());
        drop(here);
        assert_eq!(wait(&[&child], Some(LIMIT)).unwrap(), [0]);
        assert_eq!(child.join().unwrap(), 2);
    });
}

#[test]
fn an_end_as_result() {
    fn open() -> (Receiver<String>, Handle<File>) {
        let (sender, receiver) = pipe().unwrap();
        sender.send("from the dead".into()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"so is this").unwrap();
        (receiver, file.into())
    }
    robust(LIMIT, || {
        let (receiver, mut file) = Process::new(open, ()).start().unwrap().join().unwrap();
        assert_eq!(receiver.recv().unwrap().as_deref(), Some("from the dead"));
        assert_eq!(receiver.recv().unwrap(), None);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "so is this");
    });
}

#[test]
fn from_child_to_grandchild_and_past_the_child() {
    fn pass_on(generations: u32, sender: Sender<Vec<u32>>, log: Handle<PipeWriter>) -> u32 {
        (&*log).write_all(b".").unwrap();
        if generations == 0 {
            sender.send(vec![std::process::id(); 100_000]).unwrap();
            return std::process::id();
        }
        Process::new(pass_on, (generations - 1, sender, log)).start().unwrap().join().unwrap()
    }
    robust(LIMIT, || {
        let (sender, receiver) = pipe().unwrap();
        let (mut log, writer) = std::io::pipe().unwrap();
        let child = Process::new(pass_on, (3, sender, writer.into())).start().unwrap();
        let told = receiver.recv().unwrap().unwrap();
        assert_eq!((told.len(), told[0]), (100_000, child.join().unwrap()));
        assert_eq!(receiver.recv().unwrap(), None);
        let mut marks = String::new();
        log.read_to_string(&mut marks).unwrap();
        assert_eq!(marks, "....");
    });
}

#[test]
fn a_pool_shares_one_end() {
    fn report(n: u64, sender: Sender<(u64, Vec<u8>)>) {
        sender.send((n, vec![n as u8; n as usize * 700])).unwrap();
    }
    fn work(tasks: Receiver<u64>) -> u64 {
        tasks.iter().map(Result::unwrap).sum()
    }
    robust(LIMIT, || {
        let pool = Pool::new(3).unwrap();
        let (sender, receiver) = pipe::<(u64, Vec<u8>)>().unwrap();
        let items: Vec<_> = (0..200).map(|n| (n, sender.clone())).collect();
        drop(sender);
        let reading = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for message in receiver.iter() {
                let (n, bytes) = message.unwrap();
                assert!(bytes.len() == n as usize * 700 && bytes.iter().all(|&byte| byte == n as u8));
                seen.push(n);
            }
            seen.sort_unstable();
            seen
        });
        pool.starmap(report, items).unwrap();
        // Ends in the arguments of tasks that are done are closed at the latest with their workers.
        pool.join();
        assert_eq!(reading.join().unwrap(), Vec::from_iter(0..200));
        let pool = Pool::new(3).unwrap();
        let (sender, receiver) = pipe().unwrap();
        let sums: Vec<_> = (0..3).map(|_| pool.apply_async(work, (receiver.clone(),))).collect();
        drop(receiver);
        (0..1000).for_each(|n| sender.send(n).unwrap());
        drop(sender);
        assert_eq!(sums.into_iter().map(|sum| sum.get().unwrap()).sum::<u64>(), 499_500);
    });
}

#[test]
fn a_worker_killed_with_an_end_closes_it() {
    fn die(_sender: Sender<u8>) {
        std::process::abort();
    }
    robust(LIMIT, || {
        let pool = Pool::new(1).unwrap();
        let (sender, receiver) = pipe::<u8>().unwrap();
        assert!(matches!(pool.apply(die, (sender,)), Err(TaskError::Lost(_))));
        assert_eq!(receiver.recv(), Ok(None));
    });
}
