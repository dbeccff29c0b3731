//! The program `router`: command line, signals, and the order in which things start and end.
//!
//! ```text
//!  router --config FILE      serve           router check FILE    is the file good? 0 or 2
//!  router                    demonstration   router version
//!
//!  SIGHUP: read the file again   SIGUSR1: open the log again   SIGTERM, SIGINT: drain; twice: end at once
//! ```
//!
//! Deliberately absent: whatever can be tested without a process. It is in the library.

mod serve;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use router::config::{self, Config};
use router::run::EngineChoice;
use router::tls::TlsStore;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Edge router: HTTP, HTTPS and TCP by a live table.
#[derive(Parser)]
#[command(
    name = "router",
    disable_version_flag = true,
    after_help = "Without --config: a demonstration with two origins of its own.\n\n\
        Signals:\n  SIGHUP   read the file again    SIGUSR1  open the access log again\n  \
        SIGTERM  drain and end          SIGTERM twice: end at once\n\n\
        Exit codes: 0 done, 1 could not start or serve, 2 usage or a bad file"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file; watched, and read again on SIGHUP.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to talk to the kernel. auto: io_uring where it is allowed, else epoll.
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,
    /// Threads that serve; overrides the file. Without both: one for each processor.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    cores: Option<u16>,
}

#[derive(Subcommand)]
enum Command {
    /// Validate a file, certificates included, without starting.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Print the version.
    Version,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Epoll,
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::IoUring => Self::IoUring,
            Engine::Epoll => Self::Epoll,
        }
    }
}

const BAD_FILE: u8 = 2;

fn main() -> ExitCode {
    // One crypto provider in the process, before anybody asks for one. An error means that it is there already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Check { file }) => check(&file),
        Some(Command::Version) => {
            println!("router {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        None => run(arguments),
    }
}

fn check(file: &Path) -> ExitCode {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(errors) => {
            eprint!("{errors}");
            return ExitCode::from(BAD_FILE);
        }
    };
    let name = file.display().to_string();
    tell_warnings(&config, &name);
    let certificates = TlsStore::check(&config.settings.certificates);
    for error in &certificates {
        let (file, why, hint) = (error.file.display(), &error.why, &error.hint);
        eprintln!("error[certificate]: {file}: {why}\n  try: {hint}");
    }
    if !certificates.is_empty() {
        return ExitCode::from(BAD_FILE);
    }
    let instances: usize = config.desired.jobs.values().map(|job| job.instances.len()).sum();
    let counts = [
        config::count(config.desired.routes.len(), "route"),
        config::count(config.desired.jobs.len(), "job"),
        config::count(instances, "instance"),
        config::count(config.settings.certificates.len(), "certificate"),
    ];
    println!("{name}: good; {}", counts.join(", "));
    ExitCode::SUCCESS
}

fn tell_warnings(config: &Config, file: &str) {
    for warning in &config.warnings {
        let mut text = String::new();
        if warning.write(&mut text, file).is_ok() {
            eprint!("{text}");
        }
    }
}

fn run(arguments: Arguments) -> ExitCode {
    let loaded = match &arguments.config {
        Some(file) => config::load(file).map_err(|errors| (errors.to_string(), BAD_FILE)),
        None => router::demo::start().map_err(|error| (format!("error[demo]: {error}\n"), 1)),
    };
    let config = match loaded {
        Ok(config) => config,
        Err((text, code)) => {
            eprint!("{text}");
            return ExitCode::from(code);
        }
    };
    if let Some(file) = &arguments.config {
        tell_warnings(&config, &file.display().to_string());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.map_err(serve::ServeError::from).and_then(|runtime| {
        let Arguments { config: file, engine, cores, .. } = arguments;
        let served = runtime.block_on(serve::serve(config, file, engine.into(), cores));
        // Blocking work of a reload that was cut off must not hold up the end.
        runtime.shutdown_background();
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error[start]: {error}");
            ExitCode::FAILURE
        }
    }
}
