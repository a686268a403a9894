//! Any packets and streams at the end of a connection: each is a message or an error, and then comes the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use procession_worker::sys::socket;
use procession_worker::wire::connection::{ReceiveTrouble, pair};
use std::os::fd::AsRawFd;
use std::time::Instant;

fuzz_target!(|packets: Vec<(Vec<u8>, Option<Vec<u8>>)>| {
    let (ours, theirs) = pair().unwrap();
    let mut open = Vec::new();
    for (packet, stream) in packets.iter().filter(|(packet, _)| !packet.is_empty()).take(20) {
        let sent = match stream {
            None => socket::send(&theirs, packet, &[], false),
            Some(bytes) => {
                let (near, far) = socket::stream_pair().unwrap();
                let _ = socket::write(&near, bytes, false);
                // Some stay open, so that the rest is waited for.
                if bytes.len() % 2 == 0 {
                    open.push(near);
                }
                socket::send(&theirs, packet, &[far.as_raw_fd()], false)
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
