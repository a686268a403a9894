//! Tasks on their way in: read by a thread of their own, no further ahead than the engine can make use of.

use super::inbox::{Event, Inbox};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A task: its bytes; or nothing, for a number that is to be passed over.
pub(crate) type Item = Option<Box<[u8]>>;

/// Read ahead at most: so many tasks, so many bytes.
const MOST: usize = 4096;
const MOST_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
struct Load {
    tasks: VecDeque<Item>,
    bytes: usize,
    end: Option<io::Result<()>>,
    /// The engine wants to be told of the next one.
    hungry: bool,
    /// Nobody wants more.
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Hopper {
    load: Mutex<Load>,
    room: Condvar,
}

impl Hopper {
    /// Begins to read.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn open(
        tasks: impl Iterator<Item = io::Result<Item>> + Send + 'static,
        inbox: Arc<Inbox>,
    ) -> io::Result<Arc<Self>> {
        let load = Mutex::new(Load { hungry: true, ..Load::default() });
        let hopper = Arc::new(Self { load, room: Condvar::new() });
        let mine = Arc::clone(&hopper);
        std::thread::Builder::new().name("procession-in".into()).spawn(move || mine.read(tasks, &inbox))?;
        Ok(hopper)
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, tasks: impl Iterator<Item = io::Result<Item>>, inbox: &Inbox) {
        let mut end = Ok(());
        for task in tasks {
            let task = match task {
                Ok(task) => task,
                Err(error) => {
                    end = Err(error);
                    break;
                }
            };
            let mut load = self.load();
            while !load.closed && (load.tasks.len() >= MOST || load.bytes >= MOST_BYTES) {
                load = self.room.wait(load).unwrap_or_else(PoisonError::into_inner);
            }
            if load.closed {
                return;
            }
            load.bytes += task.as_ref().map_or(0, |task| task.len());
            load.tasks.push_back(task);
            Self::tell(load, inbox);
        }
        let mut load = self.load();
        load.end = Some(end);
        load.hungry = true;
        Self::tell(load, inbox);
    }

    fn tell(mut load: MutexGuard<'_, Load>, inbox: &Inbox) {
        if std::mem::take(&mut load.hungry) {
            drop(load);
            inbox.push(Event::Tasks);
        }
    }

    /// Takes up to so many tasks; the end, once, when there are no more.
    pub(crate) fn take(&self, most: usize, mut each: impl FnMut(Item)) -> Option<io::Result<()>> {
        let mut load = self.load();
        for task in (0..most).map_while(|_| load.tasks.pop_front()).collect::<Vec<_>>() {
            load.bytes -= task.as_ref().map_or(0, |task| task.len());
            each(task);
        }
        let end = if load.tasks.is_empty() { load.end.take() } else { None };
        load.hungry = load.tasks.is_empty() && most > 0;
        drop(load);
        self.room.notify_one();
        end
    }

    /// Nobody wants more; whoever reads stops with the next task.
    pub(crate) fn close(&self) {
        self.load().closed = true;
        self.room.notify_one();
    }
}
