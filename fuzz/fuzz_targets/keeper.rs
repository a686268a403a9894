//! What a keeper reads from its owner, and an owner from its keeper: any bytes are refused, or mean exactly what they say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use procession_worker::keeper::protocol::{Ask, Replies, Strings};

fuzz_target!(|bytes: &[u8]| {
    if let Some(ask) = Ask::read(bytes) {
        let mut again = Vec::new();
        ask.write(&mut again);
        assert_eq!(again, bytes);
        if let Ask::Start(start, Some(strings)) = &ask
            && let Some(all) = Strings::check(start, strings)
        {
            let counts = [all.paths().count(), all.args().count(), all.env().count()];
            assert_eq!(counts.map(|count| count as u64), [start.paths, start.args, start.env].map(u64::from));
            let len = |text: &std::ffi::CStr| text.to_bytes_with_nul().len();
            let dir = all.dir().map_or(1, len);
            let rest: usize = all.paths().chain(all.args()).chain(all.env()).map(len).sum();
            assert_eq!(dir + rest, strings.len());
        }
    }
    let (mut again, mut ended) = (Vec::new(), false);
    for reply in Replies::new(bytes) {
        assert!(!ended, "nothing follows nonsense");
        match reply {
            Some(reply) => reply.write(&mut again),
            None => ended = true,
        }
    }
    assert!(bytes.starts_with(&again) && (ended || again == bytes));
});
