//! Any bytes, split anywhere, give the same frames or the same error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use procession_worker::wire::frame::{FrameError, Inbox};

fn frames(pieces: &[&[u8]]) -> (Vec<(u8, Vec<u8>)>, Option<FrameError>) {
    let (mut inbox, mut seen) = (Inbox::new(1 << 20), Vec::new());
    for piece in pieces {
        inbox.fill().0.extend_from_slice(piece);
        loop {
            match inbox.next() {
                Ok(Some(frame)) => seen.push((frame.kind, frame.payload.to_vec())),
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
    }
    (seen, None)
}

fuzz_target!(|input: (Vec<u8>, usize)| {
    let (bytes, cut) = input;
    let cut = if bytes.is_empty() { 0 } else { cut % bytes.len() };
    assert_eq!(frames(&[&bytes]), frames(&[&bytes[..cut], &bytes[cut..]]));
});
