//! A user that breaks every rule: the host and the other users are unharmed.

use crate::support::robust;
use crate::{MINUTE, SOON, pause, random, slay};
use procession::{GetError, Process, Queue};
use procession_worker::sys::memory::Mapping;
use procession_worker::sys::socket;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The lane's size, as far as it is mapped.
const LANE: usize = 4096 + 2 * 64 * 1024;

/// All lanes and sockets that this process has.
#[allow(unsafe_code, reason = "descriptors that others own are borrowed by number")]
fn find() -> (Vec<Mapping>, Vec<OwnedFd>) {
    let (mut lanes, mut sockets) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        let number: RawFd = entry.file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: open just now, and those of a queue stay open as long as that.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if link.to_string_lossy().contains("procession-lane") {
            lanes.push(Mapping::new(fd, LANE).unwrap());
        } else if socket::is_of_a_pair(fd) {
            sockets.push(fd.try_clone_to_owned().unwrap());
        }
    }
    (lanes, sockets)
}

fn lie(queue: Queue<u64>, told: Queue<u8>, how: u64) {
    let _ = queue.put(1);
    let _ = told.put(1);
    let (lanes, sockets) = find();
    let null = std::fs::File::open("/dev/null").unwrap();
    loop {
        for lane in &lanes {
            // The head with its claims, flags and hands, and the rings.
            let at = if random(3) > 0 { 64 + 8 * random(400) } else { 4096 + 8 * random(16_000) };
            if how != 1 {
                let small = random(2) == 0;
                let word = if small { random(70_000) } else { random(u64::MAX) };
                lane.word(usize::try_from(at).unwrap()).store(word, Ordering::SeqCst);
            }
        }
        if how != 0 {
            for socket in &sockets {
                let mut note = [0; 16];
                note[0] = u8::try_from(1 + random(7)).unwrap();
                note[4] = u8::try_from(random(3)).unwrap();
                // But for 4, by which anybody may close the queue.
                note[8] = [0, 1, 2, 3, 5, 6, 7][usize::try_from(random(7)).unwrap()];
                let fds = [null.as_raw_fd(), null.as_raw_fd()];
                let _ = socket::send(socket, &note, &fds[..usize::try_from(random(3)).unwrap()], false);
            }
        }
    }
}

fn relay(from: Queue<u64>, to: Queue<u64>) {
    loop {
        match from.get() {
            Ok(item) => to.put(item).unwrap(),
            // What a liar has put may be anything.
            Err(GetError::Decode(_) | GetError::Io(_)) => {}
            Err(_) => return,
        }
    }
}

#[test]
fn who_lies_harms_nobody_else() {
    robust(2 * MINUTE, || {
        for round in 0..12 {
            let (victim, told) =
                (if round % 2 == 0 { Queue::new() } else { Queue::bounded(50) }, Queue::new());
            let (from, to) = (Queue::new(), Queue::bounded(10));
            let honest = Process::new(relay, (from.clone(), to.clone())).start().unwrap();
            let liar = Process::new(lie, (victim.clone(), told.clone(), round % 3)).start().unwrap();
            // Its word may be lost among its lies.
            let _ = told.get_timeout(Duration::from_millis(100));
            let sink = Queue::new();
            let user = Process::new(relay, (victim.clone(), sink.clone())).start().unwrap();
            for n in 0..100 {
                from.put(n).unwrap();
                to.get_timeout(SOON).unwrap();
                // Room that it has taken is its own until it dies, as with anybody.
                let _ = victim.put_timeout(n, Duration::from_millis(1));
                let _ = (victim.len(), victim.is_full());
            }
            pause(Duration::from_millis(20));
            slay(&liar);
            drop(liar);
            // The queue that it lied to works as ever for the others.
            while !victim.is_empty() {}
            victim.put_timeout(7777, SOON).unwrap();
            let deadline = std::time::Instant::now() + SOON;
            while sink.get_timeout(SOON).unwrap() != 7777 {
                assert!(std::time::Instant::now() < deadline);
            }
            victim.close();
            from.close();
            user.join().unwrap();
            honest.join().unwrap();
        }
    });
}
