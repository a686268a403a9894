//! Tasks that misbehave on purpose: what a buggy or hostile task can do to its worker, for tests and benchmarks.

/// Gives back what it was given.
#[must_use]
pub fn echo<T>(value: T) -> T {
    value
}
