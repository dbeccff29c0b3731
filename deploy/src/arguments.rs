//! The command line of `apcera`.
//!
//! Deliberately absent: what the options mean for a role; `roles.rs` lays them over the file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use router::run::EngineChoice;

/// A cluster: router, API, job, health, package and instance managers.
#[derive(Parser)]
#[command(
    name = "apcera",
    disable_version_flag = true,
    args_conflicts_with_subcommands = true,
    after_help = "Without a command: `up`, the whole cluster in this process.\n\n\
        Environment:\n  APCERA_LOG         what is logged, for example info or jm=debug\n  \
        APCERA_LOG_FORMAT  json for machines\n\n\
        Exit codes: 0 done, 1 could not start or serve, 2 usage or a bad file"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) up: UpOptions,
    /// Log what happens, not only what went wrong.
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// The whole cluster in this process, its state in one directory.
    Up(UpOptions),
    /// Several roles in this process.
    Run(RunOptions),
    #[command(flatten)]
    Role(RoleCommand),
    /// Validate a cluster.conf without starting.
    Check(ConfigOption),
    /// Print the version.
    Version,
}

#[derive(Subcommand)]
pub(crate) enum RoleCommand {
    /// HTTP, HTTPS and TCP router, fed by the cluster.
    Router(RoleOptions),
    /// API server.
    Api(RoleOptions),
    /// Job manager.
    Jm(RoleOptions),
    /// Health manager.
    Hm(RoleOptions),
    /// Package manager.
    Pm(RoleOptions),
    /// Instance manager.
    Im(RoleOptions),
}

impl RoleCommand {
    pub(crate) fn split(self) -> (Role, RoleOptions) {
        match self {
            Self::Router(options) => (Role::Router, options),
            Self::Api(options) => (Role::Api, options),
            Self::Jm(options) => (Role::Jm, options),
            Self::Hm(options) => (Role::Hm, options),
            Self::Pm(options) => (Role::Pm, options),
            Self::Im(options) => (Role::Im, options),
        }
    }
}

/// A role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Router,
    Api,
    Jm,
    Hm,
    Pm,
    Im,
}

impl Role {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Api => "api",
            Self::Jm => "jm",
            Self::Hm => "hm",
            Self::Pm => "pm",
            Self::Im => "im",
        }
    }
}

#[derive(Args)]
pub(crate) struct UpOptions {
    /// Where everything is kept. Default: $XDG_STATE_HOME/apcera or ~/.local/state/apcera.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Port of the router for http; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) http: u16,
    /// Port of the router for https, self-signed; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    pub(crate) https: u16,
    /// Where the API listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8790")]
    pub(crate) api: SocketAddr,
    /// Where the router listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,
    /// Suffix of default routes. Names below .localhost lead here without any DNS.
    #[arg(long, value_name = "DOMAIN", default_value = "apcera.localhost")]
    pub(crate) domain: String,
    /// Dashboard and metrics of the router; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9901")]
    pub(crate) admin: SocketAddr,
    /// Ports that tcp routes may take when the port is `auto`.
    #[arg(long, value_name = "FIRST-LAST", default_value = "10000-19999", value_parser = conf::cluster::ports)]
    pub(crate) tcp_ports: std::ops::RangeInclusive<u16>,
    /// Ports that instances may get.
    #[arg(long, value_name = "FIRST-LAST", default_value = "20000-29999", value_parser = conf::cluster::ports)]
    pub(crate) instance_ports: std::ops::RangeInclusive<u16>,
    /// Threads of the router; one for each processor if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) cores: Option<u16>,
    /// How the router talks to the kernel. auto: io_uring where it is allowed, else epoll.
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub(crate) engine: Engine,
}

#[derive(Args)]
pub(crate) struct RunOptions {
    /// Roles, separated by commas: router, api, jm, hm, pm, im.
    #[arg(value_enum, value_delimiter = ',', required = true)]
    pub(crate) roles: Vec<Role>,
    #[command(flatten)]
    pub(crate) role: RoleOptions,
}

#[derive(Args)]
pub(crate) struct ConfigOption {
    /// The cluster's file.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// What one process may say otherwise than the file that all share.
#[derive(Args)]
pub(crate) struct RoleOptions {
    #[command(flatten)]
    pub(crate) file: ConfigOption,
    /// Where this process keeps its files.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// api: where to listen.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) api: Option<SocketAddr>,
    /// pm: where to listen.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) pm: Option<SocketAddr>,
    /// router: port for http.
    #[arg(long, value_name = "PORT")]
    pub(crate) http: Option<u16>,
    /// router: port for https.
    #[arg(long, value_name = "PORT")]
    pub(crate) https: Option<u16>,
    /// router: dashboard and metrics.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// router: how to talk to the kernel.
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub(crate) engine: Engine,
    /// im: host name, if not the machine's.
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// im: ports that instances may get.
    #[arg(long, value_name = "FIRST-LAST", value_parser = conf::cluster::ports)]
    pub(crate) instance_ports: Option<std::ops::RangeInclusive<u16>>,
    /// im: a tag more; may be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// im: end the instances too when this process is told to end. Without it they run on and are found again.
    #[arg(long)]
    pub(crate) stop_instances: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Engine {
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
