//! Values to bytes and back. bincode lives in this file only: another codec is a change of this file.
//!
//! bincode is what the project was asked to use. It is unmaintained (RUSTSEC-2025-0141), hence pinned. Integers are
//! fixed-width little-endian: on a pipe between two processes of one machine, copying beats counting bits.

use crate::sys::memory::{Window, use_large_pages};
use bincode::config::{Configuration, Fixint, Limit, LittleEndian, NoLimit};
use bincode::de::read::Reader;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::serde::OwnedSerdeDecoder;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// Why a value could not be turned into bytes, or bytes into a value; the text is the codec's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecError(String);

impl CodecError {
    /// An error with a text of our own.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

struct Out<'a>(&'a mut Vec<u8>);

impl Writer for Out<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if bytes.len() > 4 << 20 {
            self.0.reserve(bytes.len());
            use_large_pages(self.0);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

struct Fixed<'a, 'b>(&'a mut Window<'b>);

impl Writer for Fixed<'_, '_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if self.0.push(bytes) { Ok(()) } else { Err(EncodeError::UnexpectedEnd) }
    }
}

struct In<'a, 'b>(&'a mut &'b [u8]);

impl Reader for In<'_, '_> {
    #[inline]
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), DecodeError> {
        match self.0.split_at_checked(bytes.len()) {
            Some((head, rest)) => {
                bytes.copy_from_slice(head);
                *self.0 = rest;
                Ok(())
            }
            None => Err(DecodeError::UnexpectedEnd { additional: bytes.len() - self.0.len() }),
        }
    }

    #[inline]
    fn peek_read(&mut self, n: usize) -> Option<&[u8]> {
        self.0.get(..n)
    }

    #[inline]
    fn consume(&mut self, n: usize) {
        *self.0 = self.0.get(n..).unwrap_or_default();
    }
}

type Config<L> = Configuration<LittleEndian, Fixint, L>;

fn config<L>() -> Config<L>
where
    Config<L>: Default,
{
    Config::default()
}

/// Appends `value` to `out`. On an error `out` is as it was.
///
/// # Errors
/// The value's own `Serialize` said no, or it is of a shape the codec does not know (a sequence of unknown length).
#[inline]
pub fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let before = out.len();
    bincode::serde::encode_into_writer(value, Out(out), config::<NoLimit>()).map_err(|error| {
        out.truncate(before);
        refusal(error)
    })
}

/// Puts `value` into shared memory; false if it does not fit, and then part of it may have been written.
///
/// # Errors
/// As [`encode_into`].
#[inline]
pub fn encode_within<T: Serialize + ?Sized>(value: &T, window: &mut Window<'_>) -> Result<bool, CodecError> {
    match bincode::serde::encode_into_writer(value, Fixed(window), config::<NoLimit>()) {
        Ok(()) => Ok(true),
        Err(EncodeError::UnexpectedEnd) => Ok(false),
        Err(error) => Err(refusal(error)),
    }
}

#[cold]
fn refusal(error: EncodeError) -> CodecError {
    CodecError(match error {
        EncodeError::OtherString(text) => text,
        EncodeError::Serde(_) => {
            "a sequence of unknown length cannot be encoded; collect it into a Vec first".into()
        }
        other => other.to_string(),
    })
}

/// `value` as bytes.
///
/// # Errors
/// As [`encode_into`].
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    encode_into(value, &mut out)?;
    Ok(out)
}

/// Reads one value from the front of `bytes` and moves `bytes` past it.
///
/// # Errors
/// The bytes end too early, or are no `T`. Where `bytes` then points is unspecified.
#[inline]
pub fn decode_next<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<T, CodecError> {
    // A type that owns nothing allocates nothing: no claim in the bytes can make it.
    if !std::mem::needs_drop::<T>() {
        return read::<T, NoLimit>(bytes);
    }
    // bincode allocates what a string's length claims before it reads. The limit keeps a false length within a
    // small multiple of what really arrived; it must be a constant, hence the steps.
    match bytes.len().next_power_of_two().trailing_zeros() {
        ..=16 => read::<T, Limit<{ 1 << 16 }>>(bytes),
        17..=24 => read::<T, Limit<{ 1 << 24 }>>(bytes),
        25..=32 => read::<T, Limit<{ 1 << 32 }>>(bytes),
        _ => read::<T, Limit<{ 1 << 40 }>>(bytes),
    }
}

#[inline]
fn read<T: DeserializeOwned, L>(bytes: &mut &[u8]) -> Result<T, CodecError>
where
    Config<L>: bincode::config::Config + Default,
{
    let mut decoder = OwnedSerdeDecoder::from_reader(In(bytes), config::<L>());
    T::deserialize(decoder.as_deserializer()).map_err(|error| {
        CodecError(match error {
            DecodeError::OtherString(text) => text,
            DecodeError::LimitExceeded => "a length in the bytes is larger than all of them".into(),
            DecodeError::Serde(_) => {
                format!("{error}; the type asks to describe itself, which this codec cannot (no flatten, no untagged)")
            }
            other => other.to_string(),
        })
    })
}

/// Reads exactly one value from `bytes`.
///
/// # Errors
/// As [`decode_next`], or bytes are left over.
#[inline]
pub fn decode<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, CodecError> {
    let value = decode_next(&mut bytes)?;
    if bytes.is_empty() {
        Ok(value)
    } else {
        Err(CodecError(format!("{} bytes are left over after the value", bytes.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    type Sample = (u64, String, Option<Vec<f64>>, HashMap<String, (bool, char)>);

    proptest! {
        #[test]
        fn what_goes_in_comes_out(value: Sample) {
            prop_assert_eq!(decode::<Sample>(&encode(&value).unwrap()).unwrap(), value);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode::<Sample>(&bytes);
            let _ = decode::<String>(&bytes);
            let _ = decode::<Vec<String>>(&bytes);
            let _ = decode::<[u64; 4]>(&bytes);
        }

        #[test]
        fn a_truncated_value_is_an_error(value: Sample, cut in 1_usize..8) {
            let bytes = encode(&value).unwrap();
            prop_assert!(decode::<Sample>(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
        }
    }

    #[test]
    fn a_false_length_does_not_allocate_what_it_claims() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        assert!(decode::<String>(&bytes).is_err());
        bytes[..8].copy_from_slice(&(1_u64 << 50).to_le_bytes());
        assert!(decode::<String>(&bytes).is_err());
    }

    #[test]
    fn an_error_leaves_the_output_as_it_was() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("not today"))
            }
        }
        let mut out = b"before".to_vec();
        let error = encode_into(&(1_u32, Refuses), &mut out).unwrap_err();
        assert_eq!((out.as_slice(), error.to_string().as_str()), (&b"before"[..], "not today"));
    }
}
