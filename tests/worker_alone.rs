//! The worker side alone: a server in a thread, driven by hand-written frames, and what it answers, byte by byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod again;

use again::{Gate, LONG, stand, until, within};
use procession_worker::ipc::Page;
use procession_worker::ipc::page::Stage;
use procession_worker::serve::{Farewell, Server};
use procession_worker::sys::{fd, image, socket};
use procession_worker::task::{Task, Token};
use procession_worker::wire::codec;
use procession_worker::wire::frame::{self, Inbox};
use procession_worker::wire::message::{
    Birth, CallHead, Down, End, Hello, Loan, PROTOCOL, PanicRecord, Refusal, Up, unsealed,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

const NONCE: u64 = 0xfeed;

/// The parent's side, by hand.
struct Parent<R> {
    calls: Option<PipeWriter>,
    /// Another handle of the server's end, to see what it has not read yet.
    unread: PipeReader,
    outcomes: PipeReader,
    inbox: Inbox,
    page: Page,
    server: JoinHandle<R>,
}

impl<R: Send + 'static> Parent<R> {
    /// A server that does `what`.
    fn of(what: impl FnOnce(&mut Server) -> R + Send + 'static) -> Self {
        let (read, calls) = std::io::pipe().unwrap();
        let (outcomes, write) = std::io::pipe().unwrap();
        let unread = read.try_clone().unwrap();
        let page = Page::create(NONCE).unwrap();
        let file = page.file().try_clone().unwrap();
        let theirs = Arc::new(Page::open(file.into(), NONCE).unwrap());
        let (_, tray) = socket::pair().unwrap();
        let server =
            std::thread::spawn(move || what(&mut Server::new(read.into(), write.into(), tray, &theirs)));
        Self { calls: Some(calls), unread, outcomes, inbox: Inbox::default(), page, server }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.calls.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Writes, and waits until it has been read.
    fn write_and_wait(&mut self, bytes: &[u8]) {
        self.write(bytes);
        until("the server reads", || fd::unread(&self.unread).unwrap() == 0);
    }

    fn offer_and_call(&mut self, call: &Call) {
        self.page.offer(call.head.slot, call.head.tag, call.head.count);
        self.write(&call.frame());
    }

    /// The next frame that comes up.
    fn frame(&mut self) -> (Up, Vec<u8>) {
        loop {
            if let Some(frame) = self.inbox.next().unwrap() {
                return (Up::from_kind(frame.kind).unwrap(), unsealed(frame.payload).to_vec());
            }
            let mut bytes = [0; 4096];
            let n = self.outcomes.read(&mut bytes).unwrap();
            assert_ne!(n, 0, "another frame is due");
            self.inbox.fill().0.extend_from_slice(&bytes[..n]);
        }
    }

    fn value<T: DeserializeOwned>(&mut self) -> T {
        let (kind, payload) = self.frame();
        assert_eq!(kind, Up::Value, "{}", String::from_utf8_lossy(&payload));
        codec::decode(&payload).unwrap()
    }

    fn panicked(&mut self) -> PanicRecord {
        let (kind, payload) = self.frame();
        assert_eq!(kind, Up::Panicked);
        codec::decode(&payload).unwrap()
    }

    fn text(&mut self, expected: Up) -> String {
        let (kind, payload) = self.frame();
        assert_eq!(kind, expected);
        String::from_utf8(payload).unwrap()
    }

    /// The end of a call: its tag, and how many items were answered.
    fn end(&mut self) -> (u16, u32) {
        let (kind, payload) = self.frame();
        assert_eq!(kind, Up::End);
        let end = End::from_bytes(&payload).unwrap();
        (end.tag, end.count)
    }

    fn hang_up(&mut self) {
        self.calls = None;
    }

    /// What the server said when it ended; nothing else has come up.
    fn farewell(mut self) -> R {
        let farewell = self.server.join().unwrap();
        let mut rest = Vec::new();
        self.outcomes.read_to_end(&mut rest).unwrap();
        assert_eq!((self.inbox.pending(), &rest[..]), (&[][..], &[][..]), "and nothing else was said");
        farewell
    }
}

fn serving() -> Parent<Farewell> {
    Parent::of(|server| server.serve(false))
}

/// A call in the making.
struct Call {
    head: CallHead,
    items: Vec<u8>,
}

fn call<A, F>(f: F, tag: u16, items: &[A]) -> Call
where
    F: Task<A>,
    F::Output: Serialize,
    A: Serialize + DeserializeOwned + 'static,
{
    let token = Token::of(f).unwrap();
    let head = CallHead {
        offset: token.offset,
        fingerprint: token.fingerprint,
        count: u32::try_from(items.len()).unwrap(),
        tag,
        slot: 3,
        flags: 0,
    };
    Call { head, items: items.iter().flat_map(|item| codec::encode(item).unwrap()).collect() }
}

impl Call {
    fn frame(&self) -> Vec<u8> {
        let mut out = Vec::new();
        frame::push(&mut out, Down::Call as u8, &[&self.head.to_bytes()[..], &self.items].concat());
        out
    }
}

fn down(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::push(&mut out, kind, payload);
    out
}

fn picky(x: u64) -> u64 {
    assert!(x != 13, "{x} is unlucky");
    x + 1
}

fn join_words(number: u32, word: String) -> String {
    format!("{number} {word}")
}

#[test]
fn items_are_answered_in_order_and_then_the_call_ends() {
    within(LONG, || {
        let mut parent = serving();
        parent.offer_and_call(&call(join_words, 7, &[(1, "one".to_owned()), (2, "two".to_owned())]));
        assert_eq!([parent.value::<String>(), parent.value()], ["1 one", "2 two"]);
        assert_eq!(parent.end(), (7, 2));
        parent.offer_and_call(&call(picky, 8, &[]));
        assert_eq!(parent.end(), (8, 0), "a call of nothing");
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn calls_may_wait_in_line() {
    within(LONG, || {
        let mut parent = serving();
        let mut bytes = Vec::new();
        for slot in 0..20 {
            let mut call = call(picky, u16::from(slot), &[(u64::from(slot) + 100,)]);
            call.head.slot = slot;
            parent.page.offer(slot, call.head.tag, 1);
            bytes.extend(call.frame());
        }
        parent.write(&bytes);
        for slot in 0..20 {
            assert_eq!(parent.value::<u64>(), slot + 101);
            assert_eq!(parent.end(), (u16::try_from(slot).unwrap(), 1));
        }
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn a_call_may_be_torn_at_any_byte() {
    within(LONG, || {
        let mut parent = serving();
        let whole = call(join_words, 0, &[(1, "one".to_owned()), (2, "two".to_owned())]).frame().len();
        for cut in 1..whole {
            let tag = u16::try_from(cut).unwrap();
            let call = call(join_words, tag, &[(1, "one".to_owned()), (2, "two".to_owned())]);
            parent.page.offer(call.head.slot, tag, 2);
            let bytes = call.frame();
            parent.write_and_wait(&bytes[..cut]);
            parent.write(&bytes[cut..]);
            assert_eq!([parent.value::<String>(), parent.value()], ["1 one", "2 two"], "cut at {cut}");
            assert_eq!(parent.end(), (tag, 2));
        }
        // And byte by byte.
        let call = call(picky, 999, &[(1,)]);
        parent.page.offer(call.head.slot, 999, 1);
        for byte in call.frame() {
            parent.write(&[byte]);
        }
        assert_eq!((parent.value::<u64>(), parent.end()), (2, (999, 1)));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn what_is_taken_back_before_it_is_sent_is_not_run() {
    within(LONG, || {
        let mut parent = serving();
        let items: Vec<_> = (0..10_u64).map(|x| (x,)).collect();
        let whole = call(picky, 1, &items);
        parent.page.offer(3, 1, 10);
        assert_eq!(parent.page.take_back(3, 1, 10, true), Some(5..10));
        parent.write(&whole.frame());
        for x in 0..5 {
            assert_eq!(parent.value::<u64>(), x + 1);
        }
        assert_eq!(parent.end(), (1, 5));
        // The next use of the slot is not harmed, and an old call in it runs nothing.
        parent.page.offer(3, 2, 10);
        parent.write(&whole.frame());
        assert_eq!(parent.end(), (1, 0), "tag 1 is over");
        parent.write(&call(picky, 2, &items).frame());
        for x in 0..10 {
            assert_eq!(parent.value::<u64>(), x + 1);
        }
        assert_eq!(parent.end(), (2, 10));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn what_is_taken_back_while_an_item_runs_is_not_run() {
    within(LONG, || {
        let (mut parent, gate) = (serving(), Gate::new());
        let items: Vec<_> = (0..10_u32).map(|ticket| (gate.path(), ticket)).collect();
        parent.offer_and_call(&call(stand, 5, &items));
        let first = gate.arrival();
        assert_eq!(parent.page.claim(3).next, 1);
        assert_eq!(parent.page.take_back(3, 5, 10, false), Some(1..10));
        drop(first);
        assert_eq!(parent.value::<u32>(), 0);
        assert_eq!(parent.end(), (5, 1));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn a_finished_outcome_is_in_the_ring_before_it_is_in_the_pipe() {
    within(LONG, || {
        let (mut parent, gate) = (serving(), Gate::new());
        let task = |gate: Option<PathBuf>, ticket: u32| gate.map_or(ticket, |gate| stand(gate, ticket));
        let items = [(None, 10), (None, 11), (Some(gate.path()), 12)];
        parent.offer_and_call(&call(task, 1, &items));
        let held = gate.arrival();
        // Were the worker killed now, two results would be there.
        let mut stream = Vec::new();
        parent.page.get(0, parent.page.committed(), &mut stream);
        let expected: Vec<u8> =
            [10_u32, 11].iter().flat_map(|x| down(Up::Value as u8, &codec::encode(x).unwrap())).collect();
        assert_eq!(stream, expected);
        assert_eq!(parent.page.claim(3).next, 3, "and the third is known to run");
        drop(held);
        assert_eq!([parent.value::<u32>(), parent.value(), parent.value()], [10, 11, 12]);
        assert_eq!(parent.end(), (1, 3));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn who_is_hungry_gets_outcomes_one_by_one() {
    within(LONG, || {
        let (mut parent, gate) = (serving(), Gate::new());
        let items: Vec<_> = (0..3_u32).map(|ticket| (gate.path(), ticket)).collect();
        parent.offer_and_call(&call(stand, 1, &items));
        for ticket in 0..3 {
            let held = gate.arrival();
            if ticket > 0 {
                assert_eq!(parent.value::<u32>(), ticket - 1, "while {held:?} stands");
            }
            parent.page.set_hungry(true);
        }
        assert_eq!((parent.value::<u32>(), parent.end()), (2, (1, 3)));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn an_item_that_cannot_be_decoded_ends_its_call_and_leaves_the_rest() {
    within(LONG, || {
        let mut parent = serving();
        let mut torn = call(|flag: bool| !flag, 4, &[(true,), (false,), (true,), (true,), (false,)]);
        torn.items[2] = 7;
        parent.offer_and_call(&torn);
        assert_eq!([parent.value::<bool>(), parent.value()], [false, true]);
        let reason = parent.text(Up::Undecodable);
        assert!(reason.contains('7'), "{reason}");
        assert_eq!(parent.end(), (4, 3));
        assert_eq!(parent.page.take_back(3, 4, 5, false), Some(3..5), "these are still the parent's");
        // Too few bytes are no different.
        let mut short = call(picky, 5, &[(1,), (2,)]);
        short.items.truncate(12);
        parent.offer_and_call(&short);
        assert_eq!(parent.value::<u64>(), 2);
        parent.text(Up::Undecodable);
        assert_eq!(parent.end(), (5, 2));
        parent.offer_and_call(&call(picky, 6, &[(1,)]));
        assert_eq!((parent.value::<u64>(), parent.end()), (2, (6, 1)), "it serves on");
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn an_item_that_panics_is_told_and_the_next_one_runs() {
    within(LONG, || {
        let mut parent = serving();
        parent.offer_and_call(&call(picky, 1, &[(12,), (13,), (14,)]));
        assert_eq!(parent.value::<u64>(), 13);
        let record = parent.panicked();
        assert_eq!(record.message, "13 is unlucky");
        assert!(record.location.unwrap().starts_with(file!()));
        assert_eq!((parent.value::<u64>(), parent.end()), (15, (1, 3)));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

/// Cannot be encoded when it is odd.
struct Even(u8);

impl Serialize for Even {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            odd if odd % 2 == 1 => Err(serde::ser::Error::custom("odd")),
            even => serializer.serialize_u8(even),
        }
    }
}

#[test]
fn a_result_that_cannot_be_encoded_is_told_and_the_next_one_runs() {
    within(LONG, || {
        let mut parent = serving();
        parent.offer_and_call(&call(|x: u8| vec![Even(0), Even(x)], 1, &[(2,), (3,), (4,)]));
        assert_eq!(parent.value::<Vec<u8>>(), [0, 2]);
        assert_eq!(parent.text(Up::Unencodable), "odd");
        assert_eq!(parent.value::<Vec<u8>>(), [0, 4]);
        assert_eq!(parent.end(), (1, 3));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn results_of_every_size_keep_their_order() {
    within(LONG, || {
        let mut parent = serving();
        let sizes: Vec<(u32,)> =
            [0, 1, 7, 15, 16, 127, 2047, 2048, 32_000, 32_768, 65_536, 1 << 20, 3, 40_000, 0]
                .map(|size| (size,))
                .into();
        let text = |size: u32| "x".repeat(size as usize);
        parent.offer_and_call(&call(text, 1, &sizes));
        for (size,) in &sizes {
            assert_eq!(parent.value::<String>().len(), *size as usize);
        }
        assert_eq!(parent.end(), (1, u32::try_from(sizes.len()).unwrap()));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn a_function_that_is_not_there_is_told_and_nothing_is_run() {
    within(LONG, || {
        let mut parent = serving();
        let good = call(picky, 1, &[(1,), (2,)]);
        let other = Token::of(join_words).unwrap();
        let wrong = [
            CallHead { offset: good.head.offset + 8, ..good.head },
            CallHead { offset: u64::MAX, ..good.head },
            CallHead { offset: 0, ..good.head },
            CallHead { fingerprint: good.head.fingerprint ^ 1, ..good.head },
            CallHead { offset: other.offset, ..good.head },
        ];
        for (tag, head) in (10..).zip(wrong) {
            parent.offer_and_call(&Call { head: CallHead { tag, ..head }, items: good.items.clone() });
            let reason = parent.text(Up::Undecodable);
            assert!(reason.contains("different builds"), "{reason}");
            assert_eq!(parent.end(), (tag, 1));
            assert_eq!(parent.page.take_back(3, tag, 2, false), Some(1..2));
        }
        parent.offer_and_call(&good);
        assert_eq!([parent.value::<u64>(), parent.value()], [2, 3]);
        assert_eq!(parent.end(), (1, 2));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn items_may_be_lent_in_the_pages_file() {
    within(LONG, || {
        let mut parent = serving();
        let whole = call(join_words, 1, &[(1, "x".repeat(1 << 20)), (2, "two".to_owned())]);
        let place = parent.page.lend(0, &whole.items).unwrap();
        let loan = Loan { at: place.start, len: place.end - place.start };
        let head = CallHead { flags: CallHead::LENT, ..whole.head };
        parent.offer_and_call(&Call { head, items: loan.to_bytes().to_vec() });
        assert_eq!(parent.value::<String>().len(), 2 + (1 << 20));
        assert_eq!(parent.value::<String>(), "2 two");
        assert_eq!(parent.end(), (1, 2));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn a_loan_that_is_not_there_is_told_and_nothing_is_run() {
    within(LONG, || {
        let mut parent = serving();
        let whole = call(picky, 1, &[(1,), (2,)]);
        let place = parent.page.lend(0, &whole.items).unwrap();
        let loans = [
            (u64::MAX, u64::MAX),
            (place.start, u64::MAX),
            (place.start, 1 << 46),
            (place.start + 1, 16),
            (1 << 46, 16),
            (place.end.next_multiple_of(4096) + (1 << 20), 4096),
            (place.start, 1 << 20),
            (place.start, 0),
        ];
        let mut calls: Vec<_> = loans.iter().map(|&(at, len)| Loan { at, len }.to_bytes().to_vec()).collect();
        calls.push(b"no loan".to_vec());
        for (tag, items) in (10..).zip(calls) {
            let head = CallHead { flags: CallHead::LENT, tag, ..whole.head };
            parent.offer_and_call(&Call { head, items });
            let reason = parent.text(Up::Undecodable);
            assert!(!reason.is_empty());
            assert_eq!(parent.end(), (tag, 1), "{reason}");
        }
        parent.offer_and_call(&whole);
        assert_eq!([parent.value::<u64>(), parent.value()], [2, 3]);
        assert_eq!(parent.end(), (1, 2));
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn nonsense_ends_the_serving() {
    let mut endless = vec![0xff; 10];
    endless[9] = 0x7f;
    let nonsense: [(&str, Vec<u8>); 6] = [
        ("an unknown kind", down(7, b"?")),
        ("a birth after birth", down(Down::Birth as u8, &[])),
        ("a call without a head", down(Down::Call as u8, &[0; CallHead::SIZE - 1])),
        ("a header without an end", vec![0xff; 64]),
        ("a length over the limit", endless),
        ("text", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in nonsense {
        let farewell = within(LONG, move || {
            let mut parent = serving();
            parent.offer_and_call(&call(picky, 1, &[(1,)]));
            assert_eq!((parent.value::<u64>(), parent.end()), (2, (1, 1)), "what came before is done");
            parent.write(&bytes);
            parent.hang_up();
            parent.farewell()
        });
        // Bytes that look like the beginning of a frame wait for its end, which is that of the pipe.
        let torn = what == "text";
        assert!(farewell == Farewell::Refused || torn && farewell == Farewell::Done, "{what}: {farewell:?}");
    }
}

#[test]
fn the_end_of_the_calls_ends_the_serving_even_in_the_middle_of_one() {
    for keep in [0, 1, 20, 33] {
        within(LONG, move || {
            let mut parent = serving();
            let call = call(picky, 1, &[(1,), (2,)]);
            parent.page.offer(3, 1, 2);
            parent.write(&call.frame()[..keep]);
            parent.hang_up();
            assert_eq!(parent.farewell(), Farewell::Done);
        });
    }
}

#[test]
fn retire_ends_the_serving_after_what_came_before_it() {
    within(LONG, || {
        let mut parent = serving();
        let (before, after) = (call(picky, 1, &[(1,)]), call(picky, 2, &[(2,)]));
        parent.page.offer(3, 1, 1);
        parent.write(&[before.frame(), down(Down::Retire as u8, &[]), after.frame()].concat());
        assert_eq!((parent.value::<u64>(), parent.end()), (2, (1, 1)));
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn a_worker_that_lives_once_leaves_its_outcome_in_the_ring() {
    for (x, expected) in [(1, Farewell::Done), (13, Farewell::Panicked)] {
        within(LONG, move || {
            let mut parent = Parent::of(|server| server.serve(true));
            parent.offer_and_call(&call(picky, 1, &[(x,)]));
            let mut page = Inbox::default();
            until("it is done", || parent.server.is_finished());
            parent.page.get(0, parent.page.committed(), page.fill().0);
            assert_eq!(parent.farewell(), expected);
            let first = page.next().unwrap().unwrap();
            let kind = if x == 13 { Up::Panicked } else { Up::Value };
            assert_eq!(first.kind, kind as u8);
            assert_eq!(page.next().unwrap().unwrap().kind, Up::End as u8);
            assert!(page.next().unwrap().is_none());
        });
    }
}

fn some_birth() -> Birth {
    Birth {
        protocol: PROTOCOL,
        image: image::id(),
        name: "Process-1:2".into(),
        path: vec![1, 2],
        parent_name: "MainProcess".into(),
        current_dir: Some(b"/".to_vec()),
        once: true,
    }
}

#[test]
fn the_first_message_is_a_birth_or_nothing() {
    let birth = down(Down::Birth as u8, &codec::encode(&some_birth()).unwrap());
    let cases = [
        (birth.clone(), true),
        (birth[..birth.len() - 1].to_vec(), false),
        (Vec::new(), false),
        (down(Down::Retire as u8, &[]), false),
        (down(Down::Birth as u8, b"too short"), false),
        (vec![0xff; 20], false),
    ];
    for (bytes, is_birth) in cases {
        let told = within(LONG, move || {
            let mut parent = Parent::of(Server::birth);
            parent.write(&bytes);
            parent.hang_up();
            parent.farewell()
        });
        assert_eq!(told, is_birth.then(some_birth));
    }
}

#[test]
fn hello_is_the_first_word_and_the_page_knows_it() {
    within(LONG, || {
        let mut parent = Parent::of(|server| {
            server.hello(false);
            server.serve(false)
        });
        let (kind, payload) = parent.frame();
        assert_eq!(kind, Up::Hello);
        let hello: Hello = codec::decode(&payload).unwrap();
        assert_eq!(hello, Hello { protocol: PROTOCOL, image: image::id() });
        assert_eq!(parent.page.stage(), Stage::Born);
        parent.hang_up();
        assert_eq!(parent.farewell(), Farewell::Done);
    });
}

#[test]
fn a_refusal_comes_up_whole() {
    let refusal =
        Refusal { stage: "changing directory".into(), errno: Some(2), text: "no such place".into() };
    let told = refusal.clone();
    within(LONG, move || {
        let mut parent = Parent::of(move |server| server.refuse(&told));
        let (kind, payload) = parent.frame();
        assert_eq!(kind, Up::Refused);
        assert_eq!(codec::decode::<Refusal>(&payload).unwrap(), refusal);
        parent.farewell();
    });
}
