//! Any packets at an actor's door and behind it: each is answered or passed over, and when all are gone the actor ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use procession_worker::host;
use procession_worker::method::Token;
use procession_worker::sys::{memory, socket};
use procession_worker::wire::connection;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A packet, and how it is said: with so many descriptors, as a long one, behind the token of a function.
type Word = (Vec<u8>, u8);

fn say(socket: impl AsFd, (body, how): &Word, open: &mut Vec<OwnedFd>) {
    let mut body = body.clone();
    if how & 8 != 0 {
        let token = Token::of::<u64, (u64, Vec<u8>), _>(|sum: &mut u64, n: u64, more: Vec<u8>| {
            *sum = sum.wrapping_add(n);
            more
        });
        body.splice(..0, token.expect("in this program").to_bytes());
    }
    let file = File::from(memory::unsealed_memfd(c"fuzz").expect("a file"));
    memory::put_into(&file, 0, &body).expect("memory");
    let (stub, label) = socket::pair().expect("a pair");
    let packet = match how & 4 {
        0 => [&[0], &body[..]].concat(),
        _ => [&[1], &(body.len() as u64).to_le_bytes()[..], &[0; 8]].concat(),
    };
    let fds = [file.as_raw_fd(), label.as_raw_fd()];
    let count = if how & 4 == 0 { usize::from(how & 3).min(2) } else { 2 };
    let _ = socket::send(socket, &packet, &fds[..count], false);
    if how & 16 != 0 {
        open.push(stub);
    }
}

fuzz_target!(|input: (Vec<Word>, Vec<Vec<Word>>)| {
    let (at_door, behind) = input;
    let (inner, outer) = connection::pair().expect("a pair");
    let (mut open, mut near_ends) = (Vec::new(), Vec::new());
    for word in at_door.iter().take(10) {
        say(&outer, word, &mut open);
    }
    for words in behind.iter().take(10) {
        let (near, far) = connection::pair().expect("a pair");
        let _ = socket::send(&outer, &[0], &[far.as_fd().as_raw_fd()], false);
        for word in words.iter().take(10) {
            say(&near, word, &mut open);
        }
        near_ends.push(near);
    }
    drop(outer);
    // A call is run only for somebody who can hear the answer: until the last one has been answered.
    let host = std::thread::spawn(move || host::serve(inner, &mut 0_u64));
    for near in near_ends {
        let soon = std::time::Instant::now() + std::time::Duration::from_millis(1);
        let _ = near.receive(1 << 20, Some(soon), |answer, _| answer.len());
    }
    host.join().expect("no panic").expect("descriptors");
});
