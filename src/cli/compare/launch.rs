//! What it costs to start a program for each task: as `procession map` does it, and as a thread does it by hand.

use super::measure::per_task;
use crate::cause::Cause;
use crate::map::{Map, MapError, News, Print};
use std::ffi::OsString;
use std::io;
use std::iter::repeat_with;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// About so long takes one turn.
const TURN: Duration = Duration::from_millis(400);
/// In one turn a worker starts so many at most.
const MOST: usize = 500;
/// Each way has so many turns if there is time; the best counts.
const TURNS: usize = 4;

/// A program that is started for each task, and what that costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// As it was typed.
    pub name: String,
    /// Nanoseconds of a worker, from one start to the next, below a keeper, as `procession map` has it.
    pub by_map: f64,
    /// The same by threads that start it and wait for it (`std::process::Command`).
    pub by_std: f64,
}

/// Why that could not be measured.
#[derive(Debug)]
pub enum LaunchError {
    /// The program ends so, or never ran.
    Ended(Cause),
    /// All the rest.
    Run(MapError),
}

/// Runs the program again and again, without input and output, in turns: for as long as `patience` lasts, and once at least.
///
/// # Errors
/// [`LaunchError`]: it cannot be started, or its end is no success.
pub fn launch(words: &[OsString], workers: usize, patience: Duration) -> Result<Launch, LaunchError> {
    let before = Instant::now();
    let once = by_map(words, 1, 1)?;
    let each =
        usize::try_from(TURN.as_nanos() / u128::from(once.max(1.0) as u64)).unwrap_or(1).clamp(1, MOST);
    let name = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut launch = Launch { name, by_map: f64::MAX, by_std: f64::MAX };
    for _ in 0..TURNS {
        launch.by_map = launch.by_map.min(by_map(words, workers, each)?);
        launch.by_std =
            launch.by_std.min(by_std(words, workers, each).map_err(|error| LaunchError::Run(error.into()))?);
        if before.elapsed() > patience {
            break;
        }
    }
    Ok(launch)
}

fn by_map(words: &[OsString], workers: usize, each: usize) -> Result<f64, LaunchError> {
    let tasks = repeat_with(|| Ok(Box::default())).take(each * workers);
    let map =
        Map::new(&words[0]).args(&words[1..]).exactly().jobs(workers).print(Print::None).subreaper(true);
    let before = Instant::now();
    let (mut begun, mut bad) = (None, None);
    let run = map.run(tasks, |news| match news {
        News::Report(report) if !report.cause.is_ok() => {
            bad.get_or_insert(report.cause);
            Err(io::ErrorKind::Other.into())
        }
        News::Report(_) => {
            // The first one pays for the keeper.
            begun.get_or_insert_with(Instant::now);
            Ok(())
        }
        _ => Ok(()),
    });
    match (bad, run) {
        (Some(cause), _) => return Err(LaunchError::Ended(cause)),
        (None, Err(error)) => return Err(LaunchError::Run(error)),
        (None, Ok(_)) => {}
    }
    let start = begun.filter(|_| each > 4).unwrap_or(before);
    Ok(per_task(start.elapsed(), each))
}

fn by_std(words: &[OsString], workers: usize, each: usize) -> io::Result<f64> {
    let before = Instant::now();
    let work = || -> io::Result<()> {
        for _ in 0..each {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    Ok(per_task(before.elapsed(), each))
}
