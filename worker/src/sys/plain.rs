//! Types that are nothing but their bytes, so that another process may have written them.
#![allow(unsafe_code, reason = "the cellar")]

use std::mem::MaybeUninit;

/// A type whose values are plain bytes: the numbers, `bool`, arrays of them, and structs of numbers made with [`plain!`](crate::plain).
///
/// It is what shared memory can hold: whatever bytes another process has put there are a value of it, it has no padding
/// (bytes that nobody has written), and nothing in it points anywhere. `String`, `Vec`, references and enums are not
/// plain: send those through a queue or a connection, or keep them in an [actor](https://docs.rs/procession).
///
/// # Safety
/// Who implements it by hand vouches that the type is `repr(C)` or `repr(transparent)`, has no padding and no niche, and
/// that every field is `Plain` with `ANY_BYTES`. [`plain!`](crate::plain) checks all of that.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot lie in shared memory",
    label = "not plain bytes",
    note = "plain are the numbers, `bool`, arrays of those, and structs of numbers declared inside `procession::plain! {{ … }}`",
    note = "for all else there are queues, connections and actors"
)]
pub unsafe trait Plain: Copy + Send + Sync + 'static {
    /// Is every pattern of bits a value?
    #[doc(hidden)]
    const ANY_BYTES: bool = true;

    /// The value of bytes that another process wrote.
    #[doc(hidden)]
    #[inline]
    fn mend(raw: MaybeUninit<Self>) -> Self {
        const { assert!(Self::ANY_BYTES, "such a type brings its own `mend`") };
        // SAFETY: the callers, all in this cellar, have filled the bytes, and any bytes are a value.
        unsafe { raw.assume_init() }
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        // SAFETY: a primitive number: no padding, and all its bits are its value.
        unsafe impl Plain for $number {}
    )*};
}
numbers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

// SAFETY: one byte without padding; what is neither 0 nor 1 is mended.
unsafe impl Plain for bool {
    const ANY_BYTES: bool = false;

    #[inline]
    fn mend(raw: MaybeUninit<Self>) -> Self {
        // SAFETY: the byte is filled, and any byte is a `u8`.
        unsafe { raw.as_ptr().cast::<u8>().read() != 0 }
    }
}

// SAFETY: an array has no padding of its own, and its elements have none; it is mended one by one.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {
    const ANY_BYTES: bool = T::ANY_BYTES;

    #[inline]
    fn mend(raw: MaybeUninit<Self>) -> Self {
        std::array::from_fn(|n| {
            // SAFETY: element `n` of `N`, whose bytes are filled; it is read as bytes that may be no `T` yet.
            T::mend(unsafe { raw.as_ptr().cast::<MaybeUninit<T>>().add(n).read() })
        })
    }
}

/// Declares a struct of numbers that can lie in shared memory, in a [`Value`] or an [`Array`]. It becomes `repr(C)`, `Clone` and
/// `Copy`; other derives and attributes are yours.
///
/// A struct with gaps between its fields, or a field that is not plain, does not compile.
///
/// [`Value`]: https://docs.rs/procession
/// [`Array`]: https://docs.rs/procession
///
/// ```
/// procession_worker::plain! {
///     /// Where a particle is.
///     #[derive(Debug, PartialEq)]
///     pub struct Point {
///         pub x: f64,
///         pub y: f64,
///     }
/// }
/// let point = Point { x: 1.0, y: 2.0 };
/// assert_eq!(point, Point { ..point });
/// ```
///
/// ```compile_fail
/// procession_worker::plain! {
///     struct Gap { small: u8, large: u64 }
/// }
/// ```
#[macro_export]
macro_rules! plain {
    ($(#[$meta:meta])* $vis:vis struct $Name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $Type:ty),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        $vis struct $Name { $($(#[$field_meta])* $field_vis $field: $Type),+ }

        const _: () = {
            assert!(
                ::core::mem::size_of::<$Name>() == 0 $(+ ::core::mem::size_of::<$Type>())+,
                "the struct has gaps between its fields: put the largest first, or fill the gap with a field of bytes"
            );
            $(assert!(
                <$Type as $crate::sys::plain::Plain>::ANY_BYTES,
                "a struct in shared memory holds numbers only; a bool in it is a u8"
            );)+
            // The fields are these, no fewer and no more, whatever attributes have made of them.
            #[allow(dead_code)]
            fn fields(value: $Name) {
                let $Name { $($field),+ } = value;
                $(let _: $Type = $field;)+
            }
        };

        // SAFETY: checked above: `repr(C)`, as long as its fields together, and any bytes are a value of each of them.
        unsafe impl $crate::sys::plain::Plain for $Name {}
    };
}

/// The bytes of values.
#[inline]
#[must_use]
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain: there is no padding, so all bytes are written.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// A value whose bytes `fill` writes, all of them.
#[inline]
pub fn value_by<T: Plain>(fill: impl FnOnce(&mut [u8])) -> T {
    let mut raw = MaybeUninit::<T>::zeroed();
    // SAFETY: the whole of `raw`, zeroed and so initialised, and nobody else's.
    let bytes = unsafe { std::slice::from_raw_parts_mut(raw.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    fill(bytes);
    T::mend(raw)
}

/// The values' own bytes, to be overwritten; `None` unless any bytes are values.
#[inline]
#[must_use]
pub fn bytes_of_mut<T: Plain>(values: &mut [T]) -> Option<&mut [u8]> {
    // SAFETY: plain, and any bytes are a value, so whatever is written there is one.
    T::ANY_BYTES
        .then(|| unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) })
}

/// So many values, all of whose bytes `fill` writes (they are zero before).
pub fn vec_by<T: Plain>(len: usize, fill: impl FnOnce(&mut [u8])) -> Vec<T> {
    let mut values = zeroes::<T>(len);
    if let Some(bytes) = bytes_of_mut(&mut values) {
        fill(bytes);
    } else {
        let mut bytes = vec![0; len * size_of::<T>()];
        fill(&mut bytes);
        for (value, part) in values.iter_mut().zip(bytes.chunks_exact(size_of::<T>())) {
            *value = value_by(|raw| raw.copy_from_slice(part));
        }
    }
    values
}

/// By `calloc`, so that large memory is zeroed by the system, when it is touched.
fn zeroes<T: Plain>(len: usize) -> Vec<T> {
    let Ok(layout) = std::alloc::Layout::array::<T>(len) else { return vec![value_by(|_| {}); len] };
    if layout.size() == 0 {
        return vec![value_by(|_| {}); len];
    }
    // SAFETY: the layout has a size.
    let start = unsafe { std::alloc::alloc_zeroed(layout) };
    if start.is_null() {
        std::alloc::handle_alloc_error(layout);
    }
    // SAFETY: just allocated with that layout; all bytes are zero, which is a value of every plain type (`false`, too).
    unsafe { Vec::from_raw_parts(start.cast(), len, len) }
}

/// The values in bytes that nobody changes any more.
///
/// # Panics
/// The bytes are not aligned for a `T`.
#[inline]
#[must_use]
pub fn values_in<T: Plain>(bytes: &[u8]) -> &[T] {
    const {
        assert!(
            T::ANY_BYTES && size_of::<T>() > 0,
            "a slice is made of values whose every pattern of bits is one"
        );
    };
    assert!(bytes.as_ptr().addr().is_multiple_of(align_of::<T>()), "frozen memory starts on a page");
    // SAFETY: aligned, so many whole values lie there, and any bytes are a value.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_values_whatever_they_are() {
        assert!(value_by::<bool>(|raw| raw[0] = 0x80));
        assert_eq!(value_by::<[bool; 3]>(|raw| raw.copy_from_slice(&[0, 2, 255])), [false, true, true]);
        assert_eq!(value_by::<u32>(|raw| raw.copy_from_slice(&7_u32.to_ne_bytes())), 7);
        assert_eq!(vec_by::<bool>(3, |raw| raw.copy_from_slice(&[9, 0, 1])), [true, false, true]);
        assert_eq!(vec_by::<u16>(2, |raw| raw.copy_from_slice(&[1, 0, 2, 0])), [1, 2]);
        assert_eq!(vec_by::<f64>(0, |raw| assert!(raw.is_empty())), []);
    }

    #[test]
    fn values_have_their_bytes() {
        assert_eq!(bytes_of(&[1_u16, 0x0203]), [1, 0, 3, 2]);
        let mut numbers = [1_u64, 2];
        bytes_of_mut(&mut numbers).unwrap()[8] = 9;
        assert_eq!(numbers, [1, 9]);
        assert!(bytes_of_mut(&mut [true]).is_none());
        assert_eq!(values_in::<u64>(bytes_of(&numbers)), numbers);
    }
}
