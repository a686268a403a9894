//! What a worker reads from its parent: any bytes end in an orderly way, and no function is called that was not meant.
#![no_main]

use libfuzzer_sys::fuzz_target;
use procession_worker::ipc::Page;
use procession_worker::serve::Server;
use std::io::Write;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    // More than a pipe holds would wait for a reader that comes later.
    let bytes = &bytes[..bytes.len().min(60_000)];
    let (calls, mut parent) = std::io::pipe().expect("a pipe");
    let (_answers, outcomes) = std::io::pipe().expect("a pipe");
    parent.write_all(bytes).expect("the pipe has room");
    drop(parent);
    let (_, tray) = procession_worker::sys::socket::pair().expect("a socket");
    let page = Arc::new(Page::create(1).expect("a page"));
    page.offer(0, 1, 3);
    let mut server = Server::new(calls.into(), outcomes.into(), tray, &page);
    let _ = server.serve(false);
});
