//! The input of a job: items encoded once, lent to whoever runs them, and freed when they are resolved.

use super::sink::Sink;
use crate::error::{Codec, Half, TaskError};
use crate::process::call::Parcel;
use procession_worker::ipc::handoff::{self, Handle};
use procession_worker::task::Token;
use procession_worker::wire::codec;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Items are encoded in portions of about so many bytes; a chunk never spans two.
const PORTION: usize = 256 * 1024;
/// The first portion is small, so that workers start while the rest is being encoded.
const FIRST_PORTION: usize = 4 * 1024;
/// A caller that feeds a job stops encoding while so many bytes of it are not resolved.
pub(crate) const HELD: usize = 64 << 20;

/// Items next to each other, encoded one behind the other.
#[derive(Debug)]
struct Portion {
    first: u64,
    /// Where each item ends; empty for one item alone.
    ends: Vec<u32>,
    bytes: Arc<Vec<u8>>,
    handles: BTreeMap<u64, Vec<Handle>>,
    unresolved: u64,
}

impl Portion {
    fn len(&self) -> u64 {
        self.ends.len().max(1) as u64
    }

    fn slice(&self, items: &Range<u64>) -> Range<usize> {
        let end_of = |item: u64| match (item.checked_sub(self.first), self.ends.is_empty()) {
            (None | Some(0), _) => 0,
            (Some(_), true) => self.bytes.len(),
            (Some(n), false) if n == self.ends.len() as u64 => self.bytes.len(),
            (Some(n), false) => self.ends[n as usize - 1] as usize,
        };
        end_of(items.start)..end_of(items.end)
    }
}

/// One job, as the shell knows it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) token: Token,
    pub(crate) sink: Arc<Sink>,
    /// Its caller waits for the next outcome, whichever that is.
    pub(crate) hurried: bool,
    portions: VecDeque<Portion>,
    held: usize,
}

impl Job {
    pub(crate) fn new(token: Token, sink: Arc<Sink>) -> Self {
        Self { token, sink, hurried: false, portions: VecDeque::new(), held: 0 }
    }

    /// Takes more input; its items follow those before.
    pub(crate) fn add(&mut self, batch: Input) -> Range<u64> {
        let first = batch.first;
        let ends = if batch.ends.len() > 1 { batch.ends } else { Vec::new() };
        let portion = Portion {
            first,
            unresolved: ends.len().max(1) as u64,
            ends,
            bytes: Arc::new(batch.bytes),
            handles: batch.handles,
        };
        let items = first..first + portion.len();
        self.held += portion.bytes.len();
        self.portions.push_back(portion);
        items
    }

    /// The bytes of items that lie in one portion, and what comes with them.
    pub(crate) fn lend(&self, items: &Range<u64>) -> Option<Parcel> {
        let at = self.portions.partition_point(|portion| portion.first + portion.len() <= items.start);
        let portion = self.portions.get(at)?;
        let handles =
            portion.handles.range(items.clone()).flat_map(|(_, handles)| handles).cloned().collect();
        Some(Parcel { bytes: Arc::clone(&portion.bytes) as _, range: portion.slice(items), handles })
    }

    /// Frees what nobody will ask for again.
    pub(crate) fn resolved(&mut self, items: &Range<u64>) {
        let mut at = self.portions.partition_point(|portion| portion.first + portion.len() <= items.start);
        let mut left = items.end - items.start;
        while let Some(portion) = self.portions.get_mut(at).filter(|_| left > 0) {
            // Whoever counts holders of what came with an item is not to wait for its neighbours.
            portion.handles.retain(|item, _| !items.contains(item));
            let here = left.min(portion.unresolved);
            portion.unresolved -= here;
            left -= here;
            at += 1;
        }
        while let Some(portion) = self.portions.pop_front_if(|portion| portion.unresolved == 0) {
            self.held -= portion.bytes.len();
        }
    }

    /// How many bytes of input are held.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }
}

/// Items being encoded, before they are handed over.
#[derive(Debug, Default)]
pub(crate) struct Input {
    first: u64,
    ends: Vec<u32>,
    bytes: Vec<u8>,
    /// By item.
    handles: BTreeMap<u64, Vec<Handle>>,
}

impl Input {
    /// One item.
    pub(crate) fn one<T: Serialize>(item: &T) -> Result<Self, TaskError> {
        let mut input = Self::default();
        input.push(item)?;
        Ok(input)
    }

    /// Encodes one more.
    pub(crate) fn push<T: Serialize>(&mut self, item: &T) -> Result<(), TaskError> {
        let bytes = &mut self.bytes;
        let (encoded, handles) = handoff::pack_for::<T, _>(|| codec::encode_into(item, bytes));
        encoded.map_err(|error| TaskError::Encode(Codec::new(Half::Arguments, error)))?;
        if !handles.is_empty() {
            self.handles.insert(self.position(), handles);
        }
        // Beyond 4 GiB only the last item ends, whose end is the end of all.
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    pub(crate) fn len(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Is it worth handing over?
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= if self.first == 0 { FIRST_PORTION } else { PORTION }
            || self.ends.len() >= PORTION / 8
    }

    /// Takes what is there, and goes on behind it.
    pub(crate) fn take(&mut self) -> Self {
        let next = Self { first: self.first + self.len(), ..Self::default() };
        std::mem::replace(self, next)
    }

    /// The number of the next item.
    pub(crate) fn position(&self) -> u64 {
        self.first + self.len()
    }
}
