//! What a shell and man(1) want to know of the tool.

use super::{Code, say};
use clap::{Args, Command};
use clap_complete::{Shell, generate};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Prints completions for a shell
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, mut command: Command) -> Code {
        let mut text = Vec::new();
        generate(self.shell, &mut command, "procession", &mut text);
        match io::Write::write_all(&mut io::stdout(), &text) {
            Ok(()) => Code::Ok,
            Err(error) => {
                say(format_args!("cannot print completions: {error}"));
                Code::Own
            }
        }
    }
}

/// Writes manual pages into a directory
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Where to; it must exist
    dir: PathBuf,
}

impl Man {
    pub(super) fn run(self, mut command: Command) -> Code {
        command.build();
        match pages(&command, "procession", &self.dir) {
            Ok(()) => Code::Ok,
            Err(error) => {
                say(format_args!(
                    "cannot write manual pages into {}: {error}; make it first",
                    self.dir.display()
                ));
                Code::Own
            }
        }
    }
}

/// One page a verb.
fn pages(command: &Command, name: &str, dir: &Path) -> io::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).render(&mut page)?;
    fs::write(dir.join(format!("{name}.1")), page)?;
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    verbs.into_iter().try_for_each(|verb| pages(verb, &format!("{name}-{}", verb.get_name()), dir))
}
