//! Descriptors and ends as values.

use crate::support::robust;
use crate::{LIMIT, MOMENT};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procession::{
    Client, Connection, Handle, Listener, Process, Receiver, RecvError, SendErrorKind, Sender, duplex, pipe,
};
use serde::{Deserialize, Serialize, Serializer};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

#[derive(Serialize, Deserialize)]
struct All {
    #[serde(with = "procession::handle")]
    file: File,
    any: Option<Handle<OwnedFd>>,
    sockets: (Handle<UnixStream>, Handle<TcpListener>, Handle<TcpStream>, Handle<UdpSocket>),
    pipes: Vec<(String, Handle<PipeReader>, Handle<PipeWriter>)>,
}

#[test]
fn all_that_stands_on_a_descriptor_travels() {
    robust(LIMIT, || {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a file").unwrap();
        file.rewind().unwrap();
        let (unix, mut unix_other) = UnixStream::pair().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp_address = udp.local_addr().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let all = All {
            file,
            any: Some(OwnedFd::from(File::open("/dev/null").unwrap()).into()),
            sockets: (unix.into(), tcp.into(), stream.into(), udp.into()),
            pipes: vec![("pipe".into(), reader.into(), writer.into())],
        };
        let (sender, receiver) = pipe().unwrap();
        sender.send(all).unwrap();
        let mut all: All = receiver.recv().unwrap().unwrap();
        let mut text = String::new();
        all.file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a file");
        assert!(all.any.is_some());
        all.sockets.0.write_all(b"unix").unwrap();
        drop(all.sockets.0);
        text.clear();
        unix_other.read_to_string(&mut text).unwrap();
        assert_eq!(text, "unix", "and no other copy is open");
        let (mut accepted, _) = all.sockets.1.accept().unwrap();
        all.sockets.2.write_all(b"tcp").unwrap();
        drop(all.sockets.2);
        text.clear();
        accepted.read_to_string(&mut text).unwrap();
        assert_eq!(text, "tcp");
        assert_eq!(all.sockets.3.local_addr().unwrap(), udp_address);
        let (name, mut reader, mut writer) = all.pipes.pop().unwrap();
        writer.write_all(name.as_bytes()).unwrap();
        drop(writer);
        text.clear();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "pipe");
    });
}

#[test]
fn ends_travel_and_leave_nothing_behind() {
    robust(LIMIT, || {
        type Post = (Sender<String>, Vec<Receiver<u32>>, Connection<u8, u16>);
        let (post, mail) = pipe::<Post>().unwrap();
        let (words, words_out) = pipe().unwrap();
        let (numbers, numbers_out) = pipe().unwrap();
        let (here, there) = duplex::<u16, u8>().unwrap();
        post.send((words, vec![numbers_out], there)).unwrap();
        let (words, mut numbers_out, there) = mail.recv().unwrap().unwrap();
        words.send("word".into()).unwrap();
        numbers.send(5).unwrap();
        here.send(500).unwrap();
        there.send(3).unwrap();
        assert_eq!(words_out.recv().unwrap().as_deref(), Some("word"));
        assert_eq!(numbers_out[0].recv().unwrap(), Some(5));
        assert_eq!((there.recv().unwrap(), here.recv().unwrap()), (Some(500), Some(3)));
        drop((words, there));
        assert_eq!((words_out.recv().unwrap(), here.recv().unwrap()), (None, None));
        numbers_out.clear();
        assert_eq!(numbers.send(1).unwrap_err().kind, SendErrorKind::Closed);
        // One that nobody has received closes with its message.
        let (words, words_out) = pipe::<String>().unwrap();
        let (_spare, numbers_out) = pipe().unwrap();
        post.send((words, vec![numbers_out], duplex().unwrap().0)).unwrap();
        assert_eq!(words_out.recv_timeout(MOMENT), Err(RecvError::Empty));
        drop((post, mail));
        assert_eq!(words_out.recv().unwrap(), None);
    });
}

#[test]
fn a_thousand_descriptors_in_one_message() {
    robust(LIMIT, || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let (sender, receiver) = pipe::<(Vec<Handle<File>>, Vec<u8>)>().unwrap();
        for (count, len) in [(252, 0), (253, 10), (254, 10), (1000, 10), (1000, 200_000), (300, 0)] {
            let handles = (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect();
            thread::scope(|scope| {
                let sending = scope.spawn(|| sender.send((handles, vec![3; len])));
                let (files, bytes) = receiver.recv().unwrap().unwrap();
                assert_eq!((files.len(), bytes.len()), (count, len));
                assert!(files.iter().all(|file| file.metadata().is_ok()));
                sending.join().unwrap().unwrap();
            });
        }
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    });
}

struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not today"))
    }
}

#[test]
fn what_cannot_be_encoded_leaves_nothing_behind_and_the_value_as_it_was() {
    robust(LIMIT, || {
        let (sender, receiver) = pipe::<(Handle<File>, Option<Refuses>)>().unwrap();
        let file = || Handle(File::open("/dev/null").unwrap());
        let error = sender.send((file(), Some(Refuses))).unwrap_err();
        assert_eq!(error.kind, SendErrorKind::Encode("not today".into()));
        assert!(error.value.0.metadata().is_ok());
        assert_eq!(receiver.recv_bytes_timeout(MOMENT), Err(RecvError::Empty));
        sender.send((file(), None)).unwrap();
        assert_eq!(receiver.recv_bytes().unwrap().unwrap(), [0]);
    });
}

/// Receives three messages with no room for a file, then with room.
fn in_want(name: String) -> Vec<String> {
    let line: Connection<u8, Vec<Handle<File>>> = Client::connect(name).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // All numbers below it are taken; some may go beyond.
    let mut taken = Vec::new();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    line.send(1).unwrap();
    let mut told: Vec<_> = (0..2).map(|_| line.recv().unwrap_err()).collect();
    // Room for some of them.
    taken.truncate(taken.len() - 3);
    told.push(line.recv().unwrap_err());
    let one = line.recv().unwrap().unwrap().len();
    drop(taken);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let all = line.recv().unwrap().unwrap().len();
    let mut told: Vec<_> = told.into_iter().map(|error| format!("{error:?}")).collect();
    told.push(format!("{one} {all}"));
    told
}

#[test]
fn a_receiver_without_room_loses_one_message_and_no_more() {
    robust(LIMIT, || {
        let name = format!("@procession-test-want-{}", std::process::id());
        let listener = Listener::bind(&name).unwrap();
        let child = Process::new(in_want, (name,)).start().unwrap();
        let line: Connection<Vec<Handle<File>>, u8> = listener.accept().unwrap();
        let files = |count| (0..count).map(|_| Handle(File::open("/dev/null").unwrap())).collect::<Vec<_>>();
        assert_eq!(line.recv().unwrap(), Some(1));
        line.send(files(1)).unwrap();
        // It is too much for a packet, and so its sender waits for it to be taken.
        assert_eq!(line.send(files(300)).unwrap_err().kind, SendErrorKind::Refused);
        line.send(files(10)).unwrap();
        line.send(files(1)).unwrap();
        line.send(files(10)).unwrap();
        let told = child.join().unwrap();
        for told in &told[..3] {
            assert!(told.contains("did not arrive") && told.contains("ulimit -n"), "{told}");
        }
        assert_eq!(told[3], "1 10");
    });
}

#[test]
fn a_handle_goes_only_where_descriptors_go() {
    robust(LIMIT, || {
        let file = Handle(File::open("/dev/null").unwrap());
        let error = procession_worker::wire::codec::encode(&file).unwrap_err();
        assert!(error.to_string().contains("can only travel as"), "{error}");
    });
}
