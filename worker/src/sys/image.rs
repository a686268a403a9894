//! The program's own image: constants that two processes of one executable can name to each other.
#![allow(unsafe_code, reason = "the cellar")]

use std::any::TypeId;
use std::ffi::{c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Two random words that mark a [`Marked`] in memory.
const MAGIC: [u64; 2] = [0x9d1c_77ab_04e6_52f3, 0x63e5_b8d2_1fa0_c94d];

/// A constant that can be found again in another process of the same executable.
///
/// What crosses is its distance from the [anchor](offset_of); the other side believes it only after looking.
#[derive(Debug)]
#[repr(C)]
pub struct Marked<T: 'static> {
    magic: [u64; 2],
    kind: TypeId,
    value: T,
}

impl<T: 'static> Marked<T> {
    /// Marks `value`; meant for `const` items that are then promoted to `&'static`.
    pub const fn new(value: T) -> Self {
        Self { magic: MAGIC, kind: TypeId::of::<T>(), value }
    }

    /// What was marked.
    pub const fn get(&self) -> &T {
        &self.value
    }
}

/// Where distances are counted from. A static has one address in one image; a function may have several.
static ANCHOR: Marked<()> = Marked::new(());

#[derive(Debug)]
struct Image {
    /// Where the image's own code and data lie.
    whole: Vec<Range<usize>>,
    /// The part that is read-only once the program runs: where constants are.
    constant: Vec<Range<usize>>,
    id: u64,
}

fn main_image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let mut image = Image { whole: Vec::new(), constant: Vec::new(), id: 0 };
        // SAFETY: `visit` matches the expected signature, and `image` outlives the call that `visit` is used in.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut image).cast()) };
        image
    })
}

/// Reads the first image in the loader's list, which is the main program, and stops there.
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: libc::size_t, image: *mut c_void) -> c_int {
    // SAFETY: the loader passes a valid description for the duration of this call.
    let info = unsafe { &*info };
    // SAFETY: `main_image` passes its own local, borrowed by nobody else during the call.
    let image = unsafe { &mut *image.cast::<Image>() };
    // SAFETY: the loader says that `dlpi_phnum` headers are there, and they stay mapped as long as the program.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let mut hasher = DefaultHasher::new();
    for header in headers {
        let start = (info.dlpi_addr.wrapping_add(header.p_vaddr)) as usize;
        let range = start..start.wrapping_add(header.p_memsz as usize);
        (header.p_type, header.p_offset, header.p_vaddr, header.p_filesz, header.p_memsz).hash(&mut hasher);
        match header.p_type {
            libc::PT_LOAD => {
                if header.p_flags & (libc::PF_W | libc::PF_X) == 0 {
                    image.constant.push(range.clone());
                }
                image.whole.push(range);
            }
            libc::PT_GNU_RELRO => image.constant.push(range),
            libc::PT_NOTE => {
                // The notes hold the linker's build id: the same bytes if and only if it is the same build.
                // SAFETY: a note segment of the main program is mapped and read-only.
                unsafe { std::slice::from_raw_parts(start as *const u8, header.p_memsz as usize) }
                    .hash(&mut hasher);
            }
            _ => {}
        }
    }
    image.id = hasher.finish();
    1
}

fn covers(ranges: &[Range<usize>], start: usize, len: usize) -> bool {
    start.checked_add(len).is_some_and(|end| ranges.iter().any(|r| r.start <= start && end <= r.end))
}

/// Says which build of which program this is; equal in every process of one executable.
#[must_use]
pub fn id() -> u64 {
    main_image().id
}

/// Is this crate linked into the main program, so that executing the program again brings it along?
///
/// False inside a plugin, or an extension module of an interpreter.
#[must_use]
pub fn is_main() -> bool {
    covers(&main_image().whole, (&raw const ANCHOR).addr(), size_of_val(&ANCHOR))
}

/// The distance of a constant from the anchor, or `None` when it lies in another image.
#[must_use]
pub fn offset_of<T>(constant: &'static Marked<T>) -> Option<u64> {
    let address = std::ptr::from_ref(constant).addr();
    covers(&main_image().constant, address, size_of::<Marked<T>>())
        .then(|| address.wrapping_sub((&raw const ANCHOR).addr()) as u64)
}

/// The constant at a distance that another process named; `None` unless one of that very type is there.
#[must_use]
pub fn at_offset<T: 'static>(offset: u64) -> Option<&'static Marked<T>> {
    let address = (&raw const ANCHOR).addr().wrapping_add(usize::try_from(offset).ok()?);
    let aligned = address.is_multiple_of(align_of::<Marked<T>>());
    if !aligned || !covers(&main_image().constant, address, size_of::<Marked<T>>()) {
        return None;
    }
    let found = std::ptr::with_exposed_provenance::<Marked<T>>(address);
    // SAFETY: in range and aligned, and read-only memory of the image is never unmapped; any bytes are two words.
    let magic = unsafe { (&raw const (*found).magic).read() };
    if magic != MAGIC {
        return None;
    }
    // SAFETY: as above; behind the magic (random, and nowhere else in the program) a `TypeId` was placed.
    let kind = unsafe { (&raw const (*found).kind).read() };
    // SAFETY: magic and type say that `Marked::<T>::new` made what is here, and constants live for ever.
    (kind == TypeId::of::<T>()).then(|| unsafe { &*found })
}

/// A value of a type without bytes, made from nothing.
///
/// A function item, or a closure that captures nothing, is such a type: there is one value of it and no state in it.
#[must_use]
pub fn conjure<F: Copy + Send + Sync + 'static>() -> F {
    // Where the type is known, the compiler has refused anything else with a better text.
    assert!(size_of::<F>() == 0, "only a type without bytes can be made from nothing");
    // SAFETY: the type has no bytes to be invalid. A value of it exists in the process that sent the call, it is
    // `Copy`, so there may be another, and `Send + Sync`, so that no thread's or scope's privilege can hide in it.
    unsafe { NonNull::<F>::dangling().read() }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NEAR: Marked<u32> = Marked::new(7);
    const OTHER: Marked<u64> = Marked::new(8);

    #[test]
    fn a_constant_is_found_again_and_only_as_what_it_is() {
        assert!(is_main());
        let offset = offset_of(&NEAR).unwrap();
        assert_eq!(*at_offset::<u32>(offset).unwrap().get(), 7);
        assert!(at_offset::<i32>(offset).is_none(), "another type");
        let other = offset_of(const { &OTHER }).unwrap();
        assert_eq!(*at_offset::<u64>(other).unwrap().get(), 8);
    }

    #[test]
    fn any_other_offset_is_refused() {
        let offset = offset_of(&NEAR).unwrap();
        for wrong in [offset + 1, offset + 8, offset.wrapping_sub(8), 0x7fff_ffff, u64::MAX, 1 << 40] {
            assert!(at_offset::<u32>(wrong).is_none(), "{wrong:#x}");
        }
    }

    #[test]
    fn a_constant_on_the_heap_or_the_stack_has_no_offset() {
        assert!(offset_of(Box::leak(Box::new(Marked::new(1_u8)))).is_none());
    }
}
