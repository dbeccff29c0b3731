//! Verbs and flags of `app` and `job`.
//!
//! Deliberately absent: what they do (`commands::app`, `commands::life`).

use clap::{Args, Subcommand, ValueEnum};

/// `apc app …`
#[derive(Debug, Subcommand)]
pub(crate) enum AppVerb {
    /// Make an application from a directory and start it
    Create(Box<CreateFlags>),
    /// Bring a changed directory, and changed settings, to an application
    Deploy(Box<DeployFlags>),
    /// Change settings
    Update(Box<UpdateFlags>),
    /// Change the number of instances
    Scale {
        /// Which application
        name: String,
        /// How many
        count: Option<u32>,
        /// How many
        #[arg(long, short = 'i', value_name = "N", conflicts_with = "count")]
        instances: Option<u32>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Start it
    Start(Named),
    /// Stop it
    Stop(Named),
    /// Replace its instances by new ones
    Restart(Named),
    /// Delete it, and its package if nobody else uses it
    Delete(Named),
    /// List applications
    List(ListFlags),
    /// Show one
    Show {
        /// Which application
        name: String,
    },
    /// Show what it wrote
    Logs(LogFlags),
    /// Show its instances
    Instances {
        /// Which application
        name: String,
    },
    /// Show how many instances run
    Health {
        /// Which application
        name: String,
    },
}

/// `apc job …`
#[derive(Debug, Subcommand)]
pub(crate) enum JobVerb {
    /// Change settings
    Update(Box<UpdateFlags>),
    /// Start it
    Start(Named),
    /// Stop it
    Stop(Named),
    /// Replace its instances by new ones
    Restart(Named),
    /// Delete it
    Delete(Named),
    /// List jobs
    List(ListFlags),
    /// Show one
    Show {
        /// Which job
        name: String,
    },
    /// Show what it wrote
    Logs(LogFlags),
    /// Show its instances
    Instances {
        /// Which job
        name: String,
    },
    /// Show how many instances run
    Health {
        /// Which job
        name: String,
    },
}

/// A job, and how long to wait for it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Named {
    /// Its name: web, /sandbox/admin::web or job::/sandbox/admin::web
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// How long to wait until what was asked for is so.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Wait {
    /// Wait so long until it is done; it goes on afterwards
    #[arg(long, value_name = "TIME")]
    pub(crate) wait_timeout: Option<String>,
    /// Do not wait
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// When an ended instance is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RestartMode {
    /// Always
    #[value(alias = "yes")]
    Always,
    /// Never
    No,
    /// When it failed
    Failure,
}

/// How a new version replaces an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rollout {
    /// All old instances stop, then new ones start
    #[value(name = "stop_all", alias = "stop-all")]
    StopAll,
    /// A new instance runs before an old one stops
    Rolling,
}

/// Settings that `create`, `deploy` and `update` share.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct JobFlags {
    /// How many instances run
    #[arg(long, short = 'i', value_name = "N")]
    pub(crate) instances: Option<u32>,
    /// Memory of each instance, such as 256MB
    #[arg(long, short = 'm', value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Disk of each instance, such as 1GB
    #[arg(long, short = 'd', value_name = "SIZE")]
    pub(crate) disk: Option<String>,
    /// Processor time of each instance, in milliseconds per second; 0 = uncapped
    #[arg(long, visible_alias = "cpus", value_name = "MS")]
    pub(crate) cpu: Option<String>,
    /// Bandwidth that each instance needs at least, such as 5Mbps
    #[arg(long, value_name = "RATE")]
    pub(crate) netmin: Option<String>,
    /// Bandwidth that each instance gets at most; 0 = uncapped
    #[arg(long, value_name = "RATE")]
    pub(crate) netmax: Option<String>,
    /// The command that runs, for a shell
    #[arg(long, visible_aliases = ["start-command", "sc"], value_name = "COMMAND")]
    pub(crate) start_cmd: Option<String>,
    /// The command that ends it; none = the TERM signal
    #[arg(long, visible_alias = "stop-command", value_name = "COMMAND")]
    pub(crate) stop_cmd: Option<String>,
    /// It must listen on its ports within this time, such as 30s
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<String>,
    /// It may take so long for its last requests, and again to end
    #[arg(long, value_name = "TIME")]
    pub(crate) stop_timeout: Option<String>,
    /// When an ended instance is replaced; without a mode: replace the instances now
    #[arg(long, value_name = "MODE", value_enum, num_args = 0..=1, require_equals = true)]
    #[expect(clippy::option_option, reason = "absent, bare, with a mode: the parser's own form")]
    pub(crate) restart: Option<Option<RestartMode>>,
    /// Give up after so many failures in a row; 0 = never
    #[arg(long, value_name = "N")]
    pub(crate) max_attempts: Option<u32>,
    /// How a new version replaces an old one
    #[arg(long, value_name = "MODE", value_enum)]
    pub(crate) rollout: Option<Rollout>,
    /// Set a variable of the environment; may be repeated
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env_set: Vec<String>,
    /// Take a variable away; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) env_unset: Vec<String>,
    /// Expose a port; 0 = chosen at start and told in PORT; may be repeated
    #[arg(long, visible_alias = "pa", value_name = "PORT")]
    pub(crate) port_add: Vec<u16>,
    /// Close a port, with its routes; may be repeated
    #[arg(long, visible_alias = "pd", value_name = "PORT")]
    pub(crate) port_delete: Vec<u16>,
    /// Nothing needs to listen on the ports that are added
    #[arg(long, short = 'o')]
    pub(crate) optional: bool,
    /// Which clients may use the routes: "allow 128.66.3.0/24, deny 0.0.0.0/0"; "" = all
    #[arg(long, value_name = "RULES")]
    pub(crate) client_acl: Option<String>,
    /// Only instance managers with these tags; !tag = only those without; "" = all
    #[arg(long, value_name = "TAGS")]
    pub(crate) hard_tags: Option<String>,
    /// Rather instance managers with these tags; "" = all
    #[arg(long, value_name = "TAGS")]
    pub(crate) soft_tags: Option<String>,
    /// Cookies that make a client stay with its instance
    #[arg(long, value_name = "NAMES")]
    pub(crate) sticky_session_cookies: Option<String>,
    /// Clients stay with no instance
    #[arg(long, conflicts_with = "sticky_session_cookies")]
    pub(crate) no_sticky_session_cookies: bool,
    /// Mark it for people and tools; an empty value takes the mark away; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Add a package, laid over those that are there; may be repeated
    #[arg(long, value_name = "NAME[=/PATH]")]
    pub(crate) pkg_add: Vec<String>,
    /// Take a package away; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) pkg_delete: Vec<String>,
    /// User inside the container
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Group inside the container
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// Instances may connect outwards; plain processes always may
    #[arg(long, visible_alias = "ae")]
    pub(crate) allow_egress: bool,
    /// Refuse a change that needs a restart of a started job
    #[arg(long)]
    pub(crate) no_restart: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `apc app update`, `apc job update`
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct UpdateFlags {
    /// Its name: web, /sandbox/admin::web or job::/sandbox/admin::web
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) job: JobFlags,
}

/// What `create` and `deploy` make an application from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Source {
    /// Its name: web, /sandbox/admin::web or job::/sandbox/admin::web; that in continuum.conf if not given
    pub(crate) name: Option<String>,
    /// The directory; the current one if not given
    pub(crate) directory: Option<String>,
    /// The directory
    #[arg(long, short = 'p', value_name = "DIR")]
    pub(crate) path: Option<String>,
    /// A continuum.conf; the one in the directory if not given
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<String>,
    /// A new application answers under these endpoints, instead of one that the cluster chooses
    #[arg(long, short = 'r', value_name = "LIST")]
    pub(crate) routes: Option<String>,
    /// A new application has no port and no route
    #[arg(long, visible_alias = "dr")]
    pub(crate) disable_routes: bool,
    /// Plain requests to a new application are redirected to https
    #[arg(long, visible_alias = "ho")]
    pub(crate) https_only: bool,
}

/// `apc app create`
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CreateFlags {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) job: JobFlags,
    /// Start it (this is so unless told otherwise)
    #[arg(long, conflicts_with = "no_start")]
    pub(crate) start: bool,
    /// Do not start it
    #[arg(long)]
    pub(crate) no_start: bool,
}

/// `apc app deploy`
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DeployFlags {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) job: JobFlags,
    /// Do not start it
    #[arg(long)]
    pub(crate) no_start: bool,
}

/// `apc app list`, `apc job list`
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ListFlags {
    /// With full names and ids
    #[arg(long, short = 'l')]
    pub(crate) long: bool,
    /// Of all namespaces
    #[arg(long)]
    pub(crate) all: bool,
    /// Only those that use this package
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) filter_by_package: Option<String>,
}

/// `apc app logs`, `apc job logs`
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogFlags {
    /// Of which job
    pub(crate) name: String,
    /// The newest so many lines, at most 1500
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) lines: usize,
    /// Go on with what is written from now on
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
}
