//! A function and its arguments, encoded: what a worker is to run.

use crate::error::{Codec, Half, SpawnError};
use procession_worker::ipc::handoff::{self, Handle};
use procession_worker::task::{Task, Token};
use procession_worker::wire::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that wait to be written.
pub(crate) trait Bytes: AsRef<[u8]> + Send + Sync {}
impl<T: AsRef<[u8]> + Send + Sync> Bytes for T {}

/// Encoded arguments: a range of some bytes, and the descriptors that come with them.
#[derive(Clone)]
pub(crate) struct Parcel {
    pub(crate) bytes: Arc<dyn Bytes>,
    pub(crate) range: Range<usize>,
    pub(crate) handles: Vec<Handle>,
}

impl Parcel {
    pub(super) fn bytes(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parcel({} bytes, {} descriptors)", self.range.len(), self.handles.len())
    }
}

/// One call, which may be made more than once.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) token: Token,
    pub(crate) parcel: Parcel,
}

impl Call {
    pub(crate) fn new<A, F>(f: F, args: &A) -> Result<Self, SpawnError>
    where
        F: Task<A>,
        F::Output: Serialize,
        A: Serialize + DeserializeOwned + 'static,
    {
        let token = Token::of(f).map_err(SpawnError::from)?;
        let (bytes, handles) = handoff::pack_for::<A, _>(|| codec::encode(args));
        let bytes = bytes.map_err(|error| SpawnError::Encode(Codec::new(Half::Arguments, error)))?;
        let parcel = Parcel { range: 0..bytes.len(), bytes: Arc::new(bytes), handles };
        Ok(Self { token, parcel })
    }
}
