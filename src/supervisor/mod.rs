//! Keeping many children as specified: policy only, pure. What is to be done about each event, and when to look again.
//! The picture is in README.md.

mod backoff;
mod intensity;
mod policy;
mod seat;
mod state;

pub(crate) use intensity::Intensity;
pub(crate) use policy::Policy;
pub use policy::{ExitSet, OnLimit, Restart, RestartLimit, Until};
pub use seat::PlaceState;
pub(crate) use seat::Seat;
pub(crate) use state::{Action, Event, State, Verdict, What};

#[cfg(test)]
mod tests;
