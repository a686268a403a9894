//! What the copies print, on its way out: a thread of its own, since whoever reads it may be slow.

use super::core::Word;
use super::lines::{Lines, Pen};
use super::log::{Log, LogDir, Trouble};
use super::stamp::stamp;
use crate::sys::poller::{Interest, Poller};
use crate::sys::wait;
use procession_worker::sys::fd;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, PipeReader, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Does this line say that the copy is ready?
pub(super) type Pattern = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;
/// Hears what copies print, as it comes; first, once, that from here on it misses nothing. False when it wants no more.
pub(crate) type Listener = Box<dyn FnMut(Option<(u32, &[u8])>) -> bool + Send>;

/// How it is to be passed on.
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) tag: Option<String>,
    /// On this process's own streams?
    pub(super) show: bool,
    pub(super) logs: Option<LogDir>,
    pub(super) ready: Option<Pattern>,
    pub(super) listeners: Vec<Listener>,
    /// So many bytes a run may print, out and err together.
    pub(super) most: Option<u64>,
    pub(super) timestamps: bool,
    pub(super) form: Option<Form>,
}

/// Makes something else of what a copy has printed: of all, which one, on stderr?
pub(crate) type Form = Box<dyn Fn(&str, u32, bool, &[u8]) -> Vec<u8> + Send>;

/// Colours of tags that can be told from each other on light and dark.
const COLORS: [&str; 6] = ["36", "33", "32", "35", "34", "31"];

enum Order {
    /// Whose, of which run, out or err.
    Add {
        id: u32,
        run: u64,
        err: bool,
        pipe: PipeReader,
    },
    /// It has ended: what lies in its pipes is the last.
    Finish {
        id: u32,
        run: u64,
    },
    Listen(Listener),
    Reopen,
    Flush,
    End,
}

struct Shared {
    poller: Poller,
    orders: Mutex<Vec<Order>>,
}

/// The near end of that thread.
pub(super) struct Outlet {
    shared: Arc<Shared>,
}

impl Outlet {
    pub(super) fn start(mut settings: Settings, words: Sender<Word>) -> io::Result<Self> {
        let own = |fd: io::Result<_>| fd.map(File::from);
        let streams = [
            own(io::stdout().as_fd().try_clone_to_owned())?,
            own(io::stderr().as_fd().try_clone_to_owned())?,
        ];
        let shared = Arc::new(Shared { poller: Poller::new()?, orders: Mutex::default() });
        let desk = Desk {
            shared: Arc::clone(&shared),
            listeners: std::mem::take(&mut settings.listeners),
            settings,
            words,
            sources: HashMap::new(),
            last: 0,
            counts: HashMap::new(),
            streams,
            open: [true; 2],
            pens: Default::default(),
            logs: BTreeMap::new(),
            buffer: Vec::new(),
            got: 0,
        };
        let thread = std::thread::Builder::new().name("procession-out".into()).stack_size(256 * 1024);
        wait::with_signals_blocked(|| thread.spawn(move || desk.run()))?;
        Ok(Self { shared })
    }

    fn order(&self, order: Order) {
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        self.shared.poller.wake();
    }

    pub(super) fn add(&self, id: u32, run: u64, err: bool, pipe: PipeReader) {
        self.order(Order::Add { id, run, err, pipe });
    }

    /// Where what a run prints is limited, `Word::Drained` comes when all of it is known.
    pub(super) fn finish(&self, id: u32, run: u64) {
        self.order(Order::Finish { id, run });
    }

    pub(super) fn listen(&self, listener: Listener) {
        self.order(Order::Listen(listener));
    }

    pub(super) fn reopen(&self) {
        self.order(Order::Reopen);
    }

    /// `Word::Flushed` comes when all that was ordered so far is done.
    pub(super) fn flush(&self) {
        self.order(Order::Flush);
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.order(Order::End);
    }
}

struct Source {
    id: u32,
    run: u64,
    err: bool,
    pipe: PipeReader,
    lines: Lines,
    tag: Vec<u8>,
    is_ready: bool,
}

/// The far end.
struct Desk {
    shared: Arc<Shared>,
    settings: Settings,
    words: Sender<Word>,
    sources: HashMap<u64, Source>,
    last: u64,
    /// What each run has printed, where that is limited.
    counts: HashMap<u64, u64>,
    streams: [File; 2],
    open: [bool; 2],
    /// Each knows nothing of the other: they may be two files.
    pens: [Pen; 2],
    logs: BTreeMap<u32, Log>,
    listeners: Vec<Listener>,
    buffer: Vec<u8>,
    /// So much came at the last reading.
    got: usize,
}

/// At most so much is read of one before the others have their turn.
const PART: usize = 64 * 1024;

impl Desk {
    fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            let orders =
                std::mem::take(&mut *self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner));
            for order in orders {
                match order {
                    Order::Add { id, run, err, pipe } => self.add(id, run, err, pipe),
                    Order::Finish { id, run } => self.finish(id, run),
                    Order::Listen(mut listener) => {
                        if listener(None) {
                            self.listeners.push(listener);
                        }
                    }
                    Order::Reopen => self.logs.values_mut().for_each(Log::reopen),
                    Order::Flush => drop(self.words.send(Word::Flushed)),
                    Order::End => return,
                }
            }
            self.shared.poller.wait(None, &mut ready);
            for key in ready.drain(..) {
                if !self.read(key) {
                    self.close(key);
                }
            }
        }
    }

    fn add(&mut self, id: u32, run: u64, err: bool, pipe: PipeReader) {
        self.last += 1;
        let key = self.last;
        let _ = fd::set_nonblocking(&pipe);
        if self.shared.poller.add(&pipe, Interest::Read, key).is_err() {
            return;
        }
        let tag = self
            .settings
            .tag
            .as_ref()
            .map(|tag| tag.replace("{name}", &self.settings.name).replace("{id}", &id.to_string()))
            .map(|tag| tag.replace("{color}", &format!("\x1b[{}m", COLORS[id as usize % COLORS.len()])));
        let tag = tag.unwrap_or_default().into_bytes();
        self.sources
            .insert(key, Source { id, run, err, pipe, lines: Lines::default(), tag, is_ready: false });
    }

    /// Reads a part; false when there is no more and never will be.
    fn read(&mut self, key: u64) -> bool {
        let Some(mut source) = self.sources.remove(&key) else { return true };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let read = fd::read(&source.pipe, &mut buffer, PART);
        self.got = buffer.len();
        let goes_on = match read {
            Ok(0) => false,
            Ok(_) => {
                self.count(&source, &mut buffer);
                // Alone it need not wait for the end of a line.
                let alone = source.tag.is_empty()
                    && !self.settings.timestamps
                    && self.settings.form.is_none()
                    && self.settings.ready.is_none()
                    && self.sources.values().all(|other| other.id == source.id);
                let mut lines = std::mem::take(&mut source.lines);
                lines.push(&buffer, alone, |text| self.pass(key, &mut source, text));
                source.lines = lines;
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        self.buffer = buffer;
        self.sources.insert(key, source);
        goes_on
    }

    /// Takes away what is more than may be printed, and tells of it once.
    fn count(&mut self, source: &Source, buffer: &mut Vec<u8>) {
        let Some(most) = self.settings.most else { return };
        let count = self.counts.entry(source.run).or_default();
        let (before, room) = (*count, most.saturating_sub(*count));
        *count = count.saturating_add(buffer.len() as u64);
        buffer.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        if before <= most && *count > most {
            let _ = self.words.send(Word::Over { id: source.id, run: source.run });
        }
    }

    fn pass(&mut self, key: u64, source: &mut Source, text: &[u8]) {
        if let Some(ready) = &self.settings.ready
            && !source.is_ready
            && text.split(|&b| b == b'\n').any(|line| ready(line))
        {
            source.is_ready = true;
            let _ = self.words.send(Word::Ready { id: source.id, run: source.run });
        }
        self.listeners.retain_mut(|listener| listener(Some((source.id, text))));
        if let Some(logs) = &self.settings.logs {
            let log = self
                .logs
                .entry(source.id)
                .or_insert_with(|| Log::new(logs.clone(), &self.settings.name, source.id));
            if let Some(trouble) = log.write(text) {
                let text = match trouble {
                    Trouble::Full(text) => text,
                    Trouble::Over(lost) => format!(
                        "{}:{}: its log has room again; {lost} bytes were lost",
                        self.settings.name, source.id
                    ),
                };
                let _ = self.words.send(Word::Warn(text));
            }
        }
        if self.settings.show {
            self.show(key, source, text);
        }
    }

    fn show(&mut self, key: u64, source: &Source, text: &[u8]) {
        // In another form all is told in one place.
        let stream = usize::from(source.err && self.settings.form.is_none());
        if !self.open[stream] {
            return;
        }
        let mut out = Vec::with_capacity(text.len() + source.tag.len());
        match &self.settings.form {
            Some(form) => out = form(&self.settings.name, source.id, source.err, text),
            None if self.settings.timestamps => {
                let tag = [stamp(SystemTime::now()).as_bytes(), b" ", &source.tag].concat();
                self.pens[stream].write(key, &tag, text, &mut out);
            }
            None => self.pens[stream].write(key, &source.tag, text, &mut out),
        }
        if let Err(error) = write_all(&self.streams[stream], &out) {
            self.open[stream] = false;
            let _ = self.words.send(Word::Unheard {
                err: stream == 1,
                kind: error.kind(),
                why: error.to_string(),
            });
        }
    }

    /// Takes what lies in its pipes, and never waits for their end: somebody else may hold them.
    fn finish(&mut self, id: u32, run: u64) {
        let mut keys: Vec<u64> =
            self.sources.iter().filter(|(_, source)| source.run == run).map(|(&key, _)| key).collect();
        keys.sort_unstable();
        for key in keys {
            // A pipe holds a megabyte at most; whoever still writes there is not of this run any more.
            let mut left =
                self.sources.get(&key).and_then(|source| fd::unread(&source.pipe).ok()).unwrap_or(0);
            while left > 0 && self.read(key) {
                left = left.saturating_sub(self.got.max(1));
            }
            self.close(key);
        }
        if let Some(most) = self.settings.most {
            let over = self.counts.remove(&run).is_some_and(|count| count > most);
            let _ = self.words.send(Word::Drained { id, run, over });
        }
    }

    fn close(&mut self, key: u64) {
        let Some(mut source) = self.sources.remove(&key) else { return };
        self.shared.poller.remove(&source.pipe);
        let mut lines = std::mem::take(&mut source.lines);
        lines.end(|text| self.pass(key, &mut source, text));
    }
}

/// Writes all of it, even to a stream that was made not to wait.
fn write_all(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => fd::wait_writable(file)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
