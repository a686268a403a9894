//! What a parent reads from a worker: no bytes make it panic or allocate more than a multiple of their weight.
#![no_main]

use libfuzzer_sys::fuzz_target;
use procession_worker::wire::codec::decode;
use procession_worker::wire::frame::Inbox;
use procession_worker::wire::message::{End, Hello, PanicRecord, Refusal, Up, count, unsealed};

fuzz_target!(|bytes: &[u8]| {
    let mut inbox = Inbox::default();
    inbox.fill().0.extend_from_slice(bytes);
    while let Ok(Some(frame)) = inbox.next() {
        let payload = unsealed(frame.payload);
        match Up::from_kind(frame.kind) {
            Some(Up::Value) => {
                let _ = decode::<(u64, String, Vec<Option<String>>)>(payload);
            }
            Some(Up::Handles) => drop(count(payload)),
            Some(Up::Panicked) => drop(decode::<PanicRecord>(payload)),
            Some(Up::Hello) => drop(decode::<Hello>(frame.payload)),
            Some(Up::Refused) => drop(decode::<Refusal>(frame.payload)),
            Some(Up::End) => drop(End::from_bytes(frame.payload)),
            Some(Up::Undecodable | Up::Unencodable) | None => {}
        }
    }
});
