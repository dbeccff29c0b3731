//! From the words that people type to the words that the parser knows.
//!
//! ```text
//! apc -namespace=/a route weight e.com --p 80 --weight -10%
//!   → route weight --namespace=/a e.com --port=80 --weight=-10%
//! ```
//!
//! One dash and two mean the same, a short name may have several letters (`-ae`), a value may begin with a dash, a list
//! may go on in the next word after its comma, `--flag=false` takes a flag back. Unknown nouns, verbs and flags are
//! told here, with what was probably meant. Pure. Deliberately absent: what a flag means; the table of flags is the
//! parser's own.

use crate::failure::Failure;
use clap::{Arg, Command};
use std::collections::VecDeque;

/// Words on a command line; more is a mistake of a script.
const WORDS_MAX: usize = 10_000;
/// Flags whose value is a list with commas.
const LISTS: &[&str] =
    &["routes", "hard_tags", "soft_tags", "client_acl", "sticky_session_cookies", "depends_on"];
/// Names that are at most so far from what was typed are suggested.
const DISTANCE_MAX: usize = 2;

/// The words for the parser, without the name of the program. `root` must be built.
pub(crate) fn normalise(root: &Command, words: Vec<String>) -> Result<Vec<String>, Failure> {
    if words.len() > WORDS_MAX {
        return Err(Failure::usage(format!("{} words are too many", words.len())));
    }
    let mut walk = Walk { at: root, path: Vec::new(), flags: Vec::new(), rest: Vec::new() };
    let mut words: VecDeque<String> = words.into();
    while let Some(word) = words.pop_front() {
        if word == "--" {
            walk.rest.push(word);
            walk.rest.extend(words.drain(..));
        } else if is_flag(&word) {
            walk.flag(&word, &mut words)?;
        } else {
            walk.plain(word)?;
        }
    }
    Ok(walk.path.into_iter().chain(walk.flags).chain(walk.rest).collect())
}

/// Where the reading stands: the noun and verb so far, and what belongs behind them.
struct Walk<'a> {
    at: &'a Command,
    path: Vec<String>,
    flags: Vec<String>,
    rest: Vec<String>,
}

impl Walk<'_> {
    fn plain(&mut self, word: String) -> Result<(), Failure> {
        if !self.rest.is_empty() || !self.at.has_subcommands() {
            self.rest.push(word);
            return Ok(());
        }
        // `apc help app` and `apc app help` are `apc app -h`.
        if word == "help" {
            self.flags.push("-h".to_owned());
            return Ok(());
        }
        if let Some(next) = self.at.find_subcommand(&word) {
            self.at = next;
            self.path.push(next.get_name().to_owned());
            return Ok(());
        }
        if self.at.get_positionals().next().is_some() {
            self.rest.push(word);
            return Ok(());
        }
        let names = self.at.get_subcommands().filter(|verb| !verb.is_hide_set());
        let names: Vec<&str> = names.map(Command::get_name).collect();
        let (what, list) = if self.path.is_empty() {
            (format!("\"{word}\" is not a command"), "apc help".to_owned())
        } else {
            let noun = self.path.join(" ");
            (format!("\"{word}\" is not a verb of \"{noun}\""), format!("apc help {noun}"))
        };
        let failure = Failure::usage(what);
        Err(match nearest(&word, names.iter().copied()) {
            Some(name) => failure.hint(format!("apc {} {name}", self.path.join(" "))),
            None => failure.because(format!("known are {}", names.join(", "))).hint(list),
        })
    }

    fn flag(&mut self, word: &str, words: &mut VecDeque<String>) -> Result<(), Failure> {
        let bare = word.trim_start_matches('-');
        let (name, given) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (bare, None),
        };
        if matches!(name, "h" | "help") {
            // The letter asks for the short form.
            self.flags.push(if name == "h" { "-h" } else { "--help" }.to_owned());
            return Ok(());
        }
        // Global flags may stand anywhere, the others behind the verb that knows them.
        let Some(arg) = find(self.at, name) else {
            return Err(self.unknown(name));
        };
        let long = arg.get_long().expect("every flag has a long name");
        if !arg.get_action().takes_values() {
            match given.as_deref() {
                None | Some("true" | "1" | "yes") => self.flags.push(format!("--{long}")),
                Some("false" | "0" | "no") => {}
                Some(other) => {
                    return Err(Failure::usage(format!(
                        "--{long} takes no value, got \"{other}\""
                    )));
                }
            }
            return Ok(());
        }
        let value = match given {
            Some(value) => Some(value),
            None if is_optional(arg) => take_if_possible(arg, words),
            None => Some(words.pop_front().ok_or_else(|| {
                Failure::usage(format!("--{long} needs a value"))
                    .hint(format!("apc help {}", self.path.join(" ")))
            })?),
        };
        let Some(mut value) = value else {
            self.flags.push(format!("--{long}"));
            return Ok(());
        };
        if LISTS.contains(&arg.get_id().as_str()) {
            join_list(&mut value, words);
        }
        self.flags.push(format!("--{long}={value}"));
        Ok(())
    }

    fn unknown(&self, name: &str) -> Failure {
        let names =
            self.at.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(Arg::get_long);
        let shown = if self.path.is_empty() {
            "apc".to_owned()
        } else {
            format!("\"{}\"", self.path.join(" "))
        };
        let failure = Failure::usage(format!("{shown} has no flag {}", dashed(name)));
        match nearest(name, names) {
            Some(near) => failure.hint(dashed(near)),
            None => failure.hint(format!("apc help {}", self.path.join(" ")).trim_end().to_owned()),
        }
    }
}

/// A lone dash is a word; so is an empty one.
fn is_flag(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| !rest.trim_start_matches('-').is_empty())
}

fn dashed(name: &str) -> String {
    if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") }
}

/// By long name, by its other names, or by its letter.
fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        let mut letter = [0_u8; 4];
        arg.get_long() == Some(name)
            || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
            || arg.get_short().is_some_and(|short| &*short.encode_utf8(&mut letter) == name)
    })
}

fn is_optional(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|range| range.min_values() == 0)
}

/// The value of a flag that may go without one is the next word only if it is one of the values.
fn take_if_possible(arg: &Arg, words: &mut VecDeque<String>) -> Option<String> {
    let values = arg.get_possible_values();
    let fits =
        words.front().is_some_and(|word| values.iter().any(|value| value.matches(word, true)));
    if fits { words.pop_front() } else { None }
}

/// `--routes a.com, b.com` and `--routes a.com , b.com` are one list.
fn join_list(value: &mut String, words: &mut VecDeque<String>) {
    while let Some(next) = words.front() {
        let goes_on = value.trim_end().ends_with(',') && !is_flag(next);
        if !goes_on && !next.starts_with(',') {
            return;
        }
        value.push(' ');
        value.push_str(&words.pop_front().unwrap_or_default());
    }
}

/// What was probably meant.
pub(crate) fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = names.map(|name| (distance(typed, name), name)).min_by_key(|(far, _)| *far)?;
    let enough = near.0 <= DISTANCE_MAX && near.0 < near.1.chars().count();
    enough.then_some(near.1)
}

/// Letters to add, drop, change, or swap with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) =
        (from.chars().take(64).collect(), to.chars().take(64).collect());
    let mut rows = vec![vec![0_usize; to.len() + 1]; from.len() + 1];
    for (at, row) in rows.iter_mut().enumerate() {
        row[0] = at;
    }
    rows[0] = (0..=to.len()).collect();
    for a in 1..=from.len() {
        for b in 1..=to.len() {
            let same = usize::from(from[a - 1] != to[b - 1]);
            let mut best =
                (rows[a - 1][b] + 1).min(rows[a][b - 1] + 1).min(rows[a - 1][b - 1] + same);
            if a > 1 && b > 1 && from[a - 1] == to[b - 2] && from[a - 2] == to[b - 1] {
                best = best.min(rows[a - 2][b - 2] + 1);
            }
            rows[a][b] = best;
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests;
