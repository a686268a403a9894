//! Any packets and files at the end of a connection: each is a message or an error, and then comes the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use procession_worker::sys::{memory, socket};
use procession_worker::wire::connection::{ReceiveTrouble, pair};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Instant;

fuzz_target!(|packets: Vec<(Vec<u8>, Option<(Vec<u8>, u8)>)>| {
    let (ours, theirs) = pair().unwrap();
    let mut open = Vec::new();
    for (packet, long) in packets.iter().filter(|(packet, _)| !packet.is_empty()).take(20) {
        let sent = match long {
            None => socket::send(&theirs, packet, &[], false),
            Some((bytes, how)) => {
                let file = File::from(memory::unsealed_memfd(c"fuzz").unwrap());
                memory::put_into(&file, 0, bytes).unwrap();
                let (stub, label) = socket::pair().unwrap();
                let fds = [file.as_raw_fd(), label.as_raw_fd(), label.as_raw_fd()];
                for _ in 0..how & 3 {
                    socket::send(&stub, &[0], &fds[..1], false).unwrap();
                }
                // Some are taken back, and some stubs stay.
                if how & 4 != 0 {
                    socket::hear_no_more(&stub);
                }
                if how & 8 != 0 {
                    open.push(stub);
                }
                socket::send(&theirs, packet, if how & 16 == 0 { &fds[..2] } else { &fds }, false)
            }
        };
        if sent.is_err() {
            break;
        }
    }
    let next = || ours.receive(1 << 30, Some(Instant::now()), |bytes, _| Vec::from(bytes).len());
    for _ in 0..packets.len() {
        let _ = next();
    }
    drop((theirs, open));
    loop {
        match next() {
            Ok(None) => break,
            Ok(Some(_)) => {}
            Err(ReceiveTrouble::System(errno)) => panic!("errno {errno}"),
            Err(_) => {}
        }
    }
});
