//! What a connection costs: a message there and back, messages one way, large ones, and getting one by name.
//!
//! `cargo bench --bench connection -- u64` runs the rows whose names contain `u64`; `--quick` takes fewer rounds.

mod support;

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/opposite.rs"]
mod opposite;
#[path = "support/peer.rs"]
mod peer;

use cpu::{allowed, confined, move_to};
use opposite::{LARGE, LARGE_ONES, bare_add_one, bare_pair, bare_pour, bare_swallow, opposite};
use peer::part;
use procession::{Bytes, Client, Connection, Handle, Listener, Process, duplex};
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use support::{Bench, Outcome, Row, expect, per_call, timed};

/// The parts that measure on one processor, or with the other end on another one.
const ONE_CPU: &str = "one-cpu";
const TWO_CPUS: &str = "two-cpus";
const STREAM: &str = "stream";

const ROWS: [Row; 6] = [
    ("connection_u64_one_cpu", |bench| confined(bench, "connection_u64_one_cpu", ONE_CPU)),
    ("connection_u64_two_cpus", |bench| confined(bench, "connection_u64_two_cpus", TWO_CPUS)),
    ("connection_stream_u64", |bench| confined(bench, "connection_stream_u64", STREAM)),
    ("connection_1mib", connection_1mib),
    ("connection_1mib_value", connection_1mib_value),
    ("connection_handshake", connection_handshake),
];

fn main() -> Outcome {
    let Some(bench) = Bench::from_args() else { return Ok(()) };
    let Some(part) = part() else { return bench.run(&ROWS) };
    let (here, there) = allowed()?;
    move_to(here, std::process::id())?;
    match part.as_str() {
        ONE_CPU => round_trips(&bench, "connection_u64_one_cpu", here),
        TWO_CPUS => round_trips(&bench, "connection_u64_two_cpus", there),
        STREAM => stream(&bench, there),
        _ => Err("an unknown part".into()),
    }
}

// ---- there and back -----------------------------------------------------------------------------------------------

const CALLS: u32 = 500;
const ROUNDS: usize = 101;

fn add_one(line: Connection<u64, u64>) {
    while let Ok(Some(number)) = line.recv() {
        if line.send(number + 1).is_err() {
            return;
        }
    }
}

fn round_trips(bench: &Bench, name: &str, cpu: u32) -> Outcome {
    let (here, there) = duplex::<u64, u64>()?;
    let _ours = opposite(Process::new(add_one, (there,)), cpu)?;
    let (mut bare, there) = bare_pair()?;
    let _bare = opposite(Process::new(bare_add_one, (there,)), cpu)?;
    bench.compare(
        name,
        ROUNDS,
        || {
            per_call(CALLS, |x| {
                here.send(x)?;
                expect(here.recv()?, Some(x + 1))
            })
        },
        || {
            per_call(CALLS, |x| {
                bare.write_all(&x.to_ne_bytes())?;
                let mut answer = [0; 8];
                bare.read_exact(&mut answer)?;
                expect(u64::from_ne_bytes(answer), x + 1)
            })
        },
    )
}

// ---- one way ------------------------------------------------------------------------------------------------------

const ITEMS: u64 = 20_000;

fn pour(line: Connection<u64, u64>) {
    while let Ok(Some(count)) = line.recv() {
        if !(0..count).all(|n| line.send(n).is_ok()) {
            return;
        }
    }
}

fn stream(bench: &Bench, cpu: u32) -> Outcome {
    let (here, there) = duplex::<u64, u64>()?;
    let _ours = opposite(Process::new(pour, (there,)), cpu)?;
    let (mut bare, there) = bare_pair()?;
    let _bare = opposite(Process::new(bare_pour, (there,)), cpu)?;
    let each = |all: f64| all / ITEMS as f64;
    bench.compare(
        "connection_stream_u64",
        41,
        || {
            let all = timed(|| {
                here.send(ITEMS)?;
                (0..ITEMS).try_for_each(|n| expect(here.recv()?, Some(n)))
            });
            all.map(each)
        },
        || {
            let all = timed(|| {
                bare.write_all(&ITEMS.to_ne_bytes())?;
                (0..ITEMS).try_for_each(|n| {
                    let mut item = [0; 8];
                    bare.read_exact(&mut item)?;
                    expect(u64::from_ne_bytes(item), n)
                })
            });
            all.map(each)
        },
    )
}

// ---- large --------------------------------------------------------------------------------------------------------

fn swallow(line: Connection<u8, Bytes>, values: bool) {
    loop {
        for _ in 0..LARGE_ONES {
            let len = match values {
                true => line.recv().ok().flatten().map(|bytes| bytes.len()),
                false => line.recv_bytes().ok().flatten().map(|bytes| bytes.len()),
            };
            if len != Some(LARGE) {
                return;
            }
        }
        if line.send(1).is_err() {
            return;
        }
    }
}

/// Sends what `send` sends, against the bare pipe.
fn large(
    bench: &Bench,
    name: &str,
    values: bool,
    send: impl Fn(&Connection<Bytes, u8>) -> Outcome,
) -> Outcome {
    let (here, there) = duplex::<Bytes, u8>()?;
    let _ours = Process::new(swallow, (there, values)).start()?;
    let (input, mut to) = std::io::pipe()?;
    let (mut from, output) = std::io::pipe()?;
    let _bare = Process::new(bare_swallow, (Handle(input), Handle(output))).start()?;
    let bytes = vec![7; LARGE];
    let each = |all: f64| all / f64::from(LARGE_ONES);
    bench.compare(
        name,
        21,
        || {
            let all = timed(|| {
                (0..LARGE_ONES).try_for_each(|_| send(&here))?;
                expect(here.recv()?, Some(1))
            });
            all.map(each)
        },
        || {
            let all = timed(|| {
                (0..LARGE_ONES).try_for_each(|_| to.write_all(&bytes))?;
                Ok(from.read_exact(&mut [0])?)
            });
            all.map(each)
        },
    )
}

fn connection_1mib(bench: &Bench) -> Outcome {
    let bytes = vec![7; LARGE];
    large(bench, "connection_1mib", false, |line| Ok(line.send_bytes(&bytes)?))
}

/// As a value that is made, encoded, decoded and dropped.
fn connection_1mib_value(bench: &Bench) -> Outcome {
    large(bench, "connection_1mib_value", true, |line| Ok(line.send(Bytes::from(vec![7; LARGE]))?))
}

// ---- by name ------------------------------------------------------------------------------------------------------

const CONNECTIONS: u32 = 100;
const KEY: &[u8] = b"benchmark";

/// With a key, against a bare connect, accept, and one byte.
fn connection_handshake(bench: &Bench) -> Outcome {
    let name = format!("@procession-bench-handshake-{}", std::process::id());
    let listener = Listener::builder().key(KEY).bind(&name)?;
    let address = SocketAddr::from_abstract_name(format!("{}-bare", &name[1..]))?;
    let bare = UnixListener::bind_addr(&address)?;
    std::thread::scope(|scope| {
        let bare = &bare;
        scope.spawn(|| {
            // Until one says that it was the last.
            while let Ok(line) = listener.accept::<u8, bool>() {
                if line.recv() != Ok(Some(true)) {
                    return;
                }
            }
        });
        scope.spawn(|| {
            while let Ok((mut stream, _)) = bare.accept() {
                let mut last = [0];
                if stream.read_exact(&mut last).is_err() || last != [1] {
                    return;
                }
            }
        });
        let ours = |go_on: bool| -> Outcome {
            Ok(Client::builder().key(KEY).connect::<bool, u8>(&name)?.send(go_on)?)
        };
        let theirs =
            |go_on: bool| -> Outcome { Ok(UnixStream::connect_addr(&address)?.write_all(&[go_on.into()])?) };
        let done = bench.compare(
            "connection_handshake",
            41,
            || per_call(CONNECTIONS, |_| ours(true)),
            || per_call(CONNECTIONS, |_| theirs(true)),
        );
        ours(false)?;
        theirs(false)?;
        done
    })
}
