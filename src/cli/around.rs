//! What programs find around them: words that `map` and `run` share.

use super::say;
use crate::sys::processors;
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Args)]
pub(super) struct Around {
    /// Where the programs work
    #[arg(short = 'C', long, value_name = "DIR", help_heading = "Process", hide_short_help = true)]
    pub(super) chdir: Option<PathBuf>,
    /// Sets a variable; may be repeated
    #[arg(long = "env", value_parser = variable, value_name = "KEY=VALUE", help_heading = "Process", hide_short_help = true)]
    envs: Vec<(String, String)>,
    /// Sets variables from lines KEY=VALUE; # begins a comment
    #[arg(long, value_name = "FILE", help_heading = "Process", hide_short_help = true)]
    env_file: Vec<PathBuf>,
    /// Starts with no variables but these
    #[arg(long, help_heading = "Process", hide_short_help = true)]
    pub(super) clean_env: bool,
    /// Politeness of all, procession included: from -20 to 19, added to its own
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-40..=40), help_heading = "Process", hide_short_help = true)]
    nice: Option<i32>,
    /// The processors that all may use, procession included, as in 0-3,8
    #[arg(long, value_name = "LIST", value_parser = cpus, help_heading = "Process", hide_short_help = true)]
    cpus: Option<Cpus>,
}

/// Numbers of processors.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cpus(Vec<usize>);

type Variables = Vec<(OsString, OsString)>;

impl Around {
    /// Before any thread is started: what this process has is passed on.
    pub(super) fn settle(&self) -> Result<(), String> {
        if let Some(Cpus(list)) = &self.cpus {
            processors::use_only(list).map_err(|error| {
                format!("cannot use these processors only: {error}; nproc tells which there are")
            })?;
        }
        match self.nice.map(processors::be_nice) {
            Some(Err(error)) => Err(format!("cannot change the politeness: {error}; only root may lower it")),
            _ => Ok(()),
        }
    }

    /// Those of the files, then those of the command line.
    pub(super) fn variables(&self) -> Result<Variables, String> {
        let mut all = Variables::new();
        for file in &self.env_file {
            all.extend(read(file)?);
        }
        all.extend(self.envs.iter().map(|(key, value)| (key.into(), value.into())));
        Ok(all)
    }

    /// The same at a later time, when the files may have changed; what was so far, if they cannot be read.
    pub(super) fn renew(&self, variables: &mut Variables) {
        if self.env_file.is_empty() {
            return;
        }
        match self.variables() {
            Ok(fresh) => *variables = fresh,
            Err(text) => say(format_args!("{text}; what it said before counts")),
        }
    }
}

fn read(file: &Path) -> Result<Variables, String> {
    let bytes =
        std::fs::read(file).map_err(|error| format!("cannot read --env-file {}: {error}", file.display()))?;
    let mut found = Variables::new();
    for (number, line) in (1..).zip(bytes.split(|&b| b == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let at = line.iter().position(|&b| b == b'=').filter(|&at| at > 0);
        let at = at.ok_or_else(|| format!("{}:{number}: a line must be KEY=VALUE", file.display()))?;
        found.push((OsStr::from_bytes(&line[..at]).into(), OsStr::from_bytes(&line[at + 1..]).into()));
    }
    Ok(found)
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` has no =; type KEY=VALUE"))?;
    if key.is_empty() {
        Err("a variable needs a name before the =".into())
    } else {
        Ok((key.into(), value.into()))
    }
}

fn cpus(text: &str) -> Result<Cpus, String> {
    let refuse = || format!("`{text}` is no list of processors; type for example 0, 0-3 or 0-3,8");
    let number = |text: &str| text.parse::<usize>().ok().filter(|cpu| *cpu < 4096).ok_or_else(refuse);
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(refuse());
        }
        all.extend(first..=last);
    }
    Ok(Cpus(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_read_and_nonsense_is_refused() {
        assert_eq!(cpus("0-2,8"), Ok(Cpus(vec![0, 1, 2, 8])));
        assert!(["", "x", "3-1", "1-", "-1", "99999"].iter().all(|text| cpus(text).is_err()));
        assert!(variable("=x").is_err() && variable("x").is_err() && variable("a=b=c").is_ok());
    }
}
