//! The generator's command line: one measured window, one JSON line.
//!
//! `load` and `side_by_side load` are the same. Deliberately absent: starting the proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{Engine, Holder, Pace, Plan};
use crate::feed::{Feed, Tongue};
use crate::message::Shape;
use crate::meter::Meter;
use crate::pattern;
use crate::tls::TlsClient;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Loads a proxy and is its origin; prints one JSON line.")]
struct Arguments {
    #[command(subcommand)]
    kind: Kind,
    /// Where the proxy listens.
    #[arg(long, global = true)]
    target: Option<SocketAddr>,
    /// Where the origin of this process shall listen.
    #[arg(long, global = true)]
    origin: Option<SocketAddr>,
    /// Client connections.
    #[arg(long, global = true, default_value_t = 64)]
    connections: usize,
    /// Length of the measured window, seconds.
    #[arg(long, global = true, default_value_t = 1.5)]
    seconds: f64,
    /// Time before the window, seconds.
    #[arg(long, global = true, default_value_t = 0.4)]
    warmup: f64,
    /// Whose CPU and memory to read: cpuacct:DIR, unified:DIR or tree:PID.
    #[arg(long, global = true, value_parser = Meter::from_argument)]
    meter: Option<Meter>,
    /// Exchanges in a second, evenly spaced; without it each connection sends as soon as it is answered.
    #[arg(long, global = true)]
    rate: Option<u32>,
    /// TLS to the proxy.
    #[arg(long, global = true)]
    tls: bool,
    /// System calls to use.
    #[arg(long, global = true, value_enum, default_value = "auto")]
    engine: Engine,
    /// TLS sessions are resumed.
    #[arg(long, global = true)]
    resume: bool,
}

#[derive(Subcommand)]
enum Kind {
    /// HTTP/1.1 exchanges.
    Http {
        /// Length of the answer's body.
        #[arg(long, default_value_t = 128)]
        down: usize,
        /// Length of the request's body.
        #[arg(long, default_value_t = 0)]
        up: usize,
        /// A new connection for each exchange.
        #[arg(long)]
        close: bool,
        /// Different hosts asked for, in turn.
        #[arg(long, default_value_t = 1)]
        hosts: usize,
    },
    /// Messages over plain TCP.
    Tcp {
        /// Length of the question.
        #[arg(long, default_value_t = 128)]
        up: usize,
        /// Length of the answer.
        #[arg(long, default_value_t = 128)]
        down: usize,
    },
    /// Opens connections, one exchange on each, and reads the proxy's memory.
    Idle,
    /// Opens connections, one exchange on each, says `held`, and waits to be killed.
    Hold,
    /// Changes the table of the proxy at `--rate`; prints one JSON line of its own.
    Feed {
        /// How the proxy is told.
        #[arg(long)]
        tongue: Tongue,
        /// The socket of its API.
        #[arg(long)]
        socket: PathBuf,
        /// HAProxy's map file, or the job our routes lead to.
        #[arg(long)]
        subject: String,
        /// A host that is in the table from the start.
        #[arg(long)]
        known_host: String,
    },
    /// Exchanges at a rate while many idle clients of another process leave at once.
    Leave {
        /// Idle clients.
        #[arg(long, default_value_t = 9_000)]
        idle: usize,
        /// Command in front of the other process's own.
        #[arg(long, default_value = "")]
        prefix: String,
    },
}

/// Runs what the words of a command line ask for; the first word is the program's name.
pub fn main(words: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    match execute(&Arguments::parse_from(words)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("load: {text}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &Arguments) -> Result<String, String> {
    if let Kind::Feed { tongue, socket, subject, known_host } = &arguments.kind {
        let feed = Feed {
            tongue: *tongue,
            socket: socket.clone(),
            subject: subject.clone(),
            known_host: known_host.clone(),
            target: arguments.target.ok_or("--target is needed")?,
            rate: arguments.rate.unwrap_or(1_000),
            lasts: Duration::from_secs_f64(arguments.seconds),
        };
        return serde_json::to_string(&feed.run()?).map_err(|e| e.to_string());
    }
    let plan = plan(arguments)?;
    if matches!(arguments.kind, Kind::Hold) {
        // Never left alone: it goes when its starter goes.
        let kill = rustix::process::Signal::KILL;
        rustix::process::set_parent_process_death_signal(Some(kill)).map_err(|e| e.to_string())?;
        super::hold(plan)?;
        return Ok(String::new());
    }
    serde_json::to_string(&super::run(plan, arguments.engine)?).map_err(|e| e.to_string())
}

fn plan(arguments: &Arguments) -> Result<Plan, String> {
    let target = arguments.target.ok_or("--target is needed")?;
    let http = |up: usize, down: usize, close: bool, hosts: usize| {
        const HOSTS_SENT_MAX: usize = 20_000;
        let hosts = super::shuffled_hosts(hosts, HOSTS_SENT_MAX);
        let requests = hosts.iter().map(|host| super::request(host, up, close)).collect();
        let start: &[u8] =
            if up == 0 { b"GET /load HTTP/1.1\r\n" } else { b"POST /load HTTP/1.1\r\n" };
        let ask = Shape::Http { start, body: up };
        (requests, ask, Shape::Http { start: b"HTTP/1.1 200 ", body: down }, super::reply(down))
    };
    let (requests, ask, answer, reply) = match arguments.kind {
        Kind::Http { down, up, close, hosts } => http(up, down, close, hosts),
        Kind::Tcp { up, down } => {
            let (ask, answer) = (Shape::Fixed { bytes: up }, Shape::Fixed { bytes: down });
            (vec![pattern::body(up)], ask, answer, pattern::body(down))
        }
        Kind::Idle | Kind::Hold | Kind::Leave { .. } | Kind::Feed { .. } => http(0, 128, false, 1),
    };
    let pace = match (&arguments.kind, arguments.rate) {
        (Kind::Idle | Kind::Hold, _) => Pace::Once,
        (_, Some(rate)) => Pace::PerSecond(rate),
        (_, None) => Pace::Closed,
    };
    let holder = match &arguments.kind {
        Kind::Leave { idle, prefix } => Some(Holder {
            connections: *idle,
            leaves_after: Duration::from_secs_f64(arguments.seconds / 3.0),
            prefix: prefix.split_whitespace().map(str::to_owned).collect(),
        }),
        _ => None,
    };
    const IDLE_OPENING_MAX: usize = 64;
    Ok(Plan {
        target,
        origin: arguments.origin,
        connections: arguments.connections,
        opening_max: if pace == Pace::Once { IDLE_OPENING_MAX } else { arguments.connections },
        requests,
        answer,
        ask,
        reply,
        close_each: matches!(arguments.kind, Kind::Http { close: true, .. }),
        pace,
        warmup: Duration::from_secs_f64(arguments.warmup),
        window: Duration::from_secs_f64(arguments.seconds),
        tls: if arguments.tls { Some(TlsClient::new(arguments.resume)?) } else { None },
        meter: arguments.meter.clone(),
        holder,
    })
}
