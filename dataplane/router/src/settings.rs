//! What the program believes: total, checked once, cheap to copy, never read from text on the request path.
//!
//! `config/` is the only way from a file to these structs. Deliberately absent: parsing, and the route table.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::tls::CertificateFile;

/// Everything but the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen for plain HTTP.
    pub http: Vec<SocketAddr>,
    /// Where to listen for TLS. Needs at least one certificate.
    pub https: Vec<SocketAddr>,
    /// Where the admin API listens; `None`: nowhere.
    pub admin: Option<AdminAddress>,
    /// Threads that serve; `None`: one for each processor this process may use.
    pub cores: Option<u16>,
    /// Peers whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Certificates in the order of the file: the first is for clients without (known) server name.
    pub certificates: Vec<CertificateFile>,
    /// Bounds in bytes and numbers.
    pub limits: Limits,
    /// Bounds in time.
    pub timeouts: Timeouts,
    /// JSON access log; `None`: no log.
    pub access_log: Option<AccessLog>,
    /// How the metrics page is bounded.
    pub metrics: Metrics,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: Vec::new(),
            https: Vec::new(),
            admin: None,
            cores: None,
            trusted_proxies: Vec::new(),
            certificates: Vec::new(),
            limits: Limits::DEFAULT,
            timeouts: Timeouts::DEFAULT,
            access_log: None,
            metrics: Metrics::default(),
        }
    }
}

/// Where the admin API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A unix socket, made with mode 0600.
    Unix(PathBuf),
}

impl std::fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A receive buffer of the engine holds so many bytes: a head must fit one.
pub const HEAD_BYTES_CEILING: u32 = 16 * 1024;
/// The parser's fixed scratch holds so many fields.
pub const FIELDS_CEILING: u16 = 128;

/// Bounds in bytes and numbers. 0 means "no bound" only where it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request or response head; 431 or 502 above. At most [`HEAD_BYTES_CEILING`], so that parsing needs one buffer.
    pub head_bytes_max: u32,
    /// Request target (path and query); 414 above.
    pub target_bytes_max: u32,
    /// Header fields of a head; 431 above. At most [`FIELDS_CEILING`].
    pub fields_max: u16,
    /// Request body; 413 above. 0: no bound.
    pub body_bytes_max: u64,
    /// Client connections of one core.
    pub connections_max: u32,
    /// Requests on one client connection before it is closed politely. 0: no bound.
    pub connection_requests_max: u32,
    /// Kept connections to one instance, on one core.
    pub upstream_idle_max: u32,
    /// Tries for one exchange, the first included: other instances after failed connects.
    pub attempts_max: u8,
    /// Bytes of buffer pages that one core may hold.
    pub pages_bytes_max: u64,
}

impl Limits {
    /// What holds where the file says nothing.
    pub const DEFAULT: Self = Self {
        head_bytes_max: HEAD_BYTES_CEILING,
        target_bytes_max: 8_192,
        fields_max: 100,
        body_bytes_max: 0,
        connections_max: 100_000,
        connection_requests_max: 0,
        upstream_idle_max: 256,
        attempts_max: u8::MAX,
        pages_bytes_max: 512 * 1024 * 1024,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Bounds in time. Every state that waits for somebody else has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a head to its end; also for a TLS handshake. 408.
    pub head: Duration,
    /// A client connection between two requests, and before the first byte.
    pub client_idle: Duration,
    /// One attempt to connect to an instance.
    pub connect: Duration,
    /// All attempts of one exchange, so that retries cannot stretch a request. 502 or 504.
    pub connect_budget: Duration,
    /// An instance that owes the head of its answer, or more of the body. 504, or the connection is cut.
    pub origin_silence: Duration,
    /// A client that owes more of its body, or takes nothing of the answer.
    pub body_silence: Duration,
    /// A tunnel or TCP connection in which nothing moves either way.
    pub tunnel_idle: Duration,
    /// A kept connection to an instance.
    pub upstream_idle: Duration,
    /// From SIGTERM to the end, whatever still runs.
    pub drain: Duration,
}

impl Timeouts {
    /// What holds where the file says nothing.
    pub const DEFAULT: Self = Self {
        head: Duration::from_secs(10),
        client_idle: Duration::from_secs(75),
        connect: Duration::from_secs(1),
        connect_budget: Duration::from_secs(5),
        origin_silence: Duration::from_secs(60),
        body_silence: Duration::from_secs(60),
        tunnel_idle: Duration::from_secs(3_600),
        upstream_idle: Duration::from_secs(60),
        drain: Duration::from_secs(30),
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// JSON access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where to.
    pub target: crate::access_log::Target,
    /// One in so many exchanges that went well is logged; those that went wrong all are. 1: all.
    pub sample: u32,
}

/// How the metrics page is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Routes, and likewise instances, printed by name: the busiest. The rest is summed up as `other`.
    pub series_max: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { series_max: 500 }
    }
}
