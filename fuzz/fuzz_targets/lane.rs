//! What the two sides of a queue read from the memory they share: any bytes anywhere in it give frames inside the ring, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use procession_worker::ipc::lane::{Claims, Flag, Lane, RING, Way};
use procession_worker::sys::memory::put_into;
use procession_worker::wire::frame;
use std::fs::File;
use std::os::fd::AsFd;

fuzz_target!(|input: (Vec<(u16, Vec<u8>)>, u64, u64)| {
    let (writes, from, committed) = input;
    let lane = Lane::create().expect("a lane");
    let file = File::from(lane.as_fd().try_clone_to_owned().expect("a descriptor"));
    for (at, bytes) in &writes {
        let at = 2 * u64::from(*at);
        let room = usize::try_from(4096 + 2 * RING - at).unwrap_or(0);
        put_into(&file, at, &bytes[..bytes.len().min(room)]).expect("inside the file");
    }
    for way in [Way::Up, Way::Down] {
        for marked in [false, true] {
            if marked {
                lane.commit(way, committed);
            }
            // As a client reads, frame by frame.
            let mut at = from;
            while let Some((_, payload, next)) = lane.frame(way, at) {
                assert!(next > at && (payload.len() as u64) < next - at && next - at <= RING);
                at = next;
            }
            // As a host reads, all at once.
            let fresh = lane.committed(way).checked_sub(from).filter(|fresh| *fresh <= RING);
            let mut bytes = Vec::new();
            lane.read(way, from, lane.committed(way), &mut bytes);
            assert!(fresh.is_none_or(|fresh| fresh == bytes.len() as u64));
            let mut rest = &bytes[..];
            while let Ok(Some((_, whole))) = frame::split(rest, RING) {
                rest = &rest[whole..];
            }
        }
    }
    assert!(lane.hands().len() <= 64);
    for claims in [Claims::Puts, Claims::Gets] {
        let left = lane.claim(claims).left();
        assert_eq!(lane.claim_next(claims, 1).is_some(), left > 0);
        assert_eq!(lane.take_back(claims, u32::MAX), left.saturating_sub(1));
    }
    let _ = lane.take(Flag::Wants);
});
