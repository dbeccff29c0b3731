//! Talk: what the user reads beside the data. It goes to standard error, so that a script gets data only.
//!
//! On a terminal a step is a line that ends when the step does; elsewhere it is printed once, whole. Questions are
//! asked on a terminal only, and not with `--batch`; the default is taken otherwise. Deliberately absent: data, which
//! commands print with [`Screen::data`] and nothing else.

use crate::failure::Failure;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::Mutex;

/// Bytes of an answer to a question.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Times that a question is repeated after an answer that makes no sense.
const ASKS_MAX: u32 = 5;

/// The terminal, or what stands for it.
#[derive(Debug)]
pub(crate) struct Screen {
    quiet: bool,
    live: bool,
    asks: bool,
    colour: bool,
    /// How to go on after Ctrl-C.
    resume: Mutex<Option<String>>,
}

impl Screen {
    pub(crate) fn new(quiet: bool, batch: bool, no_colour: bool) -> Self {
        let live = std::io::stderr().is_terminal();
        let no_colour =
            no_colour || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            quiet,
            live: live && !quiet,
            asks: live && !batch && !quiet && std::io::stdin().is_terminal(),
            colour: live && !no_colour && !dumb,
            resume: Mutex::new(None),
        }
    }

    /// One line of talk.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            to_stderr(&format!("{}\n", line.as_ref()));
        }
    }

    /// Several lines of talk, with their ends.
    pub(crate) fn say_block(&self, text: &str) {
        if !self.quiet {
            to_stderr(text);
        }
    }

    /// `Success!`
    pub(crate) fn success(&self) {
        self.say(self.painted("32", "Success!"));
    }

    /// The error, always.
    pub(crate) fn error(&self, failure: &Failure) {
        let text = failure.render();
        match text.strip_prefix("Error:") {
            Some(rest) => to_stderr(&format!("{}{rest}", self.painted("31", "Error:"))),
            None => to_stderr(&text),
        }
    }

    /// Data, for standard output. A reader that has gone away ends the program quietly, a full disk does not.
    pub(crate) fn data(text: &str) {
        let mut out = std::io::stdout().lock();
        let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) else { return };
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        let failure = Failure::failed("the output cannot be written").because(error.to_string());
        to_stderr(&failure.render());
        std::process::exit(failure.exit as i32);
    }

    /// `Creating app "x"...` now, `done` or `error` later.
    pub(crate) fn step(&self, doing: impl Into<String>) -> Step<'_> {
        let doing = doing.into();
        if self.live {
            to_stderr(&format!("{doing}... "));
        }
        Step { screen: self, doing, ended: false }
    }

    /// The line at the cursor becomes this one; nothing where lines cannot be changed.
    pub(crate) fn live_line(&self, text: &str) {
        if self.live {
            to_stderr(&format!("\r\u{1b}[K{text}"));
        }
    }

    /// The line at the cursor goes.
    pub(crate) fn clear_live_line(&self) {
        self.live_line("");
    }

    /// A change that matters: one line where lines cannot be changed.
    pub(crate) fn change(&self, line: &str) {
        if !self.live {
            self.say(line);
        }
    }

    /// Asks `Instances [1]: `; the default without a terminal or for an empty answer.
    pub(crate) fn ask(&self, question: &str, default: &str) -> Result<String, Failure> {
        if !self.asks {
            return Ok(default.to_owned());
        }
        to_stderr(&format!("{question} [{default}]: "));
        let answer = read_answer()?;
        Ok(if answer.is_empty() { default.to_owned() } else { answer })
    }

    /// Asks `Is this correct? [Y/n]: `; yes without a terminal.
    pub(crate) fn confirm(&self, question: &str) -> Result<bool, Failure> {
        for _ in 0..ASKS_MAX {
            if !self.asks {
                return Ok(true);
            }
            to_stderr(&format!("{question} [Y/n]: "));
            match read_answer()?.to_ascii_lowercase().as_str() {
                "" | "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Asks for something that nobody may see; none without a terminal.
    pub(crate) fn ask_secret(&self, question: &str) -> Result<Option<String>, Failure> {
        if !self.asks {
            return Ok(None);
        }
        to_stderr(&format!("{question}: "));
        let hidden = stty("-echo");
        let answer = read_answer();
        if hidden {
            stty("echo");
            to_stderr("\n");
        }
        answer.map(Some)
    }

    /// What to say when the user interrupts from now on.
    pub(crate) fn resume_with(&self, command: impl Into<String>) {
        *self.resume.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(command.into());
    }

    /// What to say now that the user interrupted.
    pub(crate) fn resume(&self) -> Option<String> {
        self.resume.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A step that was begun; one that is dropped failed.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    screen: &'a Screen,
    doing: String,
    ended: bool,
}

impl Step<'_> {
    /// `done`
    pub(crate) fn done(self) {
        self.end("done");
    }

    /// `done!`, `error`, …
    pub(crate) fn end(mut self, how: &str) {
        self.finish(how);
    }

    /// How far it is.
    pub(crate) fn progress(&self, text: &str) {
        self.screen.live_line(&format!("{}... {text}", self.doing));
    }

    fn finish(&mut self, how: &str) {
        self.ended = true;
        if self.screen.live {
            to_stderr(&format!("\r\u{1b}[K{}... {how}\n", self.doing));
        } else {
            self.screen.say(format!("{}... {how}", self.doing));
        }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.finish("error");
        }
    }
}

/// A line of talk in the middle of a step: the step's own line comes again when it ends.
pub(crate) fn aside(line: &str) {
    let begin = if std::io::stderr().is_terminal() { "\r\u{1b}[K" } else { "" };
    to_stderr(&format!("{begin}{line}\n"));
}

/// Nobody is left to tell when standard error is closed.
fn to_stderr(text: &str) {
    let mut err = std::io::stderr().lock();
    drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
}

fn read_answer() -> Result<String, Failure> {
    let mut answer = String::new();
    let mut bounded = std::io::Read::take(std::io::stdin().lock(), ANSWER_BYTES_MAX as u64);
    let read = bounded.read_line(&mut answer);
    match read {
        Ok(0) => Err(Failure::failed("there was no answer").hint("--batch takes the defaults")),
        Ok(_) => Ok(answer.trim().to_owned()),
        Err(error) => Err(Failure::failed("the answer cannot be read").because(error.to_string())),
    }
}

/// The shell's own tool spares us a system call that is not safe.
fn stty(mode: &str) -> bool {
    std::process::Command::new("stty").arg(mode).status().is_ok_and(|status| status.success())
}
