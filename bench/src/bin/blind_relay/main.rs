//! The floor of every comparison: a relay that opens one connection to the origin for each client and copies.
//!
//! One thread, nothing looked at. Deliberately absent: whatever a proxy is for. What a proxy costs above this is
//! its own.

mod epoll;
mod ring;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(about = "Copies bytes between clients and one origin.")]
struct Arguments {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where to connect to.
    #[arg(long)]
    origin: SocketAddr,
    /// System calls to use.
    #[arg(long, value_enum, default_value = "epoll")]
    engine: Engine,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Epoll,
    IoUring,
}

fn main() -> ExitCode {
    let Arguments { listen, origin, engine } = Arguments::parse();
    let outcome = match engine {
        Engine::Epoll => epoll::run(listen, origin),
        Engine::IoUring => ring::run(listen, origin),
    };
    match outcome {
        Ok(never) => match never {},
        Err(text) => {
            eprintln!("blind_relay: {text}");
            ExitCode::FAILURE
        }
    }
}
