//! The command line, run as a user runs it, with a home of its own.
//!
//! Deliberately absent: a terminal; prompts are not shown, progress is one line per change.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::program;
use crate::process::run;

/// `apc` with its own `APC_HOME`.
#[derive(Clone, Debug)]
pub struct Apc {
    home: PathBuf,
    directory: PathBuf,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The command, for messages.
    pub line: String,
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Data.
    pub out: String,
    /// Talk.
    pub err: String,
}

impl Ran {
    /// It went well.
    ///
    /// # Panics
    /// With both outputs, when it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(
            self.code, 0,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.out, self.err
        );
        self
    }

    /// It ended with this code.
    ///
    /// # Panics
    /// With both outputs, when it did not.
    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.out, self.err
        );
        self
    }

    /// Data as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("{}: {e}\n{}", self.line, self.out))
    }
}

impl Apc {
    /// A user whose home is below `folder`, standing in `directory`.
    ///
    /// # Panics
    /// When the folder is not writable.
    pub fn new(folder: &Path, directory: &Path) -> Self {
        let home = folder.join("apc-home");
        std::fs::create_dir_all(&home).expect("the folder is writable");
        Self { home, directory: directory.to_owned() }
    }

    /// The same user in another directory.
    #[must_use]
    pub fn standing_in(&self, directory: &Path) -> Self {
        Self { home: self.home.clone(), directory: directory.to_owned() }
    }

    /// Runs a line, split as a shell would: quotes keep words together.
    pub fn run(&self, line: &str) -> Ran {
        let output = run(&mut self.command(line));
        Ran {
            line: format!("apc {line}"),
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command, to be started by the caller.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(program("apc"));
        command.args(words(line)).env("APC_HOME", &self.home).current_dir(&self.directory);
        command.env_remove("APC_TARGET").env_remove("APC_TOKEN").env("NO_COLOR", "1");
        command
    }
}

/// Words of a line; `"` and `'` keep blanks.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    /// Goal: a line of the documents becomes the words that a shell makes of it.
    #[test]
    fn words_are_a_shells() {
        let line =
            r#"app create webapp --client-acl="allow 128.66.3.0/24, deny 128.66.0.0/16" -x ''"#;
        assert_eq!(
            super::words(line),
            [
                "app",
                "create",
                "webapp",
                "--client-acl=allow 128.66.3.0/24, deny 128.66.0.0/16",
                "-x",
                ""
            ]
        );
    }
}
