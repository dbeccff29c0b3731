//! Runs our router and every peer that is found under the same load, one after another on the same CPU in
//! shuffled rounds, and prints a Markdown table.
//!
//! Deliberately absent: any number of an earlier run. What is compared was measured minutes apart.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bench::outcome::Outcome;
use bench::peers::{Kind, Peer, Setup};
use bench::process::{self, Place, Running};
use bench::rows::{self, QUICK, Row};
use bench::table::{self, Line};
use bench::tls::SERVER_NAME;
use clap::Parser;

#[derive(Parser)]
#[command(
    about = "Compares our router with nginx, HAProxy and a blind relay, one core each, in turn."
)]
struct Arguments {
    /// Rows, comma-separated; all when absent.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Rounds: how often each peer is measured in each row.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of a measured window, seconds.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Another peer, name=path[,option…]; the name begins with router, nginx, haproxy, blind or relay.
    #[arg(long, value_parser = Peer::from_argument)]
    peer: Vec<Peer>,
    /// Peers taking part, by name, comma-separated; all found when absent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A few seconds in all: shows that everything runs, measures nothing of worth.
    #[arg(long)]
    quick: bool,
    /// Peers add every header that our router adds, not only X-Forwarded-For.
    #[arg(long)]
    same_headers: bool,
    /// Idle connections; as many as descriptors allow when absent.
    #[arg(long)]
    idle: Option<usize>,
    /// CPU of the proxy.
    #[arg(long, default_value_t = 0)]
    proxy_cpu: usize,
    /// CPU of the generator and origin.
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
    /// No real-time priority, even where it is allowed.
    #[arg(long)]
    no_priority: bool,
    /// Seed of the order within rounds.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes every single outcome to this file, JSON lines.
    #[arg(long)]
    raw: Option<PathBuf>,
}

const PROXY_PRIORITY: u8 = 10;
const LOAD_PRIORITY: u8 = 20;
/// The process that holds idle connections, or feeds changes, comes behind the others.
const SECOND_PRIORITY: u8 = 1;
const IDLE_MAX: usize = 10_000;
/// A run that takes longer than its window and this has hung.
const RUN_EXTRA: Duration = Duration::from_secs(60);

/// What the rounds of one peer in one row gave; `None` where the peer cannot do it.
type Runs = Vec<Option<Result<Outcome, String>>>;

struct Bench {
    arguments: Arguments,
    peers: Vec<Peer>,
    directory: PathBuf,
    has_priority: bool,
    idle: usize,
}

fn main() -> ExitCode {
    // One program carries the generator, too, so that the two can never be of different builds.
    if std::env::args().nth(1).is_some_and(|word| word == "load") {
        return bench::load::main(std::env::args_os().skip(1));
    }
    let outcome = execute(Arguments::parse());
    if let Err(text) = &outcome {
        eprintln!("side_by_side: {text}");
    }
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn execute(mut arguments: Arguments) -> Result<(), String> {
    if arguments.quick {
        arguments.rounds = 1;
        arguments.seconds = 0.2;
        arguments.idle.get_or_insert(500);
        if arguments.rows.is_empty() {
            arguments.rows = QUICK.map(str::to_owned).to_vec();
        }
    }
    let mut peers = Peer::find_all();
    // One that is named takes the place of one that is found.
    peers.retain(|found| arguments.peer.iter().all(|named| named.name != found.name));
    peers.extend(arguments.peer.clone());
    peers.sort_by_key(|peer| peer.kind);
    if !arguments.only.is_empty() {
        peers.retain(|peer| arguments.only.contains(&peer.name));
    }
    if peers.is_empty() {
        return Err("no proxy found; name one by --peer name=path".to_owned());
    }
    let directory = process::make_directory()?;
    let rows = rows::choose(&arguments.rows)?;
    let has_priority = !arguments.no_priority && process::can_prioritize();
    let idle = arguments.idle.unwrap_or_else(idle_by_descriptors);
    let bench = Bench { arguments, peers, directory, has_priority, idle };
    let result = bench.make_certificate().and_then(|()| bench.run(&rows));
    fs::remove_dir_all(&bench.directory).ok();
    result
}

/// Connections of which a proxy that takes two descriptors for each can hold all.
fn idle_by_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    (limit.saturating_sub(2_000) / 2).min(IDLE_MAX)
}

impl Bench {
    fn make_certificate(&self) -> Result<(), String> {
        // rcgen's default key is ECDSA P-256, the cheapest that all peers know.
        let names = vec![SERVER_NAME.to_owned(), format!("*.{SERVER_NAME}")];
        let made = rcgen::generate_simple_self_signed(names).map_err(|e| e.to_string())?;
        let write = |name: &str, text: String| {
            fs::write(self.directory.join(name), text).map_err(|e| format!("{name}: {e}"))
        };
        write("chain.pem", made.cert.pem())?;
        write("key.pem", made.signing_key.serialize_pem())
    }

    fn run(&self, rows: &[&Row]) -> Result<(), String> {
        let rounds = self.arguments.rounds;
        let mut found: Vec<Vec<Runs>> =
            rows.iter().map(|_| self.peers.iter().map(|_| Vec::new()).collect()).collect();
        let mut order = Order(self.arguments.seed);
        let mut raw = String::new();
        for round in 1..=rounds {
            for (row, results) in rows.iter().zip(&mut found) {
                for peer in order.shuffled(self.peers.len()) {
                    let result = self.run_one(row, &self.peers[peer]).transpose();
                    self.note(round, row, peer, result.as_ref(), &mut raw);
                    results[peer].push(result);
                }
            }
            if let Some(path) = &self.arguments.raw {
                fs::write(path, &raw).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
        self.print(rows, &found);
        let failed =
            found.iter().flatten().flatten().flatten().filter(|result| result.is_err()).count();
        if failed > 0 { Err(format!("{failed} runs failed")) } else { Ok(()) }
    }

    fn note(
        &self,
        round: usize,
        row: &Row,
        peer: usize,
        result: Option<&Result<Outcome, String>>,
        raw: &mut String,
    ) {
        let name = &self.peers[peer].name;
        match result {
            None => {}
            Some(Err(text)) => {
                eprintln!("round {round} {:<12} {name:<12} FAILED: {text}", row.name)
            }
            Some(Ok(outcome)) => {
                let values: Vec<String> = row
                    .readings
                    .iter()
                    .map(|r| format!("{:.2} {}", (r.of)(outcome), r.unit))
                    .collect();
                let (rate, busy, own) = (outcome.rate(), outcome.proxy_busy(), outcome.own_busy());
                let text = values.join(", ");
                eprintln!(
                    "round {round} {:<12} {name:<12} {text}  ({rate:.0}/s, busy {busy:.2}, load {own:.2}, failed {})",
                    row.name, outcome.failed
                );
                if let Some(fault) = &outcome.first_fault {
                    eprintln!("      first failure: {fault}");
                }
                if let Some(wrong) = outcome.fed.as_ref().and_then(|fed| fed.first_wrong.as_ref()) {
                    eprintln!("      first change confirmed too early got: {wrong}");
                }
                let line = serde_json::json!({ "round": round, "row": row.name, "peer": name, "outcome": outcome });
                raw.push_str(&line.to_string());
                raw.push('\n');
            }
        }
    }

    /// One peer under one load. `None` when the peer cannot do it.
    fn run_one(&self, row: &Row, peer: &Peer) -> Result<Option<Outcome>, String> {
        if matches!(peer.kind, Kind::Blind | Kind::Relay) && !row.blind {
            return Ok(None);
        }
        let (listen, origin) = process::free_addresses()?;
        let setup = Setup {
            listen,
            origin,
            protocol: row.protocol,
            hosts: row.hosts,
            directory: self.directory.clone(),
            certificate: self.directory.join("chain.pem"),
            key: self.directory.join("key.pem"),
            bulk: row.bulk,
            same_headers: self.arguments.same_headers,
        };
        let Some(command) = peer.command(&setup)? else { return Ok(None) };
        let feed = if row.changes_per_second > 0 { peer.feed_words(&setup) } else { None };
        if row.changes_per_second > 0 && feed.is_none() {
            return Ok(None);
        }
        let log = self.directory.join("proxy.log");
        let priority = |level| self.has_priority.then_some(level);
        let place = Place { cpu: self.arguments.proxy_cpu, priority: priority(PROXY_PRIORITY) };
        let mut proxy = Running::start(&command, place, &log)?;
        proxy.wait_for(listen, &log)?;
        let outcome = self.load(row, &setup, &proxy, feed)?;
        let failed_share =
            outcome.failed as f64 / (outcome.completed + outcome.failed).max(1) as f64;
        const FAILED_SHARE_MAX: f64 = 0.001;
        // A row about changes reports its failures as a number of its own.
        if failed_share > FAILED_SHARE_MAX && row.changes_per_second == 0 {
            let fault = outcome.first_fault.unwrap_or_default();
            return Err(format!("{} of {} failed: {fault}", outcome.failed, outcome.completed));
        }
        Ok(Some(outcome))
    }

    /// The words that start the generator's program at a priority.
    fn load_program(&self, priority: u8) -> Result<Vec<String>, String> {
        let place =
            Place { cpu: self.arguments.load_cpu, priority: self.has_priority.then_some(priority) };
        let mut words = vec!["--pdeathsig".to_owned(), "KILL".to_owned()];
        words.extend(place.prefix());
        words.extend(bench::load::own_command()?);
        Ok(words)
    }

    fn load(
        &self,
        row: &Row,
        setup: &Setup,
        proxy: &Running,
        feed: Option<Vec<String>>,
    ) -> Result<Outcome, String> {
        let mut words = self.load_program(LOAD_PRIORITY)?;
        words.extend(row.load.iter().map(|word| (*word).to_owned()));
        let is_idle = row.load[0] == "idle";
        let connections = if is_idle { self.idle } else { row.connections };
        let seconds = self.arguments.seconds * row.window_scale;
        let warmup = (self.arguments.seconds / 4.0).clamp(0.1, 0.5);
        words.extend(["--target".to_owned(), setup.listen.to_string()]);
        words.extend(["--origin".to_owned(), setup.origin.to_string()]);
        words.extend(["--connections".to_owned(), connections.to_string()]);
        words.extend([
            "--seconds".to_owned(),
            seconds.to_string(),
            "--warmup".to_owned(),
            warmup.to_string(),
        ]);
        words.extend(["--meter".to_owned(), proxy.meter().to_argument()]);
        if row.load[0] == "leave" {
            let priority = self.has_priority.then_some(SECOND_PRIORITY);
            let holder = Place { cpu: self.arguments.load_cpu, priority };
            words.extend(["--idle".to_owned(), self.idle.min(9_000).to_string()]);
            words.extend(["--prefix".to_owned(), holder.prefix().join(" ")]);
        }
        let longest = Duration::from_secs_f64(seconds) + RUN_EXTRA;
        let load = Bounded::start(&words, longest)?;
        let fed = match feed {
            None => None,
            Some(feed) => {
                // The changes begin before the window and end after it.
                let mut words = self.load_program(SECOND_PRIORITY)?;
                words.extend(feed);
                words.extend(["--target".to_owned(), setup.listen.to_string()]);
                words.extend(["--rate".to_owned(), row.changes_per_second.to_string()]);
                words.extend(["--seconds".to_owned(), (seconds + warmup).to_string()]);
                Some(Bounded::start(&words, longest)?)
            }
        };
        let output = load.finish()?;
        let mut outcome: Outcome =
            serde_json::from_str(&output).map_err(|e| format!("{output:?}: {e}"))?;
        if let Some(fed) = fed {
            let output = fed.finish().map_err(|text| format!("changes: {text}"))?;
            outcome.fed =
                Some(serde_json::from_str(&output).map_err(|e| format!("{output:?}: {e}"))?);
        }
        Ok(outcome)
    }

    fn print(&self, rows: &[&Row], found: &[Vec<Runs>]) {
        let mut lines = Vec::new();
        let mut weather = Vec::new();
        for (row, results) in rows.iter().zip(found) {
            let cells = |of: &dyn Fn(&Outcome) -> f64| -> Vec<Option<table::Values>> {
                let value = |run: &Option<Result<Outcome, String>>| {
                    run.as_ref().map(|result| result.as_ref().ok().map(of))
                };
                results.iter().map(|runs| runs.iter().map(value).collect()).collect()
            };
            let line = |unit: &str, of: &dyn Fn(&Outcome) -> f64| Line {
                title: row.title.to_owned(),
                unit: unit.to_owned(),
                cells: cells(of),
            };
            lines.extend(row.readings.iter().map(|reading| line(reading.unit, &reading.of)));
            if row.readings[0].unit == "µs CPU" {
                weather.push(line("per second", &Outcome::rate));
                weather.push(line("proxy busy", &Outcome::proxy_busy));
                weather.push(line("load busy", &Outcome::own_busy));
            }
            let failed = |outcome: &Outcome| outcome.failed as f64;
            if results.iter().flatten().flatten().flatten().any(|outcome| outcome.failed > 0) {
                weather.push(line("failed", &failed));
            }
        }
        let names: Vec<String> = self.peers.iter().map(|peer| peer.name.clone()).collect();
        let first = self.peers.iter().position(|peer| peer.kind == Kind::Router);
        println!("{}\n", self.headline());
        println!("{}", table::markdown(&names, first, &lines));
        println!("How the machine was used in these runs:\n");
        println!("{}", table::markdown(&names, None, &weather));
    }

    fn headline(&self) -> String {
        let text = |program: &str, words: &[&str]| {
            let output = Command::new(program).args(words).stderr(Stdio::null()).output();
            output.map_or(String::new(), |output| {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            })
        };
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut lines = vec![
            format!(
                "Machine: {} × {}, Linux {}; load average at the end {}.",
                cpus,
                model.trim_start_matches(['\t', ':', ' ']),
                text("uname", &["-r"]),
                load.split(' ').next().unwrap_or("")
            ),
            format!(
                "Commit {} of {}; {} rounds of {} s, seed {}; proxy on CPU {}, clients and origin on CPU {}; \
                 real-time priority {}; {} idle connections; headers added by peers: {}.",
                text("git", &["describe", "--always", "--dirty"]),
                text("date", &["-u", "+%Y-%m-%d"]),
                self.arguments.rounds,
                self.arguments.seconds,
                self.arguments.seed,
                self.arguments.proxy_cpu,
                self.arguments.load_cpu,
                if self.has_priority { "on" } else { "off" },
                self.idle,
                if self.arguments.same_headers { "all of ours" } else { "X-Forwarded-For" }
            ),
        ];
        for peer in &self.peers {
            let version = peer.version();
            if !version.is_empty() {
                lines.push(format!("{}: {version} ({})", peer.name, peer.program.display()));
            }
        }
        lines.push(
            "Median [least–greatest] of the rounds; a ratio is the median of the rounds' ratios."
                .to_owned(),
        );
        lines.join("\n")
    }
}

/// A process of which one line is expected, and which is ended when it takes too long.
struct Bounded {
    child: Child,
    start: Instant,
    longest: Duration,
}

impl Bounded {
    /// Starts `setpriv` with these words.
    fn start(words: &[String], longest: Duration) -> Result<Self, String> {
        let mut command = Command::new("setpriv");
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| format!("setpriv: {e}"))?;
        Ok(Self { child, start: Instant::now(), longest })
    }

    /// Waits for its end and gives what it printed.
    fn finish(mut self) -> Result<String, String> {
        // What it prints fits a pipe: one line.
        let status = loop {
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                break status;
            }
            if self.start.elapsed() > self.longest {
                return Err(format!("the load took longer than {:?}", self.longest));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut text = String::new();
        if status.success() {
            self.child.stdout.take().map(|mut pipe| pipe.read_to_string(&mut text));
            return Ok(text.trim().to_owned());
        }
        self.child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut text));
        Err(format!("{status}: {}", text.trim()))
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        // It has usually ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A small generator of orders; the same seed gives the same rounds.
struct Order(u64);

impl Order {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % bound.max(1) as u64).unwrap_or(0)
    }

    fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}
