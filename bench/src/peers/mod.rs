//! The proxies that are compared: how each is configured for a row, as its own experts would, and started.
//!
//! The same for all: one worker on one CPU, access log off, keep-alive to the origin, `TCP_NODELAY`, the origin
//! asked by HTTP/1.1, the client's address told in `X-Forwarded-For`. Deliberately absent: anything that only one
//! of them is given. Where a peer has two ways to do a thing, the faster of the measured ones is taken.

mod blind;
mod haproxy;
mod nginx;
mod router;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What is spoken with the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// Bytes.
    Tcp,
}

/// What a proxy has to do in a row.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whom it forwards to.
    pub origin: SocketAddr,
    /// What is spoken with the client.
    pub protocol: Protocol,
    /// Hosts in its table, all forwarded to the origin.
    pub hosts: usize,
    /// Directory for its files.
    pub directory: PathBuf,
    /// Certificate and key, PEM.
    pub certificate: PathBuf,
    /// See `certificate`.
    pub key: PathBuf,
    /// The row moves bodies of a MiB; the peers get the buffers and splicing that are best for that and would cost
    /// memory or time elsewhere.
    pub bulk: bool,
    /// Every header that our router adds is added by the peers, too.
    pub same_headers: bool,
}

/// The kinds of proxies we can configure, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Ours.
    Router,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// No proxy at all: bytes from one socket to the other.
    Blind,
    /// A minimal HTTP relay of the engine comparison.
    Relay,
}

/// One proxy taking part.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name in the table.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its program.
    pub program: PathBuf,
    /// Additional words on its command line.
    pub options: Vec<String>,
}

impl Peer {
    /// Reads `name=path` or `name=path,option,…`; the kind is told by how the name begins.
    ///
    /// # Errors
    /// When the kind is unknown or the program does not exist.
    pub fn from_argument(text: &str) -> Result<Self, String> {
        let (name, rest) =
            text.split_once('=').ok_or_else(|| format!("{text}: expected name=path"))?;
        let mut words = rest.split(',');
        let program = PathBuf::from(words.next().unwrap_or_default());
        let kind = kind_of(name).ok_or_else(|| format!("{name}: not named like {}", kinds()))?;
        if !program.is_file() {
            return Err(format!("{}: no such program", program.display()));
        }
        Ok(Self {
            name: name.to_owned(),
            kind,
            program,
            options: words.map(str::to_owned).collect(),
        })
    }

    /// All that are found: ours beside this program, the others in `PATH`.
    pub fn find_all() -> Vec<Self> {
        let own = std::env::current_exe().unwrap_or_default();
        let beside = |name: &str| own.with_file_name(name);
        let new = |name: &str, kind, program| Self {
            name: name.to_owned(),
            kind,
            program,
            options: Vec::new(),
        };
        let mut all = vec![
            new("router", Kind::Router, beside("router")),
            new("nginx", Kind::Nginx, in_path("nginx")),
            new("haproxy", Kind::Haproxy, in_path("haproxy")),
            new("blind relay", Kind::Blind, beside("blind_relay")),
        ];
        if crate::load::has_io_uring() {
            // Which of the two floors is lower depends on the machine and the row.
            let options = ["--engine", "io-uring"].map(str::to_owned).to_vec();
            all.push(Self { options, ..new("blind uring", Kind::Blind, beside("blind_relay")) });
        }
        all.retain(|peer| peer.program.is_file());
        all
    }

    /// Writes the files for a setup and gives the command line; `None` when the proxy cannot do it.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn command(&self, setup: &Setup) -> Result<Option<Vec<String>>, String> {
        let arguments = match self.kind {
            Kind::Router => router::arguments(setup)?,
            Kind::Nginx => nginx::arguments(&self.program, setup)?,
            Kind::Haproxy => haproxy::arguments(setup)?,
            Kind::Blind => blind::arguments(setup),
            Kind::Relay => blind::arguments(setup).filter(|_| setup.protocol == Protocol::Http),
        };
        let program = self.program.display().to_string();
        Ok(arguments.map(|words| [vec![program], words, self.options.clone()].concat()))
    }

    /// The words that make `load feed` speak to this proxy's API; `None` when it has none that changes one host.
    pub fn feed_words(&self, setup: &Setup) -> Option<Vec<String>> {
        let (tongue, socket, subject) = match self.kind {
            Kind::Router => ("router", router::SOCKET, router::JOB.to_owned()),
            Kind::Haproxy => {
                ("haproxy", haproxy::SOCKET, haproxy::map(setup).display().to_string())
            }
            Kind::Nginx | Kind::Blind | Kind::Relay => return None,
        };
        let socket = setup.directory.join(socket).display().to_string();
        let known = crate::load::host(0, setup.hosts);
        let words = ["feed", "--tongue", tongue, "--socket", &socket, "--subject", &subject];
        let words = [&words[..], &["--known-host", &known]].concat();
        Some(words.into_iter().map(str::to_owned).collect())
    }

    /// What the program says about its version.
    pub fn version(&self) -> String {
        let word = match self.kind {
            Kind::Router => "version",
            Kind::Nginx | Kind::Haproxy => "-v",
            Kind::Blind | Kind::Relay => return String::new(),
        };
        let Ok(output) = std::process::Command::new(&self.program).arg(word).output() else {
            return "unknown version".to_owned();
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        text.lines().next().unwrap_or("").trim().to_owned()
    }
}

fn kinds() -> String {
    KINDS.map(|(name, _)| name).join(", ")
}

const KINDS: [(&str, Kind); 5] = [
    ("router", Kind::Router),
    ("nginx", Kind::Nginx),
    ("haproxy", Kind::Haproxy),
    ("blind", Kind::Blind),
    ("relay", Kind::Relay),
];

fn kind_of(name: &str) -> Option<Kind> {
    KINDS.into_iter().find(|(start, _)| name.starts_with(start)).map(|(_, kind)| kind)
}

/// The program of this name in `PATH` or where Debian puts servers; a path that does not exist when there is none.
fn in_path(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]);
    places
        .map(|place| Path::new(place).join(name))
        .find(|program| program.is_file())
        .unwrap_or_default()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// One line for every host of a setup.
fn lines_of_hosts(setup: &Setup, line: impl Fn(&str) -> String) -> String {
    (0..setup.hosts).fold(String::new(), |mut text, number| {
        let host = crate::load::host(number, setup.hosts);
        // Writing into a string cannot fail.
        writeln!(text, "{}", line(&host)).ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_by_path_need_a_known_kind_and_a_program() {
        let peer = Peer::from_argument("nginx-new=/bin/sh,-q,x").unwrap();
        assert_eq!((peer.kind, peer.options.len()), (Kind::Nginx, 2));
        assert!(Peer::from_argument("caddy=/bin/sh").unwrap_err().contains("router, nginx"));
        assert!(Peer::from_argument("nginx=/nowhere").unwrap_err().contains("no such"));
        assert!(Peer::from_argument("nginx").is_err());
    }
}
