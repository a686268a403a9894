//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

/// How the program is called.
pub(crate) const USAGE: &str = "primes [LIMIT] [--workers N] [--plot FILE]";

/// Three lists of results must fit into memory.
const HIGHEST: i64 = 100_000_000;

/// What the user wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Numbers below it are tested.
    pub(crate) limit: i64,
    /// In each pool.
    pub(crate) workers: usize,
    /// Where the plot goes, if there is to be one.
    pub(crate) plot: Option<PathBuf>,
    /// Only the usage is wanted.
    pub(crate) help: bool,
}

impl Options {
    /// Reads the arguments; the error is one line.
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut options =
            Self { limit: 1_000_000, workers: procession::cpu_count(), plot: None, help: false };
        let mut limits = 0;
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("-h" | "--help") => options.help = true,
                Some("--workers") => options.workers = workers(&value("--workers", &mut args)?)?,
                Some("--plot") => options.plot = Some(value("--plot", &mut args)?.into()),
                Some(word) if word.starts_with('-') && word.parse::<i64>().is_err() => {
                    return Err(format!("there is no option {word}"));
                }
                _ if limits == 1 => {
                    return Err(format!("one LIMIT is enough, {} is too much", arg.display()));
                }
                _ => {
                    options.limit = limit(&arg)?;
                    limits += 1;
                }
            }
        }
        Ok(options)
    }
}

fn value(option: &str, args: &mut impl Iterator<Item = OsString>) -> Result<OsString, String> {
    args.next().ok_or_else(|| format!("{option} needs a value"))
}

fn limit(arg: &OsString) -> Result<i64, String> {
    let number = arg.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|limit| (3..=HIGHEST).contains(limit))
        .ok_or_else(|| format!("LIMIT is a number from 3 to {HIGHEST}, not {}", arg.display()))
}

fn workers(arg: &OsString) -> Result<usize, String> {
    let number = arg.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|&workers| workers > 0)
        .ok_or_else(|| format!("--workers wants a number, at least 1, not {}", arg.display()))
}
