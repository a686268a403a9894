//! Functions that are sent to a state that lives in another process, and the descriptors by which they are found there.
//!
//! The same as tasks, but that each is called with a `&mut` to the state.

use crate::ipc::handoff::{self, Handle, Incoming};
use crate::panic;
use crate::sys::image::{self, Marked};
use crate::task::{ForeignImage, fingerprint};
use crate::wire::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::marker::PhantomData;

mod sealed {
    pub trait Sealed<State, Args> {}
}

/// A function that can be sent to an actor: any function item, and any closure that captures nothing, that takes `&mut State` and
/// then up to five arguments. `Args` is the tuple of those.
///
/// A closure's first argument needs its type: `|count: &mut u64, n: u64| *count += n`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be called with `&mut {State}` and `{Args}` in an actor",
    label = "not a method for this state and these arguments",
    note = "it is a function, or a closure that captures nothing, whose first argument is `&mut {State}`, written out",
    note = "the other arguments are passed as a tuple: `(x,)` for one, `()` for none"
)]
pub trait Method<State, Args>: Copy + Send + Sync + 'static + sealed::Sealed<State, Args> {
    /// What the function returns.
    type Output;

    /// Calls it here.
    #[doc(hidden)]
    fn run(self, state: &mut State, args: Args) -> Self::Output;
}

macro_rules! methods {
    ($($Arg:ident $arg:ident)*) => {
        impl<Fun, State, Out, $($Arg,)*> sealed::Sealed<State, ($($Arg,)*)> for Fun
        where
            Fun: Fn(&mut State, $($Arg,)*) -> Out + Copy + Send + Sync + 'static,
        {
        }

        impl<Fun, State, Out, $($Arg,)*> Method<State, ($($Arg,)*)> for Fun
        where
            Fun: Fn(&mut State, $($Arg,)*) -> Out + Copy + Send + Sync + 'static,
        {
            type Output = Out;

            #[inline]
            fn run(self, state: &mut State, ($($arg,)*): ($($Arg,)*)) -> Out {
                self(state, $($arg,)*)
            }
        }
    };
}
methods!();
methods!(A a);
methods!(A a B b);
methods!(A a B b C c);
methods!(A a B b C c D d);
methods!(A a B b C c D d E e);

/// What a call of a method has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Came {
    /// A value follows.
    Value = 0,
    /// A panic's record follows.
    Panicked = 1,
    /// The arguments were not understood; a text follows.
    Undecodable = 2,
    /// The result could not be encoded; a text follows.
    Unencodable = 3,
}

impl Came {
    /// By number.
    #[must_use]
    pub const fn from_kind(kind: u8) -> Option<Self> {
        Some(match kind {
            0 => Self::Value,
            1 => Self::Panicked,
            2 => Self::Undecodable,
            3 => Self::Unencodable,
            _ => return None,
        })
    }
}

/// One call, as the method's typed entry sees it.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) state: &'a mut dyn Any,
    pub(crate) args: &'a [u8],
    pub(crate) came: Incoming,
    /// Begins with the kind.
    pub(crate) answer: Vec<u8>,
    pub(crate) handles: Vec<Handle>,
}

impl Turn<'_> {
    pub(crate) fn tell(&mut self, kind: Came, text: &str) {
        self.answer.clear();
        self.answer.push(kind as u8);
        self.answer.extend_from_slice(text.as_bytes());
        self.handles.clear();
    }
}

#[derive(Debug)]
struct Descriptor {
    types: TypeId,
    entry: fn(&mut Turn<'_>),
    name: fn() -> &'static str,
}

/// The one descriptor of method `F` on `S` with arguments `A`.
struct Of<S, F, A>(PhantomData<fn(S, F, A)>);

impl<S, F, A> Of<S, F, A>
where
    S: 'static,
    F: Method<S, A>,
    F::Output: Serialize,
    A: DeserializeOwned + 'static,
{
    const CAPTURES_NOTHING: () = assert!(
        size_of::<F>() == 0,
        "this closure captures something from its surroundings, or is a function pointer; another process cannot see \
         what it captures: pass everything as an argument, and name the function itself"
    );

    const DESCRIPTOR: Marked<Descriptor> = Marked::new(Descriptor {
        types: TypeId::of::<(fn(S), F, fn(A))>(),
        entry: Self::entry,
        name: std::any::type_name::<F>,
    });

    /// Runs one call: the only code that knows its types on the actor's side.
    fn entry(turn: &mut Turn<'_>) {
        let method: F = image::conjure();
        let (args, came) = (turn.args, std::mem::take(&mut turn.came));
        let result = panic::catch(|| {
            let Some(state) = turn.state.downcast_mut::<S>() else {
                return Err((Came::Undecodable, "the actor's state is of another type".to_owned()));
            };
            let args = handoff::unpack(came, || codec::decode::<A>(args))
                .map_err(|error| (Came::Undecodable, error.to_string()))?;
            let output = method.run(state, args);
            turn.answer.push(Came::Value as u8);
            let answer = &mut turn.answer;
            let (encoded, handles) =
                handoff::pack_for::<F::Output, _>(|| codec::encode_into(&output, answer));
            turn.handles = handles;
            encoded.map_err(|error| (Came::Unencodable, error.to_string()))
        });
        match result {
            Ok(Ok(())) => {}
            Ok(Err((kind, text))) => turn.tell(kind, &text),
            Err(record) => {
                turn.tell(Came::Panicked, "");
                let _ = codec::encode_into(&record, &mut turn.answer);
            }
        }
    }
}

/// A method's place in this executable.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    offset: u64,
    fingerprint: u64,
}

/// So long is a token in bytes.
const TOKEN: usize = 16;

impl Token {
    /// The token of `method`.
    ///
    /// # Errors
    /// The function lies in another image (a plugin, a `dylib`) than the program that will be executed again.
    #[inline]
    pub fn of<S, A, F>(method: F) -> Result<Self, ForeignImage>
    where
        S: 'static,
        F: Method<S, A>,
        F::Output: Serialize,
        A: DeserializeOwned + 'static,
    {
        let () = Of::<S, F, A>::CAPTURES_NOTHING;
        let _ = method;
        let marked: &'static Marked<Descriptor> = const { &Of::<S, F, A>::DESCRIPTOR };
        match image::offset_of(marked) {
            Some(offset) if image::is_main() => {
                Ok(Self { offset, fingerprint: fingerprint(marked.get().types) })
            }
            _ => Err(ForeignImage((marked.get().name)())),
        }
    }

    /// As the head of a call.
    #[must_use]
    pub fn to_bytes(self) -> [u8; TOKEN] {
        let mut bytes = [0; TOKEN];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.fingerprint.to_le_bytes());
        bytes
    }
}

/// Runs the method that a call means.
pub(crate) fn run(call: &[u8], turn: &mut Turn<'_>) {
    let found = call.split_first_chunk::<8>().and_then(|(offset, rest)| {
        let meant = rest.first_chunk::<8>()?;
        let descriptor = image::at_offset::<Descriptor>(u64::from_le_bytes(*offset))?.get();
        (fingerprint(descriptor.types) == u64::from_le_bytes(*meant)).then_some(descriptor.entry)
    });
    match found {
        Some(entry) => entry(turn),
        None => turn.tell(
            Came::Undecodable,
            "the function is not in the actor's image: caller and actor are different builds",
        ),
    }
}

/// The arguments in a call's bytes.
pub(crate) fn args(call: &[u8]) -> &[u8] {
    call.get(TOKEN..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(sum: &mut u64, n: u64) -> u64 {
        *sum += n;
        *sum
    }

    fn call<A: Serialize>(token: Token, args: &A) -> Vec<u8> {
        let mut call = token.to_bytes().to_vec();
        codec::encode_into(args, &mut call).unwrap();
        call
    }

    fn answered(state: &mut dyn Any, call: &[u8]) -> Vec<u8> {
        let (came, answer, handles) = (Incoming::default(), Vec::new(), Vec::new());
        let mut turn = Turn { state, args: args(call), came, answer, handles };
        run(call, &mut turn);
        turn.answer
    }

    #[test]
    fn a_method_finds_its_state_and_nothing_else_does() {
        let mut sum = 1_u64;
        let token = Token::of::<u64, _, _>(add).unwrap();
        assert_eq!(answered(&mut sum, &call(token, &(41_u64,))), [0, 42, 0, 0, 0, 0, 0, 0, 0]);
        let other = Token::of::<u64, _, _>(|sum: &mut u64| *sum = 0).unwrap();
        assert_eq!(answered(&mut sum, &call(other, &())), [0]);
        assert_eq!(sum, 0);
        assert_eq!(answered(&mut 1_u32, &call(token, &(1_u64,)))[0], Came::Undecodable as u8);
        assert_eq!(answered(&mut sum, &call(token, &1_u8))[0], Came::Undecodable as u8);
        let mixed = Token { offset: token.offset, fingerprint: other.fingerprint };
        for wrong in [call(mixed, &(1_u64,)), vec![], vec![0; 15], vec![0xff; 40]] {
            assert_eq!(answered(&mut sum, &wrong)[0], Came::Undecodable as u8);
        }
        let panics = Token::of::<u64, _, _>(|_: &mut u64| -> () { panic!("on purpose") }).unwrap();
        assert_eq!(answered(&mut sum, &call(panics, &()))[0], Came::Panicked as u8);
    }
}
