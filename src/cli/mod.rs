//! The operator's words: what may be typed, and what is said back. All packages for terminals stay behind this door.

mod around;
mod budget;
pub mod compare;
pub(crate) mod duration;
mod exit;
mod happenings;
mod map;
mod meant;
mod place;
mod run;
mod shell;
mod signals;
pub(crate) mod size;
mod table;
mod talk;

pub(crate) use exit::Code;

use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Programs in real processes, kept in order: no daemon, no configuration, and nothing survives.
#[derive(Debug, Parser)]
#[command(name = "procession", version, max_term_width = 110, propagate_version = false)]
#[command(subcommand_required = true, arg_required_else_help = true, infer_subcommands = false)]
#[command(after_help = exit::TABLE)]
pub struct Procession {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Map(Box<map::MapArgs>),
    Run(Box<run::Run>),
    Status(talk::Status),
    Logs(talk::Logs),
    Events(talk::Events),
    Wait(talk::Wait),
    Start(talk::Start),
    Stop(talk::Stop),
    Restart(talk::Restart),
    Scale(talk::Scale),
    Signal(talk::Signal),
    Compare(compare::Compare),
    #[command(hide = true)]
    Completions(shell::Completions),
    #[command(hide = true)]
    Man(shell::Man),
}

impl Verb {
    fn run(self) -> Code {
        match self {
            Self::Map(map) => map.run(),
            Self::Run(run) => run.run(),
            Self::Status(status) => status.run(),
            Self::Logs(logs) => logs.run(),
            Self::Events(events) => events.run(),
            Self::Wait(wait) => wait.run(),
            Self::Start(start) => start.run(),
            Self::Stop(stop) => stop.run(),
            Self::Restart(restart) => restart.run(),
            Self::Scale(scale) => scale.run(),
            Self::Signal(signal) => signal.run(),
            Self::Compare(compare) => compare.run(),
            Self::Completions(completions) => completions.run(command()),
            Self::Man(man) => man.run(command()),
        }
    }
}

/// Says something of the tool's own, on stderr: stdout belongs to the programs. Nobody may be there to hear it.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "procession: {text}");
}

/// What may be typed.
fn command() -> Command {
    let programs = ["map", "run", "compare"];
    Procession::command().mut_subcommands(|verb| {
        if programs.contains(&verb.get_name()) || verb.is_hide_set() {
            verb
        } else {
            verb.after_help(exit::TALK)
        }
    })
}

/// `-h` fits a screen: each option a line, and no table.
fn brief(command: Command) -> Command {
    command.mut_subcommands(|verb| {
        let verb = if verb.get_after_help().is_some() { verb } else { verb.after_help(exit::LINE) };
        verb.mut_args(|option| {
            let option = option.help_heading(None::<&str>);
            let has_value = option.get_action().takes_values();
            if has_value { option.hide_possible_values(true).hide_default_value(true) } else { option }
        })
    })
}

/// The tool, from its arguments to its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let mut command = command();
    if std::env::args_os().take_while(|word| word != "--").any(|word| word == "-h") {
        command = brief(command);
    }
    let matches = match command.try_get_matches() {
        Ok(matches) => matches,
        Err(mut error) => {
            meant::suggest(&mut error);
            let _ = error.print();
            return if error.use_stderr() { Code::Own } else { Code::Ok }.into();
        }
    };
    match Procession::from_arg_matches(&matches) {
        Ok(procession) => procession.verb.run().into(),
        Err(error) => {
            let _ = error.print();
            Code::Own.into()
        }
    }
}
