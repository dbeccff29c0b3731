//! Completion: a script for the shell, and the names that it asks for.
//!
//! Words of commands and flags are in the script; names of jobs, packages and endpoints come from the cluster, within
//! [`NAMES_BUDGET`], or not at all. Deliberately absent: a cache; the budget is short enough.

use crate::cli::{Cli, Shell};
use crate::client::escaped;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::session::Session;
use clap::CommandFactory;
use std::collections::BTreeSet;
use std::time::Duration;
use wire::{Job, Package};

/// A shell that waits longer feels broken.
const NAMES_BUDGET: Duration = Duration::from_millis(50);
/// Names that are offered.
const NAMES_MAX: usize = 200;

/// Adds the names to what the script offers.
const BASH: &str = r#"
_apc_with_names() {
    _apc "$@"
    local names
    names="$(apc __names -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)"
    COMPREPLY+=( $(compgen -W "$names" -- "${COMP_WORDS[COMP_CWORD]}") )
}
complete -F _apc_with_names -o bashdefault -o default apc
"#;
const ZSH: &str = r#"
_apc_with_names() {
    local -a names
    names=( ${(f)"$(apc __names -- "${(@)words[2,CURRENT]}" 2>/dev/null)"} )
    (( $#names )) && compadd -- $names
    _apc "$@"
}
compdef _apc_with_names apc
"#;
const FISH: &str = r#"
complete -c apc -f -a '(apc __names -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"#;

/// `apc completion bash`
pub(super) fn script(shell: Shell) -> Result<(), Failure> {
    let (kind, more) = match shell {
        Shell::Bash => (clap_complete::Shell::Bash, BASH),
        Shell::Zsh => (clap_complete::Shell::Zsh, ZSH),
        Shell::Fish => (clap_complete::Shell::Fish, FISH),
    };
    let mut text = Vec::new();
    clap_complete::generate(kind, &mut Cli::command(), "apc", &mut text);
    text.extend_from_slice(more.as_bytes());
    Screen::data(&String::from_utf8_lossy(&text));
    Ok(())
}

/// What stands at the cursor.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Apps,
    Jobs,
    Packages,
    Endpoints,
    Nothing,
}

/// `apc __names -- route weight e.com --app w`: silence is the answer to every error.
pub(super) async fn names(session: &Session, words: &[String]) -> Result<(), Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| *word != "--").collect();
    let found = tokio::time::timeout(NAMES_BUDGET, fetch(session, &wanted(&words))).await;
    let names = found.ok().and_then(Result::ok).unwrap_or_default();
    let start = words.last().copied().unwrap_or_default();
    let fits = names.iter().filter(|name| name.starts_with(start)).take(NAMES_MAX);
    Screen::data(&fits.map(|name| format!("{name}\n")).collect::<String>());
    Ok(())
}

/// From the noun, the verb, and the word before the cursor.
fn wanted(words: &[&str]) -> Wanted {
    let before =
        words.len().checked_sub(2).and_then(|at| words.get(at)).copied().unwrap_or_default();
    if before.starts_with('-') {
        return match before.trim_start_matches('-') {
            "app" | "a" => Wanted::Apps,
            "job" | "j" => Wanted::Jobs,
            "pkg-add" | "pkg-delete" | "filter-by-package" => Wanted::Packages,
            _ => Wanted::Nothing,
        };
    }
    // The third word is the name that the verb is about.
    match (words.len(), words.first().copied(), words.get(1).copied()) {
        (3, Some("app" | "application"), Some(verb)) if !matches!(verb, "create" | "list") => {
            Wanted::Apps
        }
        (3, Some("job"), Some(verb)) if verb != "list" => Wanted::Jobs,
        (3, Some("package"), Some("show" | "download" | "delete")) => Wanted::Packages,
        (3, Some("route"), Some(verb)) if !matches!(verb, "add" | "list") => Wanted::Endpoints,
        _ => Wanted::Nothing,
    }
}

async fn fetch(session: &Session, wanted: &Wanted) -> Result<BTreeSet<String>, Failure> {
    let client = session.client()?;
    if *wanted == Wanted::Nothing {
        return Ok(BTreeSet::new());
    }
    if *wanted == Wanted::Endpoints {
        let jobs: Vec<Job> = client.list("/jobs?health=false").await?;
        return Ok(jobs
            .iter()
            .flat_map(Job::routes)
            .map(|(_, route)| route.endpoint.clone())
            .collect());
    }
    let namespace = escaped(session.namespace().await?.as_str());
    if *wanted == Wanted::Packages {
        let packages: Vec<Package> =
            client.list(&format!("/packages?namespace={namespace}")).await?;
        return Ok(packages.iter().map(|package| package.fqn.local().to_owned()).collect());
    }
    let jobs: Vec<Job> = client.list(&format!("/jobs?health=false&namespace={namespace}")).await?;
    let fits = |job: &&Job| *wanted == Wanted::Jobs || super::app::is_app(job);
    Ok(jobs.iter().filter(fits).map(|job| job.fqn.local().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the place of the cursor tells which names are wanted.
    #[test]
    fn the_place_tells() {
        for (line, expected) in [
            ("app show ", Wanted::Apps),
            ("app create ", Wanted::Nothing),
            ("job logs w", Wanted::Jobs),
            ("route weight ", Wanted::Endpoints),
            ("route weight e.com --app ", Wanted::Apps),
            ("route weight e.com -j w", Wanted::Jobs),
            ("route weight e.com --weight ", Wanted::Nothing),
            ("package show ", Wanted::Packages),
            ("", Wanted::Nothing),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(wanted(&words), expected, "{line}");
        }
    }
}
