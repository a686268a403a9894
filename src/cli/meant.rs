//! What was meant by a verb that there is none of.

use super::Procession;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, Error};

/// Letters in a wrong order count as one slip, which clap's own measure does not see in short words.
pub(super) fn suggest(error: &mut Error) {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else { return };
    let command = Procession::command();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(clap::Command::get_name);
    let mut near: Vec<(usize, &str)> = verbs.map(|verb| (slips(typed, verb), verb)).collect();
    near.retain(|(slips, verb)| *slips <= verb.len().div_ceil(3));
    near.sort_unstable();
    let best = near.first().map(|(slips, _)| *slips);
    let names: Vec<String> =
        near.iter().filter(|(slips, _)| Some(*slips) == best).map(|(_, verb)| (*verb).to_owned()).collect();
    if names.is_empty() {
        error.remove(ContextKind::SuggestedSubcommand);
    } else {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(names));
    }
}

/// How many letters were left out, put in, exchanged, or swapped with the next.
fn slips(typed: &str, meant: &str) -> usize {
    let (typed, meant): (Vec<char>, Vec<char>) = (typed.chars().collect(), meant.chars().collect());
    let mut rows = vec![vec![0; meant.len() + 1]; typed.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=meant.len()).collect();
    for i in 1..=typed.len() {
        for j in 1..=meant.len() {
            let same = usize::from(typed[i - 1] != meant[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && typed[i - 1] == meant[j - 2] && typed[i - 2] == meant[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[typed.len()][meant.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        let table =
            [("map", "map", 0), ("mpa", "map", 1), ("mp", "map", 1), ("stauts", "status", 1), ("", "run", 3)];
        for (typed, meant, count) in table {
            assert_eq!(slips(typed, meant), count, "{typed} {meant}");
        }
    }
}
