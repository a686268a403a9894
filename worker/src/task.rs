//! Functions as typed, zero-sized tokens, and the descriptor by which another process of the same executable finds them.

use crate::chunk::Chunk;
use crate::sys::image::{self, Marked};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::TypeId;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;

mod sealed {
    pub trait Sealed<Args> {}
}

/// A function that can be sent to another process: any function item, and any closure that captures nothing, of up to
/// six arguments. `Args` is the tuple of them.
///
/// There is nothing to implement, derive or register. Arguments and result travel encoded, so they are
/// [`Serialize`] and [`DeserializeOwned`]; both are owned, since no reference can reach into another process.
///
/// A closure that captures something is refused when the program is compiled, with a sentence that says what to do;
/// so is a function *pointer* (`fn(u64) -> u64`): name the function itself.
///
/// ```
/// # use procession_worker::task::Task;
/// fn is_task<A, F: Task<A>>(_: F) {}
/// is_task(|x: u64| x + 1);
/// is_task(str::len as fn(&'static str) -> usize); // the bound holds; sending it is what does not compile
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called with `{Args}` in another process",
    label = "not a task for these arguments",
    note = "a task is a function, or a closure that captures nothing; its arguments are passed as a tuple: `(x,)` for one",
    note = "its arguments are owned (`String`, not `&str`), and arguments and result are `serde::Serialize` and `DeserializeOwned`"
)]
pub trait Task<Args>: Copy + Send + Sync + 'static + sealed::Sealed<Args> {
    /// What the function returns.
    type Output;

    /// Calls it here.
    #[doc(hidden)]
    fn run(self, args: Args) -> Self::Output;
}

macro_rules! tasks {
    ($($Arg:ident $arg:ident)*) => {
        impl<Fun, Out, $($Arg,)*> sealed::Sealed<($($Arg,)*)> for Fun
        where
            Fun: Fn($($Arg,)*) -> Out + Copy + Send + Sync + 'static,
        {
        }

        impl<Fun, Out, $($Arg,)*> Task<($($Arg,)*)> for Fun
        where
            Fun: Fn($($Arg,)*) -> Out + Copy + Send + Sync + 'static,
        {
            type Output = Out;

            #[inline]
            fn run(self, ($($arg,)*): ($($Arg,)*)) -> Out {
                self($($arg,)*)
            }
        }
    };
}
tasks!();
tasks!(A a);
tasks!(A a B b);
tasks!(A a B b C c);
tasks!(A a B b C c D d);
tasks!(A a B b C c D d E e);
tasks!(A a B b C c D d E e G g);

/// What the other process finds at the offset: a constant, validated before it is believed.
#[derive(Debug)]
pub struct Descriptor {
    types: TypeId,
    entry: fn(&mut Chunk<'_>),
    name: fn() -> &'static str,
}

/// The one descriptor of function `F` with arguments `A`.
struct Of<F, A>(PhantomData<fn(F, A)>);

impl<F, A> Of<F, A>
where
    F: Task<A>,
    F::Output: Serialize,
    A: DeserializeOwned + 'static,
{
    const CAPTURES_NOTHING: () = assert!(
        size_of::<F>() == 0,
        "this closure captures something from its surroundings, or is a function pointer; another process cannot see \
         what it captures: pass everything as an argument, and name the function itself"
    );

    const DESCRIPTOR: Marked<Descriptor> = Marked::new(Descriptor {
        types: TypeId::of::<(F, fn(A))>(),
        entry: Self::entry,
        name: std::any::type_name::<F>,
    });

    /// Runs the items of one call: the only code that knows their types on the worker's side.
    fn entry(chunk: &mut Chunk<'_>) {
        let task: F = image::conjure();
        while chunk.claim() {
            let Some(args) = chunk.decode::<A>() else { return };
            let output = task.run(args);
            chunk.answer(&output);
        }
    }
}

/// A function's place in this executable: what a call carries instead of code.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    /// Distance of the descriptor from the anchor.
    pub offset: u64,
    /// Says which types are meant.
    pub fingerprint: u64,
    name: fn() -> &'static str,
}

impl Token {
    /// The token of `task`.
    ///
    /// # Errors
    /// The function lies in another image (a plugin, a `dylib`) than the program that will be executed again.
    #[inline]
    pub fn of<A, F>(task: F) -> Result<Self, ForeignImage>
    where
        F: Task<A>,
        F::Output: Serialize,
        A: DeserializeOwned + 'static,
    {
        let () = Of::<F, A>::CAPTURES_NOTHING;
        let _ = task;
        let marked: &'static Marked<Descriptor> = const { &Of::<F, A>::DESCRIPTOR };
        let name = marked.get().name;
        match image::offset_of(marked) {
            Some(offset) if image::is_main() => {
                Ok(Self { offset, fingerprint: fingerprint(marked.get().types), name })
            }
            _ => Err(ForeignImage(name())),
        }
    }

    /// The function's path, as the compiler writes it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        (self.name)()
    }
}

pub(crate) fn fingerprint(types: TypeId) -> u64 {
    let mut hasher = DefaultHasher::new();
    types.hash(&mut hasher);
    hasher.finish()
}

/// Finds the function that a call means; `None` unless that very descriptor is there.
pub(crate) fn find(offset: u64, meant: u64) -> Option<fn(&mut Chunk<'_>)> {
    let descriptor = image::at_offset::<Descriptor>(offset)?.get();
    (fingerprint(descriptor.types) == meant).then_some(descriptor.entry)
}

/// The function is not part of the program that workers execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignImage(pub &'static str);

impl fmt::Display for ForeignImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lies in a shared library, and a worker executes only the main program; \
             link it into the program (rlib, not dylib or plugin)",
            self.0
        )
    }
}

impl std::error::Error for ForeignImage {}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(x: u64) -> u64 {
        2 * x
    }

    fn twice<T: Clone>(x: T) -> (T, T) {
        (x.clone(), x)
    }

    #[test]
    fn every_function_has_a_token_that_leads_back_to_it() {
        for token in [
            Token::of(double).unwrap(),
            Token::of(|x: u64| x + 1).unwrap(),
            Token::of(|x: u64| x + 2).unwrap(),
            Token::of(twice::<String>).unwrap(),
            Token::of(|| 1_u8).unwrap(),
            Token::of(|a: u8, b: u8, c: u8, d: u8, e: u8, f: u8| a + b + c + d + e + f).unwrap(),
        ] {
            assert!(find(token.offset, token.fingerprint).is_some(), "{}", token.name());
        }
    }

    #[test]
    fn functions_of_equal_type_are_told_apart() {
        let (one, two) = (Token::of(|x: u64| x + 1).unwrap(), Token::of(|x: u64| x + 2).unwrap());
        assert_ne!(one.fingerprint, two.fingerprint);
        assert!(find(one.offset, two.fingerprint).is_none(), "a token of mixed origin");
    }

    #[test]
    fn names_are_readable() {
        assert!(Token::of(double).unwrap().name().ends_with("task::tests::double"));
    }
}
