//! `apc`: the command line of the platform.
//!
//! ```text
//! words → argv (one form) → cli (which command) → commands (requests) → data on stdout, talk on stderr, exit code
//! ```
//!
//! Deliberately absent: anything that the API does not offer to everybody.

mod argv;
mod cli;
mod client;
mod commands;
mod edit;
mod failure;
mod ignore;
mod pack;
mod screen;
mod session;
mod settings;
mod start_command;
mod table;
mod units;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use cli::{Cli, Globals, Noun};
use failure::{Exit, Failure};
use screen::Screen;
use session::Session;
use std::process::ExitCode;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // One line, no stack: the place is enough for a report.
        let place = panic
            .location()
            .map(|at| format!(" at {}:{}", at.file(), at.line()))
            .unwrap_or_default();
        eprintln!("Error: apc has a bug{place}");
        std::process::exit(Exit::Failed as i32);
    }));
    let words: Result<Vec<String>, _> =
        std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect();
    let words = words.map_err(|word| Failure::usage(format!("{} is not UTF-8", word.display())));
    let cli = match words.and_then(parse) {
        Ok(Parsed::Command(cli)) => cli,
        Ok(Parsed::Text(text)) => {
            Screen::data(&text);
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Unsaid(text)) => {
            // A script with an empty variable must notice.
            screen::aside(text.trim_end());
            return exit_code(Exit::Usage);
        }
        Err(failure) => return told(&Globals::default(), &failure),
    };
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return told(&cli.globals, &Failure::failed("the cryptography is installed twice"));
    }
    // Requests and waits are all that is to do; one thread and the pool for files suffice.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run(cli));
            // Nobody waits for a thread that reads a file.
            runtime.shutdown_background();
            code
        }
        Err(error) => told(&cli.globals, &Failure::failed("no runtime").because(error.to_string())),
    }
}

/// What the words are.
enum Parsed {
    Command(Cli),
    /// Help, or the version.
    Text(String),
    /// Help, because it is not said what is to be done.
    Unsaid(String),
}

fn parse(words: Vec<String>) -> Result<Parsed, Failure> {
    let mut root = Cli::command();
    root.build();
    if matches!(words.as_slice(), [word] if word == "--version" || word == "-V") {
        return Ok(Parsed::Text(format!("apc {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let words = argv::normalise(&root, words)?;
    let command: Vec<&str> =
        words.iter().map_while(|word| (!word.starts_with('-')).then_some(word.as_str())).collect();
    let help = format!("apc help {}", command[..command.len().min(2)].join(" "));
    let matches = match Cli::command()
        .try_get_matches_from(std::iter::once("apc").chain(words.iter().map(String::as_str)))
    {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Ok(Parsed::Unsaid(error.render().to_string()));
        }
        Err(error) if !error.use_stderr() => return Ok(Parsed::Text(error.render().to_string())),
        Err(error) => return Err(refused(&error, help.trim())),
    };
    Cli::from_arg_matches(&matches)
        .map(Parsed::Command)
        .map_err(|error| refused(&error, help.trim()))
}

/// The parser's complaint in our form: its first lines say what, its usage says what to try.
fn refused(error: &clap::Error, help: &str) -> Failure {
    let text = error.render().to_string();
    let mut parts = text.trim_start_matches("error: ").split("\n\n");
    let what = parts.next().unwrap_or_default();
    let usage = parts.find_map(|part| part.trim().strip_prefix("Usage: "));
    let failure = Failure::usage(what.trim());
    match usage {
        Some(usage) => failure.because(format!("the form is: {}", usage.trim())).hint(help),
        None => failure.hint(help),
    }
}

async fn run(cli: Cli) -> ExitCode {
    let Cli { globals, noun } = cli;
    let mut session = match Session::new(globals.clone()) {
        Ok(session) => session,
        Err(failure) => return told(&globals, &failure),
    };
    let quiet = matches!(noun, Noun::Names { .. });
    let follows = noun.follows();
    let interrupted = async {
        // Without the signal's handler the process just ends, which is as good.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let done = tokio::select! {
        done = commands::run(&mut session, noun) => Some(done),
        () = interrupted => None,
    };
    match done {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(failure)) => {
            if !quiet {
                print(&session, &failure);
            }
            exit_code(failure.exit)
        }
        // Whoever follows ends it so.
        None if follows => ExitCode::SUCCESS,
        None => {
            let failure = match session.screen.resume() {
                Some(command) => Failure::new(Exit::TimedOut, "interrupted")
                    .because("the cluster goes on with it")
                    .hint(command),
                None => Failure::failed("interrupted"),
            };
            session.screen.say("");
            session.screen.error(&failure);
            exit_code(failure.exit)
        }
    }
}

/// With `--json`, what the API said is data.
fn print(session: &Session, failure: &Failure) {
    if let Some(api) = &failure.api {
        drop(session.print_json(api));
    }
    session.screen.error(failure);
}

fn told(globals: &Globals, failure: &Failure) -> ExitCode {
    Screen::new(globals.quiet, globals.batch, globals.no_color).error(failure);
    exit_code(failure.exit)
}

fn exit_code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}
