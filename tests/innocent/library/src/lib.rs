//! A library that uses processes inside, which is nobody's business. Whoever calls it does nothing for that.

use procession::{Pool, Process, Task};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;

fn square(x: u64) -> u64 {
    x * x
}

/// The sum of the squares of the numbers below `n`.
///
/// ```
/// assert_eq!(innocent_library::sum_of_squares(5)?, 30);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The system has no room for two processes.
pub fn sum_of_squares(n: u64) -> Result<u64, Box<dyn Error>> {
    Ok(Pool::new(2)?.map(square, 0..n)?.into_iter().sum())
}

/// Calls `f` somewhere else.
///
/// ```
/// let pid = innocent_library::elsewhere(std::process::id, ())?;
/// assert_ne!(pid, std::process::id());
/// assert_eq!(innocent_library::elsewhere(|text: String| text.len(), ("four".to_owned(),))?, 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `f` panics, or the system has no room for a process.
pub fn elsewhere<A, F>(f: F, args: A) -> Result<F::Output, Box<dyn Error>>
where
    F: Task<A>,
    A: Serialize + DeserializeOwned + 'static,
    F::Output: Serialize + DeserializeOwned,
{
    Ok(Process::new(f, args).start()?.join()?)
}

/// [`sum_of_squares`], by processes of a process.
///
/// # Errors
/// As [`elsewhere`].
pub fn sum_far_away(n: u64) -> Result<u64, Box<dyn Error>> {
    Ok(elsewhere(|n: u64| sum_of_squares(n).map_err(|error| error.to_string()), (n,))??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_unit_test_needs_no_ceremony_either() {
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let sums =
                [sum_of_squares(10), sum_far_away(10)].map(|sum| sum.map_err(|error| error.to_string()));
            send.send(sums)
        });
        let sums = receive.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(sums, [Ok(285), Ok(285)]);
    }
}
