//! Any bytes at a door with a key, from either side: it stays shut, however they are split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use procession_worker::wire::handshake::{Guest, Host, Key, Process, Step};

fuzz_target!(|input: (bool, Vec<Vec<u8>>)| {
    let (polite, pieces) = input;
    let key = || Some(Key::new(b"key"));
    let own = Process { space: 1, pid: 2 };
    let mut host = Host::new(key(), [1; 32], own, own.pid);
    let (mut guest, hello) = Guest::new(key(), [2; 32], own, own.pid);
    if polite {
        let Step::Say(answer) = host.hear(&hello) else { panic!("it answers") };
        assert!(matches!(guest.hear(&answer), Step::Say(_)));
    }
    for piece in &pieces {
        assert!(!matches!(host.hear(piece), Step::Open(_)));
        assert!(!matches!(guest.hear(piece), Step::Open(_)));
    }
});
