//! Guests at the socket who mean no good, or do nothing at all.

use crate::MINUTE;
use crate::support::{poll, robust};
use crate::tool::{Place, said};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[test]
fn silence_nonsense_and_crowds_keep_nobody_out() {
    robust(MINUTE, || {
        let place = Place::new();
        let tool = place.start("", "while :; do echo line; sleep 0.001; done");
        place.until(&["running"]);
        let socket = place.path().join("procession/web.sock");
        let knock = || UnixStream::connect(&socket).unwrap();
        let silent: Vec<_> = (0..200).map(|_| knock()).collect();
        assert_eq!(said(&place.output(&["status", "web"])).code, 0);
        for nonsense in [
            &b"\n"[..],
            b"{}\n",
            b"\xff\xfe\x00\n",
            b"{\"verb\":\"stop\",\"ids\":[4294967296]}\n",
            b"[[[[[[[[\n",
        ] {
            let mut guest = knock();
            guest.write_all(nonsense).unwrap();
            let mut answer = String::new();
            guest.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("{\"error\":\"not understood"), "{answer}");
        }
        // A request without end.
        let mut endless = knock();
        let flood = vec![b'['; 1 << 20];
        while endless.write_all(&flood).is_ok() {}
        // Half a request, and then nothing.
        let mut half = knock();
        half.write_all(b"{\"verb\":").unwrap();
        half.set_read_timeout(Some(MINUTE / 2)).unwrap();
        assert_eq!(half.read(&mut [0]).unwrap_or(0), 0);
        // One that wants all lines and reads none.
        let mut deaf = knock();
        deaf.write_all(b"{\"verb\":\"logs\",\"lines\":1000,\"follow\":true}\n").unwrap();
        assert_eq!(said(&place.output(&["status", "web"])).code, 0);
        drop(silent);
        poll("the tool has few threads again", MINUTE / 4, || {
            std::fs::read_dir(format!("/proc/{}/task", tool.child.id())).unwrap().count() < 12
        });
        drop(deaf);
        std::thread::sleep(Duration::from_millis(10));
        // Its own stdout is a pipe that nobody has read all the time: the copies wait, the tool does not.
        assert_eq!(said(&place.output(&["status", "web"])).code, 0);
        assert_eq!(tool.stop_unread(), 0);
    });
}
